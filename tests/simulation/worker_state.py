"""The oracle's knowledge of one worker at one instant, and what may come next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self, TypeAlias

from simulation.keys import Keys
from simulation.lane_model import Outcome, Reading
from simulation.model import Proc
from simulation.scenario import AnyCommand, Scenario, Send, Spawn, WaitIdle

if TYPE_CHECKING:
    from simulation.stage import Log

Step: TypeAlias = tuple[str, int]
"""An event, and its process or command."""

CALLING = ("calling", "called", "refused", "crowded")
"""Phases of a call that waits: until its process is ready, for its answer, for the end of its process, for room."""


class WorkerState:
    """What is known of one worker at one instant, and what may come next."""

    def __init__(
        self, scenario: Scenario, worker: int, outcomes: Mapping[int, tuple[float, Outcome]], log: Log
    ) -> None:
        self.scenario, self.worker, self.plan = scenario, worker, scenario.workers[worker]
        self.outcomes, self.stops = outcomes, log.stops
        self.log = log  # what processes have heard of calls
        self.now = 0.0
        self.commands: dict[int, AnyCommand] = {
            number: command for number, command in enumerate(scenario.commands) if command.worker == worker
        }
        self.begins: dict[int, float] = {
            number: math.inf if isinstance(command, Spawn) and command.after_end_of is not None else command.at
            for number, command in self.commands.items()
        }
        self.phases: dict[int, str] = {}
        self.cancelled: dict[int, bool] = {}
        self.live: dict[int, Proc] = {}
        self.started: dict[int, Proc] = {}  # all that ever were, as they are now or were last
        self.handles: frozenset[int] = frozenset()
        self.keys = Keys()
        self.disowned: frozenset[int] = frozenset()  # ended by themselves as their spawns were cancelled
        self.is_closed = False
        self.ahead: tuple[tuple[float, str], ...] = tuple(
            sorted(
                [
                    (self.plan.block.left_at, "unload"),
                    (scenario.host.left_at, "unload"),
                    *((at, "kill") for at in scenario.kills),
                ]
            )
        )

    def copy(self) -> Self:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.begins, new.phases, new.cancelled = dict(self.begins), dict(self.phases), dict(self.cancelled)
        new.live = {number: process.copy() for number, process in self.live.items()}
        # One that has ended does not change, but readers may still be at its streams.
        ended = {number: process.copy() for number, process in self.started.items() if process.calls.streams}
        new.started = {**self.started, **ended, **new.live}
        new.keys = self.keys.copy()
        return new

    def key(self) -> tuple[object, ...]:
        """Return a key that differs if the state does."""
        return (
            self.now,
            self.is_closed,
            self.ahead,
            self.handles,
            self.keys.key(),
            tuple(sorted(self.disowned)),
            tuple(self.begins.items()),
            tuple(sorted(self.phases.items())),
            tuple(sorted(self.cancelled)),
            tuple(process.values() for process in self.started.values()),  # some wait for ended ones
        )

    # What may come next.

    def steps(self) -> list[Step]:
        """List what may happen at this instant without the log's showing it beforehand."""
        now = self.now
        steps: list[Step] = [(what, place) for place, (at, what) in enumerate(self.ahead) if at <= now]
        steps += [("disown", number) for number in sorted(self.disowned)]
        for number, begin in self.begins.items():
            phase = self.phases.get(number)
            if phase == "over":
                continue
            if begin <= now and phase is None:
                steps.append(("begin", number))
            if self.commands[number].cancelled_at <= now and number not in self.cancelled and begin <= now:
                steps.append(("cancel", number))
            if phase == "turned":
                steps.append(("take turn", number))
            elif phase == "queued" and self.is_closed:
                steps.append(("refuse", number))
            elif phase in ("called off", "waiting") and number in self.cancelled:
                steps.append(("give up", number))
            elif phase == "sending" and self._target(number).launch == "launched":
                steps.append(("put", number))
            elif phase in CALLING:
                if self.call_ends(number) <= now:
                    steps.append(("time out", number))
                process = self.started[self.call_target(number)]
                is_stopping = process.state == "stopping" and process.end is None
                if (
                    (phase == "crowded" and (is_stopping or process.calls.has_been_closed))
                    or (phase == "calling" and process.state != "starting")
                    or (phase == "refused" and is_stopping and begin == now)  # it looks once more before it waits
                ):
                    steps.append(("call", number))
            elif phase == "idling" and not self.started[self._idler(number)].calls.pending:
                steps.append(("be idle", number))
            elif phase == "reading":
                steps += self._reading_steps(number)
        for number, process in self.live.items():
            if process.has_sent_nonsense:
                steps.append(("nonsense", number))
            calls = process.calls
            if calls.is_open and calls.said and not calls.is_broken:
                steps.append(("hear calls", number))
            if any(at <= now for at, _ in calls.uncaused):
                steps.append(("settle calls", number))
            if process.exit is not None:
                steps.append(("exit", number))
                continue
            if process.control:
                steps.append(("listen", number))
            if process.deadline()[0] <= now:
                steps.append(("judge", number))
            if calls.closed_at <= now:
                steps.append(("miss calls", number))
        return steps

    def next_time(self) -> float:
        """Return when something is due next, if nothing happens before."""
        times = [at for at, _ in self.ahead]
        for number, begin in self.begins.items():
            if self.phases.get(number) is None:
                times.append(begin)
            elif self.phases[number] != "over" and number not in self.cancelled:
                times.append(self.commands[number].cancelled_at)
            if self.phases.get(number) in CALLING:
                times.append(self.call_ends(number))
            elif self.phases.get(number) == "reading":
                stream = self.reading(number)
                times.append(
                    stream.read_at if stream.read_at > self.now else max(stream.read_at, self.call_ends(number))
                )
        for process in self.live.values():
            times += [at for at, _ in process.calls.uncaused]
            if process.exit is None:
                times += [process.deadline()[0], process.calls.closed_at]
        return min(times, default=math.inf)

    def overdue(self) -> str | None:
        """Return what should have happened at this instant, and has not."""
        for process in self.live.values():
            if process.launch == "asked for" or (
                process.launch == "called off" and not process.part.is_launched_regardless
            ):
                return f"process {process.number}: its launch is {process.launch}, and nothing comes of it"
        return None

    def _reading_steps(self, number: int) -> list[Step]:
        stream = self.reading(number)
        if stream.read_at > self.now:
            return []
        if stream.done == len(self.scenario.stream(number).reads):
            return [("leave", number)]
        is_over = stream.over is not None or stream.is_timed_out
        steps: list[Step] = [("receive", number)] if stream.held or is_over else []
        if not is_over and self.call_ends(number) <= self.now:
            steps.append(("run out", number))
        return steps

    def reading(self, number: int) -> Reading:
        """Tell how far the reader of a stream has come."""
        return self.started[self.call_target(number)].calls.streams[number]

    def call_ends(self, number: int) -> float:
        """Tell when a call times out."""
        command = self.scenario.call(number)
        return command.at + command.timeout

    def _idler(self, number: int) -> int:
        command = self.commands[number]
        assert isinstance(command, WaitIdle), f"command {number} waits for no calls"
        return command.target

    def call_target(self, number: int) -> int:
        """Tell which process is called."""
        return self.scenario.call(number).target

    def _target(self, number: int) -> Proc:
        command = self.commands[number]
        assert isinstance(command, Send), "only messages wait for a launch"
        return self.started[command.target]
