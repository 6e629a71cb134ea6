"""Reaping: learning how a process has ended, and freeing its pid. Only the parent of a process can.

A process that has ended is a zombie until it is reaped. Until then its pid cannot be reused. So code that uses the pid
reaps last.
"""

from __future__ import annotations

import os
import select

import trio

from spindle_trio._linux._readiness import LOOK_SECONDS, wait_readable
from spindle_trio.abc import ExitStatus

__all__ = ["has_ended", "reap_child", "wait_ended"]


def has_ended(pidfd: int) -> bool:
    """Whether a process has ended, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        return bool(poll.poll(0))
    except OSError:
        return False  # unknown; the caller looks again


async def wait_ended(pidfd: int) -> None:
    """Wait until a process has ended, reaped or not."""
    await wait_readable(pidfd)
    while not has_ended(pidfd):
        await trio.sleep(LOOK_SECONDS)
        await wait_readable(pidfd)


def reap_child(pidfd: int) -> ExitStatus:
    """Reap a child of this program that has ended, and return how. Never blocks."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except OSError:
        result = None
    if result is None:
        return ExitStatus()  # somebody else has reaped it, or nobody can: how it ended is unknown
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(code=result.si_status)
    return ExitStatus(signal=result.si_status)
