"""A launcher whose processes act as a scenario has it, and a log of what they did and what was done to them.

They are real to the host: lanes, heartbeats, kills and exits are those of `spindle_trio.testing`. Each has a task that
sleeps until it is due to act or has something to read. All that it does in one moment it does in one step, so what the
log says has happened in this order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import attrs
import trio

from simulation.scenario import ABANDONMENT, PATIENCE, Act, Handler, Moment, Part, method_of
from spindle_trio import EntryError
from spindle_trio._protocol._frames import encode_body
from spindle_trio.abc import ExitStatus, FrameLane, LaunchedProcess, Launcher, LaunchOrder, ResolvedEntry
from spindle_trio.testing._memory_lane import memory_lane_pair
from spindle_trio.testing._memory_process import KILLED, MemoryProcess


class Entry(NamedTuple):
    """One line of the log."""

    at: float
    worker: int
    what: str
    """`launching launched act killed died event message outcome`, and `launch failed` and `unlaunched`."""
    number: int
    """Of the process, or the command."""
    detail: object = None


@attrs.define
class Log:
    """The log, in order."""

    entries: list[Entry] = attrs.field(factory=list)
    stops: dict[int, list[tuple[float, str | None]]] = attrs.field(factory=dict)
    """Process → the stop frames that it has read, and when."""
    received: dict[int, list[int]] = attrs.field(factory=dict)
    """Process → the messages that it has got."""
    calls: dict[int, list[tuple[int, float, float, int | None]]] = attrs.field(factory=dict)
    """Call → the frames that began it: in which process, when, how many seconds were left, and the window."""
    cancels: dict[int, list[float]] = attrs.field(factory=dict)
    """Call → when its process has read a cancel of it."""
    credits: dict[int, list[tuple[float, int]]] = attrs.field(factory=dict)
    """Stream → when its process has read that it may send so many items more."""
    items: dict[int, list[tuple[float, object]]] = attrs.field(factory=dict)
    """Stream → the items that its reader has received, and when."""
    late: dict[int, tuple[int, int]] = attrs.field(factory=dict)
    """Process → its calls that have not ended, and its late answers, as its statistics have them in the end."""
    facts: dict[int, Mapping[str, object]] = attrs.field(factory=dict)
    """Process → its first frame."""
    left: dict[int | None, float] = attrs.field(factory=dict)
    """When the block of each worker was left, and that of the host (`None`)."""
    channel_events: dict[int, list[tuple[int, str]]] = attrs.field(factory=dict)
    """Worker → the processes and states that its channel of events has given."""
    channel_messages: dict[int, list[tuple[int, object]]] = attrs.field(factory=dict)
    """Worker → the processes and payloads that its channel of messages has given."""
    held: dict[int, tuple[list[object], int, int]] = attrs.field(factory=dict)
    """Process → the messages held for a late reader, and how many have been received and dropped."""
    unknown: set[int] = attrs.field(factory=set)
    """Spawns of successors of a process that had not been started when they were asked for."""
    remarks: list[str] = attrs.field(factory=list)
    """Breaches of the contract, wherever they were seen."""

    def note(self, worker: int, what: str, number: int, detail: object = None) -> None:
        """Add a line."""
        self.entries.append(Entry(now(), worker, what, number, detail))


def now() -> float:
    """Tell the time, without what adding up has left behind the sixth decimal."""
    return round(trio.current_time(), 6)


class StagedProcess(MemoryProcess):
    """A process that acts its part."""

    control_patience = PATIENCE

    def __init__(
        self, order: LaunchOrder, part: Part, number: int, worker: int, handlers: Mapping[int, Handler], log: Log
    ) -> None:
        super().__init__(order)
        self.part, self.number, self.worker, self.handlers, self.log = part, number, worker, handlers, log
        if part.call_room is not None:
            self._calls = memory_lane_pair(order.limits.frame_bytes, buffer_frames=part.call_room)
        self.pid = 1_000_000 + number if part.has_pid else None
        self.killed_at: float | None = None
        self._plan: list[tuple[float, Moment, int | None]] = []  # when, what, and in the handler of which call
        self._sent = 0
        self._numbers: dict[int, int] = {}  # id of a call → its number
        self._ids: dict[int, int] = {}
        self._cancelled: set[int] = set()
        self._credit: dict[int, int] = {}  # items that a stream may still send
        self._items: dict[int, int] = {}  # items that it has sent
        self._nap = trio.CancelScope()
        self._is_closed = self._has_closed_calls = self._is_left = False

    def begin(self) -> None:
        """Exist."""
        self._set_plan(None, self.part.plan)
        self.arrived(self.child_control)
        self.child_control.tell_arrival(self)
        self.child_messages.tell_arrival(self)
        if self.part.call_room is None:
            self.child_calls.tell_arrival(self)

    def arrived(self, lane: FrameLane) -> None:
        self._nap.cancel()

    @trio.lowlevel.enable_ki_protection
    async def play(self) -> None:
        while not (self.has_exited() or self._is_left):
            self._read()
            while self._plan and self._plan[0][0] <= now() and not self.has_exited():
                _, moment, call = self._plan.pop(0)
                self._perform(moment, call)
            if self.has_exited():
                return
            with trio.CancelScope(deadline=self._plan[0][0] if self._plan else math.inf, shield=True) as self._nap:
                await trio.sleep_forever()

    def _set_plan(self, call: int | None, moments: tuple[Moment, ...]) -> None:
        """Plan this for a call, or the process itself, instead of what was planned for it before."""
        self._plan = [planned for planned in self._plan if planned[2] != call]
        self._plan += [(round(now() + moment.after, 6), moment, call) for moment in moments]
        self._plan.sort(key=lambda planned: planned[0])

    def _read(self) -> None:
        """Read all that the host has said."""
        lanes = [(self.child_control, self._hear), (self.child_messages, self._take)]
        if self.part.call_room is None:
            lanes.append((self.child_calls, self._begin))
        for lane, hear in lanes:
            try:
                while not (lane is self.child_control and self._is_closed):
                    for body in lane.receive_nowait(100):
                        hear(body)
            except trio.WouldBlock:
                lane.tell_arrival(self)
            except (trio.EndOfChannel, trio.ClosedResourceError):
                pass

    def _hear(self, body: bytes) -> None:
        frame = json.loads(body)
        if frame["type"] == "init":
            self.log.facts[self.number] = frame
            return
        if frame["type"] == "cancel":
            self._cancel(frame["call"])
            return
        if frame["type"] == "credit":
            number = self._numbers[frame["call"]]  # given only once there were items
            self._credit[number] += frame["items"]
            self.log.credits.setdefault(number, []).append((now(), frame["items"]))
            return
        assert frame["type"] == "stop", f"the host says {frame}"
        self.log.stops.setdefault(self.number, []).append((now(), frame.get("reason")))
        if self.part.at_stop is not None and self.killed_at is None:
            self._set_plan(None, self.part.at_stop)

    def _cancel(self, call_id: int) -> None:
        """Hear a cancel, which may come before its call."""
        self._cancelled.add(call_id)
        if call_id in self._numbers:
            number = self._numbers[call_id]
            self.log.cancels.setdefault(number, []).append(now())
            moments = self.handlers[number].at_cancel
            if moments is not None and self.killed_at is None:
                self._set_plan(number, moments)

    def _begin(self, body: bytes) -> None:
        """Get a call."""
        call_id, method, left, number, *window = json.loads(body[1:])
        seconds = math.inf if left is None else left / 1000
        if window:
            self._credit[number], self._items[number] = window[0], 0
        self.log.calls.setdefault(number, []).append((self.number, now(), seconds, *(window or [None])))
        if body[:1] != b"\1" or method != method_of(number) or call_id <= max(self._numbers, default=0):
            self.log.remarks.append(f"process {self.number}: got the call {body!r} after {self._numbers}")
        self._numbers[call_id], self._ids[number] = number, call_id
        if self.killed_at is None:
            self._set_plan(number, self.handlers[number].plan)
        if call_id in self._cancelled:
            self._cancel(call_id)

    def _take(self, body: bytes) -> None:
        self.log.received.setdefault(self.number, []).append(json.loads(body))

    def _perform(self, moment: Moment, call: int | None) -> None:
        if self.killed_at is not None:
            self.log.note(self.worker, "died", self.number)
            self.end(KILLED)
            return
        acts = self._possible(moment.acts, call)  # noted before the host can see any of them
        self.log.note(self.worker, "act", self.number, acts)
        for act in acts:
            self._do(act)

    def _possible(self, acts: tuple[Act, ...], call: int | None) -> tuple[Act, ...]:
        """Leave out what needs a lane, once that is closed, or credit; and say which call a handler speaks of."""
        possible: list[Act] = []
        is_closed, has_closed_calls = self._is_closed, self._has_closed_calls
        credit = self._credit.get(call or 0)
        for act in acts:
            if act.what in ("item", "push") and credit is not None:
                if act.what == "item" and credit <= 0:
                    continue
                credit -= 1
            if not ((is_closed and act.what in SPOKEN) or (has_closed_calls and act.what in ABOUT_CALLS)):
                possible.append(act if call is None or act.what not in ABOUT_ONE else Act(act.what, call))
            is_closed |= act.what == "close control"
            has_closed_calls |= act.what == "close calls"
        return tuple(possible)

    def _do(self, act: Act) -> None:
        value = act.value
        match act.what:
            case "beat":
                self.beat()
            case "ready":
                self.beat()
                at_a_time = self.part.concurrency if self.part.calls == "ready" else None
                self._say({"type": "ready", **ACCEPTED[self.part.calls], **_concurrency(at_a_time)})
            case "take calls":
                self._say({"type": "calls", **_concurrency(value or None)})
            case "heartbeat":
                self._say({"type": "heartbeat"})
            case "send":
                for _ in range(value):
                    self._send(encode_body(self._sent))
            case "send nonsense":
                self._send(b"{nonsense")
            case "complete":
                self._say({"type": "complete", "result": value, "messages": self._sent})
            case "fail":
                self._say({"type": "fail", "error": f"mishap {value}", "messages": self._sent})
            case "stopped":
                self._say({"type": "stopped", "messages": self._sent})
            case "exiting":
                self._say({"type": "exiting", "messages": self._sent, "code": value})
            case "speak nonsense":
                self.child_control.send_nowait(b'{"type": "nonsense"}')
            case "close control":
                self._read()
                self._is_closed = True
                self.child_control.close()
            case "close calls":
                self._read()
                self._has_closed_calls = True
                self.child_calls.close()
            case "answer nobody":
                self._answer(2, [NOBODY, None])
            case "answer nonsense":
                self._answer(9, [])
            case "answer":
                self._answer(2, [self._ids[value], value])
            case "item" | "push":
                sent = self._items.get(value, 0)
                self._answer(3, [self._ids[value], sent])
                if value in self._credit:
                    self._credit[value], self._items[value] = self._credit[value] - 1, sent + 1
            case "end":
                self._answer(4, [self._ids[value]])
            case "raise":
                self._answer(6, [self._ids[value], {"error": "Mishap", "text": f"of {value}"}])
            case "refuse":
                self._answer(6, [self._ids[value], {"known": ["other"]}])
            case "say cancelled":
                self._answer(6, [self._ids[value], {"cancelled": True}])
            case _:
                self.end(exit_status(act))

    def _answer(self, kind: int, about: list[object]) -> None:
        if not self.child_calls.offer(bytes([kind]) + encode_body(about)):
            self.log.remarks.append(f"process {self.number}: its calls lane is full")

    def _say(self, frame: dict[str, object]) -> None:
        if not self.child_control.offer(encode_body(frame)):
            self.log.remarks.append(f"process {self.number}: its control lane is full")

    def _send(self, body: bytes) -> None:
        self._sent += 1
        if not self.child_messages.offer(body):
            self.log.remarks.append(f"process {self.number}: its messages lane is full, and nobody holds it up")

    def end(self, status: ExitStatus) -> None:
        if not self.has_exited():
            self._read()
        super().end(status)
        self._nap.cancel()

    def leave(self) -> None:
        """Stop counting, dead or not."""
        self._is_left = True
        self._nap.cancel()
        self.close_host_ends()

    def kill(self) -> None:
        if self.has_exited() or self.killed_at is not None:
            return
        self.killed_at = now()
        self.log.note(self.worker, "killed", self.number)
        self._plan = []
        if self.part.withstands_kill:
            self._plan = [(round(now() + self.part.withstands_kill, 6), Moment(0.0, ()), None)]
            self._nap.cancel()
        else:
            self.end(KILLED)


SPOKEN = {
    *("ready", "heartbeat", "complete", "fail", "stopped", "exiting", "speak nonsense", "close control"),
    "take calls",
}
"""What needs the control lane."""

ABOUT_ONE = {"answer", "raise", "refuse", "say cancelled", "item", "push", "end"}
"""What a handler says about its call."""

ABOUT_CALLS = {*ABOUT_ONE, "answer nobody", "answer nonsense", "close calls"}
"""What needs the calls lane."""

NOBODY = 1_000_000
"""The id of no call."""

ACCEPTED: Mapping[str, Mapping[str, object]] = {
    "ready": {"protocol": 2, "calls": True},
    "later": {"protocol": 2},
    "protocol 1": {},
}
"""What `ready` says of calls."""


def _concurrency(calls: int | None) -> dict[str, object]:
    return {} if calls is None else {"concurrency": calls}


def exit_status(act: Act) -> ExitStatus:
    """Say how a process ends by this act."""
    if act.what == "exit":
        return ExitStatus(code=act.value)
    return ExitStatus(signal=act.value) if act.what == "die of a signal" else ExitStatus()


class StageLauncher(Launcher):
    """Launches parts."""

    def __init__(self, parts: Mapping[str, tuple[int, int, Part]], handlers: Mapping[int, Handler], log: Log) -> None:
        """Take in the parts: entry → number, worker, part; and the handlers: call → what is done about it."""
        self._parts = parts
        self._handlers = handlers
        self._log = log
        self.live: dict[int, StagedProcess] = {}

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        if entry not in self._parts:
            raise EntryError(f"no entry {entry!r}")
        return ResolvedEntry(entry)

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        number, worker, part = self._parts[order.entry.entry]
        return StagedLaunch(StagedProcess(order, part, number, worker, self._handlers, self._log), self.live)


class StagedLaunch(AbstractAsyncContextManager[LaunchedProcess]):
    def __init__(self, process: StagedProcess, live: dict[int, StagedProcess]) -> None:
        self._process = process
        self._live = live
        self._note: Callable[[str], None] = lambda what: process.log.note(process.worker, what, process.number)

    async def __aenter__(self) -> LaunchedProcess:
        process, part = self._process, self._process.part
        self._note("launching")
        try:
            await trio.lowlevel.checkpoint()
            with trio.CancelScope(shield=part.is_launched_regardless):
                if part.launch_seconds:
                    await trio.sleep(part.launch_seconds)
        except trio.Cancelled:
            self._note("unlaunched")
            raise
        if part.launch_fails:
            self._note("launch failed")
            raise OSError("no more processes")
        assert process.order.start_soon is not None, "a host offers a nursery"
        self._live[process.number] = process
        self._note("launched")
        process.begin()
        process.order.start_soon(process.play)
        return process

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        process.kill()
        try:
            if process.killed_at is not None:
                with trio.CancelScope(deadline=process.killed_at + ABANDONMENT, shield=True):
                    await process.wait()
        finally:
            del self._live[process.number]
            process.leave()
