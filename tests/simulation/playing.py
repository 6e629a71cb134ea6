"""Plays a scenario with a real host in virtual time, and writes down what comes of it."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs
import trio
from trio.testing import MockClock

import spindle_trio as spindle
from simulation.scenario import (
    FOREVER,
    AnyCommand,
    Block,
    Call,
    Get,
    List,
    ReleaseKey,
    Scenario,
    Send,
    Spawn,
    Stop,
    Stream,
    Wait,
    WaitIdle,
    entry_of,
    method_of,
)
from simulation.stage import Log, StageLauncher, now
from spindle_trio import Limits, ProcessState
from spindle_trio._host._worker_scope import WorkerScope
from spindle_trio._model import CallRequest, Overrun

if TYPE_CHECKING:
    from spindle_trio import Host, LifecycleEvent, MessageReceiveChannel, ProcessHandle, ProcessMessage, Worker
    from spindle_trio._interfaces import CallsInterface
    from spindle_trio._messages._broadcast import LifecycleChannel

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
MOST_PASSES = 1_000
"""Times that the scheduler goes round at one instant. A few dozen are usual."""


@attrs.frozen
class Seen:
    """What an event says."""

    previous: str | None
    state: str
    exit_reason: str | None
    error: str | None
    result: object
    at: float


class Mishap(Exception):
    """What ends a block by error."""


def play(scenario: Scenario, seed: int) -> Log:
    """Play it once, with Trio's scheduler seeded, and return the log."""
    player = _Player(scenario)
    run_by_lot(player.play, seed, player.log)
    return player.log


def run_by_lot(main: Callable[[], Awaitable[None]], seed: int, log: Log) -> None:
    """Run it in virtual time, with Trio's scheduler seeded, and without log records."""
    run = trio._core._run
    before, generator = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()
    silenced = logging.root.manager.disable
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    logging.disable(logging.CRITICAL)
    try:
        clock = MockClock(autojump_threshold=0)
        trio.run(main, clock=clock, instruments=[_Patience(clock, log)])
    finally:
        logging.disable(silenced)
        run._ALLOW_DETERMINISTIC_SCHEDULING = before
        run._r.setstate(generator)


class _Patience(trio.abc.Instrument):
    """Notes it when the host is busy without end, which in virtual time means for ever, and has time pass then."""

    def __init__(self, clock: MockClock, log: Log) -> None:
        self._clock, self._log = clock, log
        self._now, self._passes = -1.0, 0

    def after_io_wait(self, timeout: float) -> None:
        now = self._clock.current_time()
        self._passes = self._passes + 1 if now == self._now else 0
        self._now = now
        if self._passes > MOST_PASSES:
            self._log.remarks.append(f"at {now} the host is busy, and nothing comes of it")
            self._clock.jump(1 / 64)


