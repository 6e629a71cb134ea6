"""Processes that write a scenario and go: the host's reading side is the real one, behind it is the test."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from spindle_trio._protocol._control_frames import Complete, Fail, Heartbeat, Ready
from spindle_trio._protocol._frames import with_header
from spindle_trio._protocol._socket_lane import SocketLane
from spindle_trio.abc import ExitStatus, LaunchedProcess, Launcher, LaunchOrder, ResolvedEntry
from spindle_trio.testing import ScriptedChild
from support.wire import LIMITS, Scenario, expected_bodies, expected_frame, expected_payload

READY: Final = b'{"type":"ready"}'
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
    is_ready = False
    for body in bodies:
        try:
            frame = expected_frame(body)
        except ValueError:
            return Outcome("failed", True, is_ready)
        match frame:
            case Ready():
                is_ready = True
            case Heartbeat():
                pass
            case Complete():
                return Outcome("completed", False, is_ready)
            case Fail():
                return Outcome("failed", False, is_ready)
            case _:  # stopped, which nobody has asked for, is a breach; an exit is a failure
                return Outcome("failed", b'"stopped"' in body, is_ready)
    return Outcome("failed", is_too_long, is_ready)


def play_in_memory(scenario: Scenario, child: ScriptedChild) -> Outcome:
    """Have a child in memory send the bodies of a scenario, all in one step, and return what should become of it."""
    send: Callable[[bytes], None] = child.send_raw_control
    if scenario.lane == "messages":
        child.ready()
        send = child.send_raw_message
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
        limits = order.limits
        self.control = SocketLane(control, max_bytes=limits.frame_bytes, frame_seconds=limits.frame_seconds)
        self.messages = SocketLane(messages, max_bytes=limits.frame_bytes, frame_seconds=limits.frame_seconds)

    async def play(self) -> None:
        """Write the scenario and exit; or where it is a breach, now and then wait to be killed for it."""
        is_message = self._scenario.lane == "messages"
        written = trio.SocketStream(trio.socket.from_stdlib_socket(self._messages if is_message else self._control))
        try:
            if is_message:
                self._control.send(with_header(READY))  # in one step with a message: the host may find that one first
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
        for end in (self.control, self.messages, self._control, self._messages):
            end.close()
