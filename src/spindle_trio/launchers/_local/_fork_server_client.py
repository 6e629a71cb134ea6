"""One fork server, from the host's side: the host asks it for processes, tells it which to reap, and ends it.

`spindle_trio.fork_server._server` is the other side, and describes the datagrams. The host trusts the server: it is
this package's own program, and no process that it forks has its socket.

`_fork_server_start` starts and ends its programs, and `_fork_server_link` has the socket.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs
import trio

from spindle_trio._model import Containment
from spindle_trio._stalls import stood_still_since
from spindle_trio.abc import ExitStatus, LaunchOrder
from spindle_trio.launchers._local._fork_server_link import Message
from spindle_trio.launchers._local._fork_server_start import ServerOrder, StartedServer, start_server
from spindle_trio.launchers._local._forked_process import (
    REAP_SECONDS,
    ForkedProcess,
    NotForked,
    take_process,
)
from spindle_trio.launchers._local._launch_thread import PATIENCE
from spindle_trio.launchers._local._output import OutputPipe
from spindle_trio.launchers._local._reaper import reap_child
from spindle_trio.launchers._local._system_limits import with_limit

__all__ = ["ForkServer"]

_DATAGRAMS_AT_A_TIME: Final = 16

_log = logging.getLogger("spindle_trio.launchers")


class ForkServer:
    """One server: the `ProcessParent` of the processes that it has forked."""

    def __init__(self, started: StartedServer, *, path: list[str], environment: Mapping[str, str]) -> None:
        """Take over the programs that `start` has started."""
        self.path: Final = path
        """The `sys.path` that its processes begin with."""
        self.environment: Final = environment
        """The environment that they begin with."""
        self._started: Final = started
        self._link: Final = started.link
        self._is_gone = False
        self._reaping: dict[int, _Reaping] = {}
        self._said_status: dict[int, ExitStatus] = {}  # reported by inits, of processes still to reap

    def __repr__(self) -> str:
        return f"<ForkServer {'gone' if self.is_gone else 'running'} pid={self.pid}>"

    @staticmethod
    async def start(order: ServerOrder) -> ForkServer:
        """Start a server, and return once it can fork.

        If this is cancelled or fails, no server is left.

        Raises:
            OSError: the system has refused.
            RuntimeError: the server has refused, ended or not answered; says why.
        """
        started, path = await start_server(order)
        return ForkServer(started, path=path, environment=order.environment)

    @property
    def pid(self) -> int:
        """The server's pid, as this program sees it."""
        return self._started.pid

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._is_gone

    @property
    def containment(self) -> Containment:
        """The level that its guard has found."""
        return self._started.containment

    @property
    def containment_problems(self) -> Mapping[Containment, str]:
        """Why each stronger one does not work."""
        return self._started.containment_problems

    @property
    def output(self) -> OutputPipe:
        """Its output, which its owner has drained."""
        return self._started.output

    @property
    def heard_at(self) -> float:
        """When it last sent something, on Trio's clock."""
        return self._link.heard_at

    async def serve(self, hear: Callable[[ForkedProcess | NotForked], None]) -> None:
        """Exchange datagrams with the server until it is gone.

        Args:
            hear: called with each process, which it then owns, and with each failed fork.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._link.flush)
            try:
                while True:
                    await trio.lowlevel.checkpoint()
                    if not self._read(hear):
                        await self._link.wait_readable()
            except EOFError:
                pass
            self._is_gone = True
            for reaping in self._reaping.values():
                reaping.is_over.set()
            nursery.cancel_scope.cancel()

    def request(self, *, spare: bool, ahead: Sequence[str] = ()) -> None:
        """Ask for a process: for a launch that waits, or as a spare, which reads these entries ahead."""
        self._send({"type": "fork", "spare": spare, "ahead": list(ahead)})

    def expect_sandboxes(self) -> None:
        """Have its processes ready for sandboxes from now on."""
        self._send({"type": "sandboxes"})

    def discard(self, number: int) -> None:
        """Have a process killed and reaped; see `ProcessParent.discard`."""
        self._send({"type": "discard", "number": number})

    async def reap(self, number: int, pidfd: int) -> ExitStatus:
        """Have the server reap a process; see `ProcessParent.reap`. Takes at most `PATIENCE` seconds."""
        status = await self.have_reaped("reap", number)
        if self.is_gone and status == ExitStatus():
            # If this program adopts orphans, as the first one of a container does, it must reap what the server leaves.
            status = reap_child(pidfd)
        if self.is_gone and status == ExitStatus():
            status = ExitStatus(together_with=f"its fork server (pid {self.pid})")
        return status

    async def have_reaped(self, request: str, number: int) -> ExitStatus:
        """Send a request that ends with a process being reaped, and wait for that, at most `PATIENCE` seconds.

        A silent server has `REAP_SECONDS`; one that sends something is busy with earlier requests. The parent of the
        process reports how it ended: at level `sweep` its init, without the server, and elsewhere the server.
        """
        reaping = self._reaping[number] = _Reaping()
        began_at = trio.current_time()
        try:
            self._send({"type": request, "number": number})
            while not (reaping.is_over.is_set() or self.is_gone):
                give_up_at = min(max(began_at, self.heard_at) + REAP_SECONDS, began_at + PATIENCE)
                if trio.current_time() >= give_up_at and not self.has_said_more():
                    _log.warning("fork server %d does not answer; its process %d is not reaped yet", self.pid, number)
                    break
                with trio.CancelScope(deadline=give_up_at):
                    await reaping.is_over.wait()
                now = trio.current_time()  # time in which this program stood still does not count against its server
                began_at += now - stood_still_since(give_up_at, began_at, now)
        finally:
            del self._reaping[number]
        return self._said_status.pop(number, reaping.status)

    def has_said_more(self) -> bool:
        """Whether a datagram waits to be received: then this program is late, not the server."""
        return not self.is_gone and self._link.has_more()

    def reap_whenever(self, order: LaunchOrder, pid: int, number: int, pidfd: int) -> None:
        """Have the server reap a process when it ends; see `ProcessParent.reap_whenever`."""
        text = "process %s (pid %d) survived SIGKILL: abandoned, to be reaped when it ends"
        _log.error(text, order.process_id, pid, extra=order.log_attributes())
        os.close(pidfd)
        self._send({"type": "reap", "number": number})

    async def end(self) -> None:
        """End the server with all that it has forked, and reap it. Bounded, and shielded.

        Raises:
            KeyboardInterrupt: Ctrl-C came meanwhile. The server is gone all the same.
        """
        self._is_gone = True
        await self._started.end()

    def output_tail(self) -> str:
        """Return the end of the server's stdout and stderr, as text."""
        return self._started.output_tail()

    def _send(self, message: Message) -> None:
        if not self.is_gone:
            self._link.send(message)

    def _read(self, hear: Callable[[ForkedProcess | NotForked], None]) -> bool:
        """Receive from the server, and return whether there may be more.

        Raises:
            EOFError: the server is gone.
        """
        for _ in range(_DATAGRAMS_AT_A_TIME):
            try:
                message, fds = self._link.receive()
            except BlockingIOError:
                return False
            self._take(message, fds, hear)
        return True

    def _take(self, message: Message, fds: list[int], hear: Callable[[ForkedProcess | NotForked], None]) -> None:
        match message:
            case {"type": "forked", "number": int(number), "spare": bool(is_spare)}:
                group = message.get("group")
                assert group is None or isinstance(group, str)
                expected = message.get("for")
                assert expected is None or isinstance(expected, str)
                hear(take_process(self, number, fds, group=group, is_spare=is_spare, expected=expected))
            case {"type": "not forked", "errno": int(errno), "error": str(text), "spare": bool(is_spare)}:
                init = message.get("number")
                if isinstance(init, int):
                    self.discard(init)
                error = OSError(errno, f"the fork server could not fork: {text}")
                hear(NotForked(with_limit(error, self.pid), is_spare))
            case {"type": "ended", "number": int(number), "status": int(status)}:
                self._said_status[number] = _exit_status(status, message.get("used"))
            case {"type": "reaped", "number": int(number), "status": int(status)}:
                reaping = self._reaping.get(number)
                if reaping is not None:
                    reaping.status = _exit_status(status, message.get("used"))
                    reaping.is_over.set()
                else:
                    self._said_status.pop(number, None)
            case _:
                _log.error("fork server %d sent an unknown message: %r", self.pid, message)


@attrs.define(eq=False)
class _Reaping:
    """A process that is being reaped."""

    is_over: trio.Event = attrs.field(factory=trio.Event)
    status: ExitStatus = attrs.field(factory=ExitStatus)


def _exit_status(status: int, used: object) -> ExitStatus:
    """Translate what `wait4` has told the parent of a process."""
    code = os.waitstatus_to_exitcode(status)
    figures: tuple[float, int] | None = None
    match used:
        case [int() | float() as seconds, int(kib)]:
            figures = float(seconds), kib * 1024
        case _:
            pass
    return ExitStatus(code=code, used=figures) if code >= 0 else ExitStatus(signal=-code, used=figures)
