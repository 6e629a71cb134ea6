"""Reaping: learning how a process has ended, and letting the system forget it. Only the parent of a process can.

A process that has ended is a zombie until it is reaped. As long as it is one, its number means nobody else, so whoever
uses the number does that first, and reaps last.
"""

from __future__ import annotations

import os
import select
from abc import ABC, abstractmethod

from spindle_trio.abc import ExitStatus
from spindle_trio.launchers._local._launch_thread import reap_in_background

__all__ = ["OwnReaper", "Reaper", "has_ended"]


def has_ended(pidfd: int) -> bool:
    """Look whether a process has ended, be it reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


class Reaper(ABC):
    """The parent of a process, as far as its end is concerned."""

    @abstractmethod
    async def reap(self, number: int, pidfd: int) -> ExitStatus:
        """Reap a process that has ended, and return how it ended. Bounded, and called with a shield around it.

        When it returns, the system has forgotten the process, or its parent has not answered in time and will reap it
        when it can.

        Args:
            number: what the reaper calls it.
            pidfd: refers to it.
        """

    @abstractmethod
    def reap_whenever(self, process_id: str, pid: int, number: int, pidfd: int) -> None:
        """Reap a process, whenever it ends, that has withstood its kill. Its pidfd belongs to the reaper from now on.

        Args:
            process_id: the host's id, for the log record.
            pid: the operating system's number, for the same.
            number: what the reaper calls it.
            pidfd: refers to it.
        """


class OwnReaper(Reaper):
    """For children of this program."""

    async def reap(self, number: int, pidfd: int) -> ExitStatus:
        """Reap at once; see `Reaper.reap`."""
        return self.reap_nowait(pidfd)

    def reap_nowait(self, pidfd: int) -> ExitStatus:
        """Reap a process that has ended."""
        try:
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            result = None
        if result is None:
            return ExitStatus()  # somebody else has reaped it: how it ended cannot be learned
        if result.si_code == os.CLD_EXITED:
            return ExitStatus(code=result.si_status)
        return ExitStatus(signal=result.si_status)

    def reap_whenever(self, process_id: str, pid: int, number: int, pidfd: int) -> None:
        """Leave it to a thread; see `Reaper.reap_whenever`."""
        reap_in_background(process_id, pid, pidfd)
