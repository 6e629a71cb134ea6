"""The oracle's model of one process, which ends as the table of states in `support` says.

Nothing here is taken from the library. What the contract says is decided here in straight lines; what it leaves open,
which of several things that happen at the very same instant comes first, is `worker_model`'s to try.
"""

from __future__ import annotations

import math
import signal
from typing import TypeAlias

from simulation.lane_model import CallsLane
from simulation.scenario import ABANDONMENT, PATIENCE, Act, Spawn, method_of
from support.state_table import follows


class Refuted(Exception):
    """The log breaks the contract."""


class Told:
    """An event, a kill or the outcome of a call that the log has to show next, as a value to compare with."""

    __slots__ = ("error", "number", "previous", "reason", "result", "state")

    def __init__(
        self,
        number: int,
        state: str,
        previous: str | None = None,
        reason: str | None = None,
        error: str | None = None,
        result: object = None,
    ) -> None:
        self.number, self.state, self.previous = number, state, previous
        self.reason, self.error, self.result = reason, error, result

    def __repr__(self) -> str:
        why = "" if self.reason is None else f" ({self.reason}, {self.error!r})"
        return f"process {self.number}: {self.previous} → {self.state}{why}"


KILL = "killed"
OUTCOME = "outcome"
PARTED = "…"
"""Stands in an expected error for whatever the real one says there."""
ON_CALLS_LANE = {
    *("answer", "raise", "refuse", "say cancelled", "item", "push", "end"),
    *("answer nobody", "answer nonsense", "close calls"),
}
"""What a process does on its calls lane."""

Stops: TypeAlias = "dict[int, list[tuple[float, str | None]]]"


KEPT_APART = ("spawn", "part", "calls")
"""Attributes of a process that never change, and its calls."""