class _Player:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.log = Log()
        self.ids: dict[int, str] = {}
        self.numbers: dict[str, int] = {}
        self.handles: dict[int, ProcessHandle] = {}
        self.post_mortems: dict[int, spindle.PostMortem | None] = {}
        self.workers: dict[int, Worker] = {}
        self.events: dict[int, LifecycleChannel[LifecycleEvent]] = {}
        self.nursery: trio.Nursery
        self.launcher = StageLauncher(
            {
                entry_of(number): (number, command.worker, command.part)
                for number, command in enumerate(scenario.commands)
                if isinstance(command, Spawn) and command.entry_exists
            },
            {number: command.handler for number, command in enumerate(scenario.commands) if isinstance(command, Call)},
            self.log,
        )

    async def play(self) -> None:
        scenario = self.scenario
        with trio.move_on_after(FOREVER) as patience:
            async with trio.open_nursery() as self.nursery:
                with trio.CancelScope(deadline=cancelled_at(scenario.host)):
                    try:
                        async with self._open_host() as host:
                            await self._fill(host)
                            await leave_block(scenario.host)
                    except Mishap:
                        pass
                self.log.left[None] = now()
                self._look_for_what_is_left(host)
        if patience.cancelled_caught:
            self.log.remarks.append("it goes on for ever")
        else:
            self._read_the_rest()

    def _open_host(self) -> AbstractAsyncContextManager[Host]:
        scenario, serial = self.scenario, iter(range(10**9))
        return spindle.open_host(
            self.launcher,
            grace_period=scenario.grace_period,
            max_processes=scenario.max_processes,
            limits=Limits(
                inbox_messages=scenario.inbox_messages, **({"outbox_bytes": 1} if scenario.is_narrow else {})
            ),
            cancel_grace=scenario.cancel_grace,
            environment={},
            new_process_id=lambda: f"process-{next(serial)}",
            wall_clock=lambda: EPOCH,
        )

    async def _fill(self, host: Host) -> None:
        for number in range(len(self.scenario.workers)):
            await self.nursery.start(self._keep_worker, host, number)
        for number, command in enumerate(self.scenario.commands):
            if not (isinstance(command, Spawn) and command.after_end_of is not None):
                self.nursery.start_soon(self._carry_out, number, command)
        for at in self.scenario.kills:
            self.nursery.start_soon(self._kill, host, at)

    async def _kill(self, host: Host, at: float) -> None:
        await trio.sleep_until(at)
        host.kill()

    async def _keep_worker(self, host: Host, number: int, task_status: trio.TaskStatus[None]) -> None:
        plan = self.scenario.workers[number]
        with trio.CancelScope(deadline=cancelled_at(plan.block)):
            try:
                async with host.open_worker(f"worker-{number}", user_id=plan.user_id) as worker:
                    self._listen(number, worker)
                    task_status.started()
                    await leave_block(plan.block)
            except Mishap:
                pass
        self.log.left[number] = now()

    def _listen(self, number: int, worker: Worker) -> None:
        self.workers[number] = worker
        processes = worker.backend_processes
        processes.on_lifecycle(lambda event: self._note_event(number, event))
        self.events[number] = processes.lifecycle_events()
        if self.scenario.workers[number].listens:
            processes.on_message(lambda message: self._note_message(number, message))
            self.nursery.start_soon(self._read_messages, number, processes.messages())

    async def _read_messages(self, number: int, messages: MessageReceiveChannel[ProcessMessage]) -> None:
        """Read all that a worker's processes send, as it comes."""
        read = self.log.channel_messages[number] = []
        async for message in messages:
            read.append((self.numbers[message.process_id], message.payload))  # noqa: PERF401  # as they come

    def _note_event(self, worker: int, event: LifecycleEvent) -> None:
        assert event.metadata is not None, "each spawn has a number in its metadata"
        number = int(str(event.metadata["number"]))
        if event.previous_state is None:
            self.ids[number] = event.process_id
            self.numbers[event.process_id] = number
        at = round((event.at - EPOCH) / timedelta(seconds=1), 6)
        error = event.error if event.post_mortem is None else event.post_mortem.error
        seen = Seen(event.previous_state, event.state, event.exit_reason, error, event.result, at)
        self.log.note(worker, "event", number, seen)
        if event.state.is_terminal:
            self.post_mortems[number] = event.post_mortem
            for after, command in enumerate(self.scenario.commands):
                if isinstance(command, Spawn) and command.after_end_of == number:
                    self.nursery.start_soon(self._carry_out, after, command)

    def _note_message(self, worker: int, message: ProcessMessage) -> None:
        self.log.note(worker, "message", self.numbers[message.process_id], message.payload)

    # Commands.

    async def _carry_out(self, number: int, command: AnyCommand) -> None:
        if not (isinstance(command, Spawn) and command.after_end_of is not None):
            await trio.sleep_until(command.at)
        outcome: tuple[object, ...] = ("cancelled",)
        with trio.CancelScope(deadline=command.cancelled_at) as scope:
            if isinstance(command, Call) and command.is_cancelled_by_hand:
                scope.deadline = math.inf
                self.nursery.start_soon(self._cancel_by_hand, scope, command.cancelled_at)
            try:
                outcome = await self._ask(number, command)
            except (spindle.SpindleError, trio.ClosedResourceError, trio.BrokenResourceError) as error:
                outcome = self._described(error)
        if not isinstance(command, Stream):
            self.log.note(command.worker, "outcome", number, outcome)

    async def _cancel_by_hand(self, scope: trio.CancelScope, at: float) -> None:
        await trio.sleep_until(min(at, FOREVER - 1))
        scope.cancel()

    def _described(self, error: Exception) -> tuple[object, ...]:
        match error:
            case spindle.DuplicateKeyError():
                return type(error).__name__, self.numbers.get(error.existing.process_id)
            case spindle.StartupCancelledError():
                return (type(error).__name__,)
            case spindle.SpawnError():
                return type(error).__name__, error.info.state.value
            case spindle.ProcessLostError():
                number = self.numbers[error.info.process_id]
                if error.info.state.is_terminal and error.post_mortem != self.post_mortems.get(number):
                    self.log.remarks.append(f"process {number}: a lost call has {error.post_mortem}")
                return type(error).__name__, error.handed_over, error.info.state.value
            case spindle.UnknownMethodError():
                return type(error).__name__, *error.known
            case spindle.CallFailedError():
                return type(error).__name__, error.error_type
            case _:
                return (type(error).__name__,)

    async def _ask(self, number: int, command: AnyCommand) -> tuple[object, ...]:
        processes = self.workers[command.worker].backend_processes
        match command:
            case Spawn():
                if command.successor_of is not None and command.successor_of not in self.ids:
                    self.log.unknown.add(number)
                handle = self.handles[number] = await processes.spawn(
                    entry_of(number),
                    kind=command.kind,
                    key=command.key,
                    payload={"number": number},
                    metadata={"number": number},
                    user_id=command.user_id,
                    startup_timeout=command.startup_timeout,
                    heartbeat_timeout=command.heartbeat_timeout,
                    resource_limits=_limits_of(command),
                    replace_existing=command.replace_existing,
                    grace_period=command.grace_period,
                    replace_grace=command.replace_grace,
                    keep_key=command.keep_key,
                    successor_of=None if command.successor_of is None else self._id(command.successor_of),
                )
                return "returned", self.numbers[handle.process_id]
            case Stop():
                await processes.stop(
                    self._id(command.target),
                    user_id=command.user_id,
                    reason=command.reason,
                    grace=command.grace,
                    keep_key=command.keep_key,
                )
                return ("returned",)
            case ReleaseKey():
                await processes.release_key(self._id(command.target), user_id=command.user_id)
                return ("returned",)
            case Send():
                await processes.send(self._id(command.target), number, user_id=command.user_id)
                return ("returned",)
            case List():
                infos = await processes.list(
                    user_id=command.user_id,
                    kind=command.kind,
                    key=command.key,
                    state=None if command.state is None else ProcessState(command.state),
                )
                return "listed", *((self.numbers[info.process_id], info.state.value) for info in infos)
            case Get():
                info = await processes.get(self._id(command.target))
                return "got", None if info is None else info.state.value
            case Wait():
                handle = self._handle(command)
                if handle is None:
                    return ("no handle",)
                ended = await handle.wait_ended()
                times = (ended.started_at, ended.ready_at, ended.last_heartbeat_at, ended.ended_at)
                return "ended", ended.state.value, *map(_seconds, times)
            case WaitIdle():
                handle = self._handle(command)
                if handle is None:
                    return ("no handle",)
                await handle.wait_idle()
                return ("idle",)
            case Stream():
                await self._read(number, command)
                return ()
            case Call():
                return "answered", await self._call(number, command)

    async def _call(self, number: int, command: Call) -> object:
        """Call a process, which may have been spawned and not be ready: a connection calls such a one as well."""
        overrun: Overrun = "kill" if command.kills else "leave"
        handle = self._handle(command)
        if handle is not None:
            return await handle.call(method_of(number), number, timeout=command.timeout, overrun=overrun)
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self._calls(command).call(CallRequest(method_of(number), number, command.timeout, overrun))

    async def _read(self, number: int, command: Stream) -> None:
        """Read a stream, and note what has ended that in the very step in which it is closed."""
        outcome: tuple[object, ...] | None = None
        received = self.log.items[number] = []
        try:
            async with self._open_stream(number, command) as items:
                outcome = ("cancelled",)
                try:
                    for pause in command.reads:
                        if pause:
                            await trio.sleep(pause)
                        item = await items.receive()
                        received.append((now(), item))
                    outcome = ("left",)
                except trio.EndOfChannel:
                    outcome = ("ended",)
                except spindle.CallError as error:
                    outcome = self._described(error)
                finally:
                    items.close()
                    self.log.note(command.worker, "outcome", number, outcome)
        except trio.Cancelled:
            if outcome is None:
                self.log.note(command.worker, "outcome", number, ("cancelled",))
            raise
        except (spindle.SpindleError, trio.ClosedResourceError, trio.BrokenResourceError) as error:
            self.log.note(command.worker, "outcome", number, self._described(error))

    @asynccontextmanager
    async def _open_stream(
        self, number: int, command: Stream
    ) -> AsyncGenerator[spindle.MessageReceiveChannel[spindle.JsonValue]]:
        """Open a stream in the same ways as a call."""
        overrun: Overrun = "kill" if command.kills else "leave"
        method, timeout, window = method_of(number), command.timeout, command.window
        handle = self._handle(command)
        if handle is not None:
            async with handle.stream(method, number, timeout=timeout, window=window, overrun=overrun) as items:
                yield items
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
            stream = await self._calls(command).open_stream(CallRequest(method, number, timeout, overrun, window))
            yield stream

    def _handle(self, command: Call | Wait | WaitIdle) -> ProcessHandle | None:
        is_own = command.worker == self.scenario.spawn(command.target).worker
        return self.handles.get(command.target) if is_own else None

    def _calls(self, command: Call) -> CallsInterface:
        port = self.workers[command.worker].backend_processes._port
        assert isinstance(port, WorkerScope)
        return port.find_calls(self._id(command.target), None)

    def _id(self, number: int) -> str:
        return self.ids.get(number, f"unknown {number}")

    # Afterwards.

    def _look_for_what_is_left(self, host: Host) -> None:
        statistics = host.statistics()
        left = (statistics.processes, statistics.queued, statistics.abandoned, len(self.launcher.live))
        if any(left):
            self.log.remarks.append(f"left behind (processes, queued, abandoned, launched): {left}")

    def _read_the_rest(self) -> None:
        """Read what waits for a late reader, and what the channels of events have."""
        for number, events in self.events.items():
            read = self.log.channel_events[number] = []
            try:
                while True:
                    event = events.receive_nowait()
                    read.append((self.numbers[event.process_id], event.state.value))
            except trio.EndOfChannel:
                pass
            except trio.WouldBlock:
                self.log.remarks.append(f"worker {number}: its channel of events has not ended")
        for number, handle in self.handles.items():
            held: list[object] = []
            channel = handle.messages()
            try:
                while True:
                    held.append(channel.receive_nowait())
            except trio.EndOfChannel:
                pass
            except trio.WouldBlock:
                self.log.remarks.append(f"process {number}: its channel of messages has not ended")
            statistics = handle.statistics()
            self.log.held[number] = held, statistics.messages_received, statistics.messages_dropped
            self.log.late[number] = statistics.calls, statistics.late_answers


async def leave_block(block: Block) -> None:
    """Leave a block when and how the scenario says."""
    if block.how == "cancel":
        await trio.sleep_forever()
    await trio.sleep_until(block.left_at)
    if block.how == "error":
        raise Mishap


def cancelled_at(block: Block) -> float:
    return block.left_at if block.how == "cancel" else math.inf


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else round((time - EPOCH) / timedelta(seconds=1), 6)


def _limits_of(command: Spawn) -> spindle.ResourceLimits | None:
    return None if command.run_seconds == math.inf else spindle.ResourceLimits(run_seconds=command.run_seconds)
