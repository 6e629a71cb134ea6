"""Processes that write a scenario and go: the host's reading side is the real one, behind it is the test."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from spindle_trio import CallFailedError, ProcessHandle, ProcessLostError, UnknownMethodError
from spindle_trio._protocol._call_answers import Answer, Failure, Item, StreamEnd
from spindle_trio._protocol._control_frames import Complete, Fail, Heartbeat, Ready, TakesCalls
from spindle_trio._protocol._frames import FrameDecoder, with_header
from spindle_trio._protocol._socket_lane import SocketLane
from spindle_trio._supervision._calls import ProcessCalls
from spindle_trio.abc import ExitStatus, LaunchedProcess, Launcher, LaunchOrder, ResolvedEntry
from spindle_trio.testing import ScriptedChild
from support.wire import (
    CALLS,
    LIMITS,
    Scenario,
    expected_bodies,
    expected_call_frame,
    expected_frame,
    expected_payload,
)

READY: Final = b'{"type":"ready"}'
READY_FOR_CALLS: Final = b'{"type":"ready","protocol":2,"calls":true}'
BREACH: Final = "broke the protocol: "


@attrs.frozen
class Outcome:
    """The outcome of a process that writes a scenario, and then exits with code 3 if it still can."""

    state: str
    """Its terminal state."""
    is_breach: bool
    """Whether its error says that it broke the protocol."""
    is_ready: bool
    """Whether it is ready before that."""
    payloads: list[object] = attrs.Factory(list)
    """The messages that arrive."""
    calls: dict[int, list[object]] = attrs.Factory(dict)
    """What each of its calls ends with: its items, and then one of `answer`, `end`, `failed`, `unknown` and `lost`,
    with what belongs to it."""


def expected_outcome(scenario: Scenario, bodies: Sequence[bytes], is_too_long: bool) -> Outcome:
    """Say what becomes of the process, as the contract's table has it."""
    if scenario.lane == "messages":
        payloads = []
        for body in bodies:
            try:
                payloads.append(expected_payload(body))
            except ValueError:
                return Outcome("failed", True, True, payloads)
        return Outcome("failed", is_too_long, True, payloads)
    if scenario.lane == "calls":
        calls, is_breach = expected_calls(bodies)
        return Outcome("failed", is_breach or is_too_long, True, calls=calls)
    is_ready = speaks_of_calls = False
    for body in bodies:
        try:
            frame = expected_frame(body)
        except ValueError:
            return Outcome("failed", True, is_ready)
        match frame:
            case Ready(protocol=protocol):
                is_ready = True
                speaks_of_calls = speaks_of_calls or protocol > 1
            case TakesCalls() if not speaks_of_calls:
                return Outcome("failed", True, is_ready)
            case Heartbeat() | TakesCalls():
                pass
            case Complete():
                return Outcome("completed", False, is_ready)
            case Fail():
                return Outcome("failed", False, is_ready)
            case _:  # stopped, which nobody has asked for, is a breach; an exit is a failure
                return Outcome("failed", b'"stopped"' in body, is_ready)
    return Outcome("failed", is_too_long, is_ready)


def expected_calls(bodies: Sequence[bytes]) -> tuple[dict[int, list[object]], bool]:
    """Say what becomes of the calls, and whether one of the frames breaks the protocol. Nobody gives credit."""
    items: dict[int, list[object]] = {number: [] for number in CALLS}
    ended: dict[int, list[object]] = {}
    for body in bodies:
        try:
            frame = expected_call_frame(body)
        except ValueError:
            break
        number = frame.call_id
        window = CALLS.get(number)
        if number not in CALLS or number in ended:
            break
        match frame:
            case Answer() if window is None:
                ended[number] = ["answer", frame.value]
            case Item() if window is not None and len(items[number]) < window:
                items[number].append(frame.value)
            case StreamEnd() if window is not None:
                ended[number] = ["end"]
            case Failure(is_cancelled=True):
                ended[number] = ["lost"]  # by the end of the process, as it turns out
            case Failure(known=None):
                ended[number] = ["failed", frame.error_type, frame.text, frame.traceback]
            case Failure(known=tuple(known)):
                ended[number] = ["unknown", list(known)]
            case _:
                break
    else:
        return {number: [*items[number], *ended.get(number, ["lost"])] for number in CALLS}, False
    return {number: [*items[number], *ended.get(number, ["lost"])] for number in CALLS}, True


