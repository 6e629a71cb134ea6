"""A process that a fork server has forked, before a launch uses it: taken over, used, or discarded."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final, Protocol

import attrs
import trio

from spindle_trio._model import Containment
from spindle_trio.abc import ExitStatus, LaunchOrder
from spindle_trio.launchers._local._containment import ENDED_EARLY, Tree, open_kill_file, tree_of
from spindle_trio.launchers._local._descriptors import RESERVE
from spindle_trio.launchers._local._heartbeat_page import HeartbeatPage
from spindle_trio.launchers._local._reaper import reap_child, wait_ended
from spindle_trio.launchers._local._system_limits import with_limit
from spindle_trio.launchers._local._tree import pid_of

__all__ = ["DESCRIPTORS", "REAP_SECONDS", "ForkedProcess", "NotForked", "ProcessParent", "take_process"]

REAP_SECONDS: Final = 0.5
"""Seconds that the server may take to reap a process. It takes microseconds, unless the server was stopped."""

DESCRIPTORS: Final = 8
"""How many descriptors come with a process: pidfd, three lanes, stdout, stderr, page, and another pidfd."""


class ProcessParent(Protocol):
    """The server that has forked a process. Only it can reap the process."""

    @property
    def path(self) -> list[str]:
        """The `sys.path` that its processes begin with."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment that they begin with."""

    @property
    def containment(self) -> Containment:
        """The level that holds their trees together."""

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, or is about to."""

    def discard(self, number: int) -> None:
        """Have a process killed and reaped. Never blocks."""

    async def have_reaped(self, request: str, number: int) -> ExitStatus:
        """Send a request that ends with a process being reaped, and wait for that. Bounded."""

    async def reap(self, number: int, pidfd: int) -> ExitStatus:
        """Reap a process that has ended, and return how it ended. Bounded, and called with a shield around it.

        When it returns, the system has forgotten the process, or its parent has not answered in time and will reap it
        when it can.

        Args:
            number: the server's number for it.
            pidfd: refers to it.
        """

    def reap_whenever(self, order: LaunchOrder, pid: int, number: int, pidfd: int) -> None:
        """Reap a process that has withstood its kill, whenever it ends. The parent owns its pidfd from now on.

        Args:
            order: the launch order, for the log record.
            pid: the operating system's pid, for the log record.
            number: the server's number for it.
            pidfd: refers to it.
        """


@attrs.frozen(eq=False)
class ForkedProcess:
    """A process that waits for its first frame."""

    parent: ProcessParent
    """The server that has forked it, and reaps it."""
    number: int
    """The server's number for it."""
    pid: int
    """The pid of the entry's process, as this program sees it."""
    pidfd: int
    """Refers to it, or to its init if the init is its parent."""
    tree: Tree
    """Everything that is killed with it."""
    control: socket.socket
    """This end of the control lane."""
    messages: socket.socket
    """This end of the messages lane."""
    calls: int
    """This end of the calls lane, which most processes never use."""
    stdout: int
    """The reading end of its stdout."""
    stderr: int
    """The reading end of its stderr."""
    page: HeartbeatPage
    """The page that it writes its heartbeats to."""
    is_spare: bool
    """Whether it was forked ahead of any need, and has warmed itself up."""
    expected: str | None = None
    """The file of the entry that it is prepared for; it runs any other as well."""

    def discard(self) -> None:
        """Have it killed and reaped, and close everything. Never blocks."""
        self.tree.kill()  # the server may have been stopped
        self._close()
        self.parent.discard(self.number)

    async def end(self) -> None:
        """Do the same, and wait until it is gone, at most as long as for any reaping."""
        self.tree.kill()
        try:
            if self.parent.is_gone:
                with trio.move_on_after(REAP_SECONDS):
                    await wait_ended(self.pidfd)
                reap_child(self.pidfd)  # this program must reap it, if it adopts orphans
        finally:
            self._close()
        await self.parent.have_reaped("discard", self.number)

    def _close(self) -> None:
        self.tree.let_go()
        os.close(self.pidfd)
        self.control.close()
        self.messages.close()
        os.close(self.calls)
        os.close(self.stdout)
        os.close(self.stderr)
        self.page.close()


@attrs.frozen
class NotForked:
    """The server's report that it could not fork."""

    error: OSError
    is_spare: bool
    expected: str | None = None


def take_process(
    parent: ProcessParent,
    number: int,
    fds: list[int],
    *,
    group: str | None,
    is_spare: bool,
    expected: str | None = None,
) -> ForkedProcess | NotForked:
    """Take over a process, or have it killed if this program has no descriptor left for it."""
    with ExitStack() as undo:
        undo.callback(parent.discard, number)
        for fd in fds:
            undo.callback(os.close, fd)
        try:
            if len(fds) != DESCRIPTORS:
                raise OSError(errno.EMFILE, "this program has no descriptor left for a process")
            RESERVE.refill()  # a process that could not be killed is not begun
            pidfd, control, messages, calls, stdout, stderr, page, other = fds
            leader = pid_of(pidfd)
            if leader is None:
                raise OSError(ENDED_EARLY)  # and has been reaped
            # At `sweep` the other one is the process, which its init may have reaped already.
            pid = (parent.containment is Containment.SWEEP and pid_of(other)) or leader
            mapped = HeartbeatPage(os.dup(page))  # closes that where it cannot map it
            undo.callback(mapped.close)
            killed_by = None if group is None else (group, open_kill_file(group))
        except OSError as error:
            return NotForked(with_limit(error), is_spare)
        undo.pop_all()
    mapped.close_fd()
    os.close(page)
    return ForkedProcess(
        parent=parent,
        number=number,
        pid=pid,
        pidfd=pidfd,
        tree=tree_of(parent.containment, leader, pidfd, other, group=killed_by),
        control=socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, control),
        messages=socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, messages),
        calls=calls,
        stdout=stdout,
        stderr=stderr,
        page=mapped,
        is_spare=is_spare,
        expected=expected,
    )
