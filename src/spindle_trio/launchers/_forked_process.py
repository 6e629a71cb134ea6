"""A process that a fork server has forked and nobody has used yet: taken over, used, or let go of."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, Final

import attrs
import trio

from spindle_trio.launchers._page import HeartbeatPage
from spindle_trio.launchers._reaper import OwnReaper

if TYPE_CHECKING:
    from spindle_trio.launchers._fork_server import ForkServer

__all__ = ["DESCRIPTORS", "REAP_SECONDS", "ForkedProcess", "NotForked", "take_process"]

REAP_SECONDS: Final = 0.5
"""Seconds that the server may take to reap a process. It takes microseconds, unless somebody has stopped it."""

DESCRIPTORS: Final = 6
"""How many come with a process: pidfd, control, messages, stdout, stderr, page."""


@attrs.frozen
class ForkedProcess:
    """A process that waits for its first frame."""

    server: ForkServer
    """Its parent."""
    pid: int
    pidfd: int
    control: socket.socket
    messages: socket.socket
    stdout: int
    stderr: int
    page: HeartbeatPage
    is_spare: bool
    """Whether it was forked ahead of any need, and has warmed itself up."""

    def discard(self) -> None:
        """Have it killed and reaped, and close everything. Never blocks."""
        self._kill()
        self._close()
        self.server.discard(self.pid)

    async def end(self) -> None:
        """Do the same, and wait until it is gone, as long as for any reaping."""
        self._kill()
        try:
            if self.server.is_gone:
                with trio.move_on_after(REAP_SECONDS):
                    await trio.lowlevel.wait_readable(self.pidfd)
                OwnReaper().reap_nowait(self.pidfd)  # it is this program's own now, where that adopts orphans
        finally:
            self._close()
        await self.server.have_reaped("discard", self.pid)

    def _kill(self) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)  # the server may have been stopped
        except ProcessLookupError:
            pass  # reaped already, by whoever reaps what a dead server leaves behind

    def _close(self) -> None:
        os.close(self.pidfd)
        self.control.close()
        self.messages.close()
        os.close(self.stdout)
        os.close(self.stderr)
        self.page.close()


@attrs.frozen
class NotForked:
    """The server's word that it could not fork."""

    error: OSError
    is_spare: bool


def take_process(server: ForkServer, pid: int, fds: list[int], *, is_spare: bool) -> ForkedProcess | NotForked:
    """Take over a process, or have it killed if this program has no descriptors left for it."""
    try:
        if len(fds) != DESCRIPTORS:
            raise OSError("this program has no descriptors left: raise its limit (ulimit -n), or run fewer processes")
        pidfd, control, messages, stdout, stderr, page = fds
        mapped = HeartbeatPage(page)  # closes the descriptor where it cannot map it
    except OSError as error:
        for fd in fds[:5]:
            os.close(fd)
        server.discard(pid)
        return NotForked(error, is_spare)
    mapped.close_fd()
    return ForkedProcess(
        server,
        pid,
        pidfd,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, control),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, messages),
        stdout,
        stderr,
        mapped,
        is_spare,
    )