async def make_calls(handle: ProcessHandle) -> dict[int, list[object]]:
    """Make the calls that scenarios of the calls lane speak of, and return what each has ended with."""
    outcomes: dict[int, list[object]] = {}
    calls = handle._process.calls
    assert isinstance(calls, ProcessCalls)

    async def make(number: int, window: int | None) -> None:
        items: list[object] = []
        try:
            if window is None:
                items += "answer", await handle.call("square")
            else:
                async with handle.stream("index", window=window) as channel:
                    await handle.wait_ended()  # reading gives credit
                    while True:
                        items += await channel.receive_many()
        except trio.EndOfChannel:
            items += ["end"]
        except CallFailedError as error:
            items += "failed", error.error_type, error.text, error.traceback
        except UnknownMethodError as error:
            items += ["unknown", list(error.known)]
        except ProcessLostError as error:
            assert error.handed_over
            items += ["lost"]
        outcomes[number] = items

    async with trio.open_nursery() as nursery:
        for number, window in CALLS.items():
            nursery.start_soon(make, number, window)
            while calls.pending < number and number not in outcomes:
                await trio.lowlevel.checkpoint()
    return outcomes


def play_in_memory(scenario: Scenario, child: ScriptedChild) -> Outcome:
    """Have a child in memory send the bodies of a scenario, all in one step, and return what should become of it."""
    send: Callable[[bytes], None] = child.send_raw_control
    if scenario.lane == "messages":
        child.ready()
        send = child.send_raw_message
    elif scenario.lane == "calls":
        send = child.calls.send_raw
    for body in scenario.bodies:
        send(body)
    # There are no headers here: the launcher itself says what is too long.
    short = [len(body) <= LIMITS.frame_bytes for body in scenario.bodies]
    whole = short.index(False) if False in short else len(short)
    outcome = expected_outcome(scenario, scenario.bodies[:whole], whole < len(short))
    child.exit(3)
    return outcome


class WireLauncher(Launcher):
    """Launches what writes scenarios into real sockets, one for each process, in order."""

    def __init__(self, scenarios: Sequence[Scenario]) -> None:
        self._left = list(reversed(scenarios))
        self.outcomes: dict[str, tuple[Scenario, Outcome]] = {}
        """The expected outcome of each process, by its id."""

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        return ResolvedEntry(entry)

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        scenario = self._left.pop()
        bodies, is_too_long = expected_bodies(scenario.stream, LIMITS.frame_bytes)
        outcome = expected_outcome(scenario, bodies, is_too_long)
        self.outcomes[order.process_id] = scenario, outcome
        return self._launched(WireProcess(order, scenario, outcome))

    @asynccontextmanager
    async def _launched(self, process: WireProcess) -> AsyncIterator[LaunchedProcess]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.play)
            try:
                yield process
            finally:
                nursery.cancel_scope.cancel()
                process.close()


class WireProcess(LaunchedProcess):
    """A process as far as the host can see: two real sockets, and an end."""

    def __init__(self, order: LaunchOrder, scenario: Scenario, outcome: Outcome) -> None:
        self._scenario, self._outcome = scenario, outcome
        self._status: ExitStatus | None = None
        self._changed = trio.Event()
        control, self._control = socket.socketpair()
        messages, self._messages = socket.socketpair()
        calls, self._calls = socket.socketpair()
        limits = order.limits
        self.control = SocketLane(control, max_bytes=limits.frame_bytes, frame_seconds=limits.frame_seconds)
        self.messages = SocketLane(messages, max_bytes=limits.frame_bytes, frame_seconds=limits.frame_seconds)
        self._calls_lane = SocketLane(calls, max_bytes=limits.frame_bytes, frame_seconds=limits.frame_seconds)

    @property
    def calls(self) -> SocketLane:
        return self._calls_lane

    async def play(self) -> None:
        """Write the scenario and exit; or where it is a breach, now and then wait to be killed for it."""
        lane = self._scenario.lane
        end = {"control": self._control, "messages": self._messages, "calls": self._calls}[lane]
        written = trio.SocketStream(trio.socket.from_stdlib_socket(end))
        try:
            if lane == "messages":
                self._control.send(with_header(READY))  # in one step with a message: the host may find that one first
            elif lane == "calls":
                self._control.send(with_header(READY_FOR_CALLS))
                asked, decoder = 0, FrameDecoder(LIMITS.frame_bytes)
                while asked < len(CALLS):
                    decoder.feed(await written.receive_some())
                    asked += len(decoder.take(len(CALLS)))
            for data in self._scenario.reads():
                await written.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # killed in the middle of it
        if self._outcome.is_breach and self._scenario.seed % 2:
            await self._changed.wait()
        self._end(ExitStatus(code=3))

    def _end(self, status: ExitStatus) -> None:
        if self._status is None:
            self._status = status
            self._changed.set()

    def last_heartbeat(self) -> float:
        return trio.current_time()

    def request_stop(self) -> None:
        pass

    def kill(self) -> None:
        self._end(ExitStatus(signal=9))

    def has_exited(self) -> bool:
        return self._status is not None

    async def wait(self) -> ExitStatus:
        await self._changed.wait()
        assert self._status is not None
        return self._status

    def close(self) -> None:
        for end in (self.control, self.messages, self._calls_lane, self._control, self._messages, self._calls):
            end.close()