class Proc:
    """One process. All attributes are plain values, so that a copy is cheap."""

    def __init__(
        self, number: int, spawn: Spawn, user: str, kind: str, now: float, grace: float, cancel_grace: float
    ) -> None:
        self.number, self.spawn, self.part = number, spawn, spawn.part
        self.user, self.kind, self.key = user, kind, (spawn.key or "").strip() or None
        self.grace = grace if spawn.grace_period is None else spawn.grace_period
        self.cancel_grace = cancel_grace
        self.calls = CallsLane(self.part.call_room, cancel_grace)
        self.state = "starting"
        self.launch = "asked for"  # launching, called off, launched
        self.started_at, self.startup_at = now, now + spawn.startup_timeout
        self.ready_at: float | None = None
        self.beat_at: float | None = None
        self.page = -math.inf
        self.kill_at = self.closed_at = self.abandoned_at = math.inf
        self.end: tuple[str, str] | None = None
        self.error: str | None = None
        self.result: object = None
        self.host_reason: str | None = None
        self.stop_reason: str | None = None
        self.is_stop_expected: bool = False
        self.control: tuple[tuple[Act, int], ...] = ()  # what it has said, and how many messages it had sent by then
        self.sent = self.sound = self.announced = 0  # messages; those before any nonsense; those it has told of
        self.has_ever_sent_nonsense = False
        self.has_closed_control = self.has_sent_nonsense = self.is_killed = False
        self.exit: str | None = None
        self.ended_at: float | None = None
        self.is_freeing = self.is_unwanted = False  # its key, since somebody has stopped it; its spawn was cancelled

    def copy(self) -> Proc:
        new = object.__new__(Proc)
        new.__dict__.update(self.__dict__)
        new.calls = self.calls.copy()
        return new

    def values(self) -> tuple[object, ...]:
        """Return a key that differs if the state does."""
        return *(value for name, value in self.__dict__.items() if name not in KEPT_APART), self.calls.key()

    # What is asked of it.

    def stop(
        self, now: float, reason: str | None, host_reason: str | None, told: list[Told], grace: float | None
    ) -> bool:
        """Ask it to stop; the host's reason takes over. Says whether that is the first request."""
        if grace is not None and now + grace < self.kill_at < math.inf:
            self.grace, self.kill_at = grace, now + grace
        if self.end is not None:
            return False
        if host_reason is not None and self.host_reason is None:
            self.host_reason = host_reason
        if self.state == "stopping":
            return False
        self.stop_reason = reason
        self.grace = self.grace if grace is None else grace
        self.kill_at = now + self.grace
        self.calls.begins_none = True
        self._move("stopping", told)
        return True

    def ask(self, now: float, stops: Stops) -> None:
        """Send the stop frame, or call the launch off."""
        if self.launch != "launched":
            self.call_off()
        elif self.exit is None and not self.has_closed_control:
            if stops.get(self.number) != [(now, self.stop_reason)]:
                raise Refuted(
                    f"{now}: process {self.number} should be asked to stop once, now, by {self.stop_reason!r}; "
                    f"it was at {stops.get(self.number)}"
                )
            self.is_stop_expected = True

    def call_off(self) -> None:
        if self.launch != "launched":
            self.launch = "called off"

    def kill(self, now: float, told: list[Told]) -> None:
        if self.launch != "launched":
            self.call_off()
        elif self.exit is None and not self.is_killed:
            self.is_killed = True
            told.append(Told(self.number, KILL))
            if not self.part.withstands_kill:
                self.exit = "killed by SIGKILL"
        self.abandoned_at = min(self.abandoned_at, now + ABANDONMENT)

    def settle(self, said: str, error: str | None, result: object = None) -> None:
        """Settle how it ends by this input, once."""
        if self.end is None:
            self.note_beat()
            state = follows(said, self.state).end
            assert state is not None, f"{said!r} ends nothing that is {self.state}"
            self.end, self.error, self.result = (state, state), error, result

    # What it does and says.

    def act(self, acts: tuple[Act, ...], now: float) -> None:
        """Note what it has done, of which the host has not heard yet."""
        for act in acts:
            match act.what:
                case "beat":
                    self.page = now
                case "send":
                    self.sent += act.value
                    self.sound += 0 if self.has_ever_sent_nonsense else act.value
                case "send nonsense":
                    self.sent += 1
                    self.has_sent_nonsense = self.has_ever_sent_nonsense = True
                case "exit":
                    self.exit = f"exited with code {act.value}"
                case "die of a signal":
                    self.exit = f"killed by {signal.Signals(act.value).name}"
                case "vanish":
                    self.exit = "ended with an unknown status"
                case what if what in ON_CALLS_LANE:
                    self.calls.act(act, now)
                case _:
                    self.control = (*self.control, (act, self.sent))
                    self.has_closed_control |= act.what == "close control"
                    if act.what == "ready":
                        self.page = now

    def listen(self, now: float, told: list[Told]) -> None:
        """Take in all control frames that it has sent."""
        frames, self.control = self.control, ()
        for act, sent in frames:
            if act.what in ("complete", "fail", "stopped", "exiting"):
                self.announced = sent
            self._hear(act, now, told)

    def _hear(self, act: Act, now: float, told: list[Told]) -> None:
        match act.what:
            case "ready":
                if self.calls.is_taken is None and self.part.calls != "protocol 1":
                    self.calls.is_taken = self.part.calls == "ready"
                    self.calls.serve(self.part.concurrency if self.calls.is_taken else None, now)
                if self.state == "starting" and self.end is None:
                    self.ready_at = self.beat_at = now
                    self._move("running", told)
            case "take calls":
                if self.calls.is_taken is None:
                    self.break_protocol(now, told)
                else:
                    self.calls.is_taken = True
                    self.calls.serve(act.value or None, now)
            case "heartbeat":
                if self.state == "running" and self.end is None:
                    self.beat_at = now
            case "complete":
                if self.end is None:
                    self.kill_at = min(self.kill_at, now + self.grace)
                    self.settle("complete", None, act.value)
            case "fail":
                if self.end is None:
                    self.kill_at = min(self.kill_at, now + self.grace)
                    self.settle("fail", f"mishap {act.value}")
            case "stopped":
                does, _ = follows("says stopped", self.state if self.end is None else "ending")
                if does == "let go":
                    self.settle("says stopped", None)  # the grace period runs already
                elif does == "kill":
                    self.break_protocol(now, told)
            case "exiting":
                self.settle("exit", self._unasked(f"exited with code {act.value}"))
                self.kill(now, told)
            case "speak nonsense":
                self.break_protocol(now, told)
            case "close control":
                self.closed_at = min(self.closed_at, now + PATIENCE)

    def _unasked(self, text: str) -> str | None:
        if self.state == "stopping" or self.end is not None:
            return None
        how = "while it took calls" if self.calls.is_taken else "without complete() or fail()"
        return f"{text}{PARTED}{how}"

    def break_protocol(self, now: float, told: list[Told], how: str = "") -> None:
        self.settle("breaks the protocol", f"broke the protocol{PARTED}{how}")
        self.kill(now, told)

    def hear_calls(self, now: float, told: list[Told]) -> None:
        """Take in all that it has sent on its calls lane."""
        how = self.calls.take_in(now)
        if how is not None:
            self.break_protocol(now, told, how)

    def miss_calls_lane(self, now: float, told: list[Told]) -> None:
        """Lose patience with it, since it has closed its calls lane."""
        self.calls.closed_at = math.inf
        if self.state == "running" and self.end is None and self.exit is None:
            self.break_protocol(now, told, "closed its calls lane and lived on")

    def take_nonsense(self, now: float, told: list[Told]) -> None:
        """Take in a message that is none; a `ready` that was said before it counts."""
        self.has_sent_nonsense = False
        if self.state == "starting" and self.end is None:
            self.listen(now, told)
        self.break_protocol(now, told)

    # Deadlines.

    def deadline(self) -> tuple[float, str]:
        """Tell the next deadline, and which it is."""
        if self.launch != "launched":
            return (self.startup_at, "startup") if self._may_be_late else (math.inf, "none")
        if self.abandoned_at < math.inf:
            return self.abandoned_at, "abandonment"
        if self.end is not None:
            return self.kill_at, "grace"
        if self.state == "starting":
            own = self.startup_at, "startup"
        elif self.state == "running":
            own = self.last_beat() + self.spawn.heartbeat_timeout, "heartbeat"
            assert self.ready_at is not None, "it runs"
            own = min(own, (self.ready_at + self.spawn.run_seconds, "limit"), (self.calls.overrun()[0], "overrun"))
        else:
            own = self.kill_at, "grace"
            own = min(own, (self.calls.overrun()[0], "overrun"), key=lambda deadline: deadline[0])
        return min(own, (self.closed_at, "closed"))

    @property
    def _may_be_late(self) -> bool:
        return self.launch in ("asked for", "launching") and self.state == "starting" and self.end is None

    def last_beat(self) -> float:
        assert self.ready_at is not None
        assert self.beat_at is not None
        return max(self.beat_at, self.page)

    def note_beat(self) -> None:
        """Look at its page, which the host does at everything that happens to a running process."""
        if self.state == "running" and self.end is None:
            self.beat_at = self.last_beat()

    def judge(self, now: float, told: list[Told]) -> bool:
        """Act on a deadline, once what it has sent has been taken in. Says whether it is to be abandoned."""
        if self.launch != "launched":
            self.call_off()
            return False
        self.listen(now, told)
        self.hear_calls(now, told)
        at, which = self.deadline()
        if at > now:
            return False
        match which:
            case "startup":
                self.settle("startup deadline", f"not ready within {self.spawn.startup_timeout:g} s")
            case "heartbeat":
                self.beat_at = self.last_beat()
                self.settle("heartbeat deadline", f"no heartbeat for {self.spawn.heartbeat_timeout:g} s")
            case "limit":
                self.settle("runs for too long", f"ran for longer than run_seconds={self.spawn.run_seconds:g}")
            case "overrun":
                number = self.calls.overrun()[1]
                call_id = self.calls.begun.index(number) + 1
                error = f"{method_of(number)!r} went on for {self.cancel_grace:g} s after call {call_id} was cancelled"
                self.settle("cancelled call goes on", error)
            case "closed":
                self.settle("closes its control lane and lives on", "closed its control lane and lived on")
            case "grace":
                self.settle("grace period over", f"did not end within {self.grace:g} s of the stop, and was killed")
            case _:
                self._add("SIGKILL has not ended it in time")
                return True
        self.kill(now, told)
        return False

    # Its end.

    def conclude(self, now: float, told: list[Told]) -> None:
        """Publish its end."""
        assert self.end is not None, "its end is settled"
        state, reason = self.end
        if self.announced > self.sound:
            self._add(f"{self.announced - self.sound} of its messages never arrived")
        if self.host_reason is not None:
            state, reason, self.result = "stopped", self.host_reason, None
        told.append(Told(self.number, state, self.state, reason, self.error, self.result))
        self.state, self.ended_at = state, now

    def exited(self, now: float, told: list[Told]) -> None:
        """Take in all that it has sent before its exit, and conclude."""
        self.listen(now, told)
        if self.has_sent_nonsense:
            self.take_nonsense(now, told)
        self.hear_calls(now, told)
        self.note_beat()
        self.settle("exit", self._unasked(str(self.exit)))
        self.conclude(now, told)

    def _add(self, error: str) -> None:
        self.error = PARTED.join(filter(None, (self.error, error)))

    def _move(self, state: str, told: list[Told]) -> None:
        self.note_beat()
        told.append(Told(self.number, state, self.state))
        self.state = state
