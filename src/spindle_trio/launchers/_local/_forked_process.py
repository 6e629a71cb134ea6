"""A process that a fork server has forked and nobody has used yet: taken over, used, or let go of."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import attrs
import trio

from spindle_trio._model import Containment
from spindle_trio.launchers._local._containment import Tree, open_kill_file, tree_of
from spindle_trio.launchers._local._descriptors import RESERVE
from spindle_trio.launchers._local._heartbeat_page import HeartbeatPage
from spindle_trio.launchers._local._reaper import OwnReaper
from spindle_trio.launchers._local._tree import pid_of

if TYPE_CHECKING:
    from spindle_trio.launchers._local._fork_server_client import ForkServer

__all__ = ["DESCRIPTORS", "REAP_SECONDS", "ForkedProcess", "NotForked", "take_process"]

REAP_SECONDS: Final = 0.5
"""Seconds that the server may take to reap a process. It takes microseconds, unless somebody has stopped it."""

DESCRIPTORS: Final = 7
"""How many come with a process: pidfd, control, messages, stdout, stderr, page, and another pidfd, see `Birth`."""


@attrs.frozen
class ForkedProcess:
    """A process that waits for its first frame."""

    server: ForkServer
    """Who has forked it."""
    number: int
    """What the server calls it."""
    pid: int
    """The number of the entry's process, as this program sees it."""
    pidfd: int
    """Refers to it, or to its init where that is its parent."""
    tree: Tree
    control: socket.socket
    messages: socket.socket
    stdout: int
    stderr: int
    page: HeartbeatPage
    is_spare: bool
    """Whether it was forked ahead of any need, and has warmed itself up."""

    def discard(self) -> None:
        """Have it killed and reaped, and close everything. Never blocks."""
        self.tree.kill()  # the server may have been stopped
        self._close()
        self.server.discard(self.number)

    async def end(self) -> None:
        """Do the same, and wait until it is gone, as long as for any reaping."""
        self.tree.kill()
        try:
            if self.server.is_gone:
                with trio.move_on_after(REAP_SECONDS):
                    await trio.lowlevel.wait_readable(self.pidfd)
                OwnReaper().reap_nowait(self.pidfd)  # it is this program's own now, where that adopts orphans
        finally:
            self._close()
        await self.server.have_reaped("discard", self.number)

    def _close(self) -> None:
        self.tree.let_go()
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


def take_process(
    server: ForkServer, number: int, fds: list[int], *, group: str | None, is_spare: bool
) -> ForkedProcess | NotForked:
    """Take over a process, or have it killed if this program has no descriptors left for it."""
    with ExitStack() as undo:
        undo.callback(server.discard, number)
        for fd in fds:
            undo.callback(os.close, fd)
        try:
            if len(fds) != DESCRIPTORS:
                raise OSError(
                    "this program has no descriptors left: raise its limit (ulimit -n), or run fewer processes"
                )
            RESERVE.refill()  # a process that could not be killed is not begun
            pidfd, control, messages, stdout, stderr, page, other = fds
            leader = pid_of(pidfd)
            if leader is None:
                raise OSError("the process has ended before it could be used")  # and has been reaped
            is_init = server.containment is Containment.PIDNS
            pid = leader if is_init else pid_of(other) or leader  # an init may have reaped it already
            mapped = HeartbeatPage(os.dup(page))  # closes that where it cannot map it
            undo.callback(mapped.close)
            killed_by = None if group is None else (group, open_kill_file(group))
        except OSError as error:
            return NotForked(error, is_spare)
        undo.pop_all()
    mapped.close_fd()
    os.close(page)
    if not is_init:
        os.close(other)
    return ForkedProcess(
        server,
        number,
        pid,
        pidfd,
        tree_of(leader, pidfd, init=other if is_init else None, group=killed_by),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, control),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, messages),
        stdout,
        stderr,
        mapped,
        is_spare,
    )
