"""The program that runs: its signals, and its end.

The shim adopts what is orphaned below it, and reaps it. So it learns how the program has ended, even if the program
has named another process of its tree as the one that counts (``MAINPID``).
"""

from __future__ import annotations

import faulthandler
import os
import signal
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._linux._shared_page import DUMP_SIGNAL
from spindle_trio._linux._syscalls import call
from spindle_trio.program._senders import descends

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PR_SET_CHILD_SUBREAPER: Final = 36

_OF_THE_GROUP: Final = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip
"""What programs send to their process group, as a shell's ``kill 0``. The shim is in that group."""


def prepare_shim() -> None:
    """Have this process adopt orphans, ignore the signals of its group, and say nothing of its own stacks.

    When a program has missed a deadline, those of its shim would only mislead.
    """
    faulthandler.unregister(DUMP_SIGNAL)
    call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in _OF_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)


class RunningProgram:
    """A program, from its start until it has been reaped."""

    def __init__(self, pid: int) -> None:
        """Take over a child of this process."""
        self.ended: trio.Event = trio.Event()
        self.status: int = 0
        """How it ended, as `os.waitpid` has it."""
        self._first = self._main = pid
        self._first_status: int | None = None

    def send_signal(self, number: int) -> None:
        """Send a signal to the process that counts, unless it has ended."""
        if not self.ended.is_set():
            try:
                os.kill(self._main, number)
            except (ProcessLookupError, PermissionError):
                pass  # it has just ended; or is another user's, and is killed after the grace period

    def kill(self) -> None:
        """Kill it. The host ends the rest of the tree."""
        self.send_signal(signal.SIGKILL)
        if self._first_status is None and self._main != self._first and not self.ended.is_set():
            os.kill(self._first, signal.SIGKILL)

    def follow(self, pid: int) -> bool:
        """Have another process of the tree be the one that counts; returns whether it is one of the tree."""
        if pid == os.getpid() or not descends(pid):
            return False
        self._main = pid
        return True

    async def reap(self, ended_children: AsyncIterator[object]) -> None:
        """Reap the program, and what it leaves behind, at each SIGCHLD."""
        self._reap_now()
        async for _ in ended_children:
            self._reap_now()

    def _reap_now(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self._first_status is not None:
                    self._end(self._first_status)  # the other one's parent has reaped it
                return
            if not pid:
                return
            if pid == self._first:
                self._first_status = status
            if pid == self._main or (pid == self._first and not descends(self._main)):
                self._end(status)

    def _end(self, status: int) -> None:
        if not self.ended.is_set():
            self.status = status
            self.ended.set()
