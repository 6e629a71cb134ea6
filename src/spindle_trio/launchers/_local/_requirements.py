"""The requirements of real processes on system and program; every launcher of real processes checks them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Final

import trio

from spindle_trio.launchers._local._heartbeat_page import HeartbeatPage
from spindle_trio.launchers._local._system_limits import limit_behind

__all__ = ["require_real_processes"]


def require_real_processes(launcher: str) -> None:
    """Make sure that this system has what real processes need, and that this program runs in real time.

    Args:
        launcher: the launcher's name, for the error.

    Raises:
        RuntimeError: says what is missing.
    """
    _require_real_time(launcher)
    if sys.platform != "linux":
        raise RuntimeError(
            f"{launcher} needs Linux (pidfd and memfd), and this is {sys.platform}; "
            "spindle_trio.testing.MemoryLauncher runs everywhere"
        )
    if not os.path.exists("/proc/self/fdinfo"):
        raise RuntimeError(f"{launcher} needs /proc to be mounted")
    for call, needed_for, attempt in _CALLS:
        try:
            attempt()
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and (limit := limit_behind(error)):
                raise RuntimeError(f"{launcher} cannot start: {error.strerror}: {limit}") from error
            raise RuntimeError(
                f"{launcher} needs {call} to {needed_for}, as Linux 5.4 and later have it; the system, or a filter of "
                f"system calls (seccomp), refuses it here: {error}"
            ) from error


def _open_pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _make_page() -> None:
    HeartbeatPage().close()


def _signal_by_pidfd() -> None:
    pidfd = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(pidfd, 0)  # only looks
    finally:
        os.close(pidfd)


def _reap_by_pidfd() -> None:
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        pass  # it is no child of its own
    finally:
        os.close(pidfd)


_CALLS: Final[tuple[tuple[str, str, Callable[[], None]], ...]] = (
    ("pidfd_open", "refer to processes", _open_pidfd),
    ("sealed memfds (memfd_create, fcntl, mmap)", "share a page with each process", _make_page),
    ("pidfd_send_signal", "kill processes", _signal_by_pidfd),
    ("waitid, with P_PIDFD,", "reap processes", _reap_by_pidfd),
)
"""Calls that a host would miss only later: name, purpose, and a harmless attempt."""


def _require_real_time(launcher: str) -> None:
    """Refuse a mock clock, which would fire every deadline of a real process long before its time."""
    # A program with a mock clock has loaded its module. Others should not load it for this.
    testing = sys.modules.get("trio.testing")
    if testing is not None and isinstance(trio.lowlevel.current_clock(), testing.MockClock):
        raise RuntimeError(
            f"{launcher} starts real processes, and this program runs on a mock clock, whose deadlines fire before a "
            "real process has done anything; run it in real time (without autojump_clock, mock_clock or the "
            "spindle_host fixture), or use spindle_trio.testing.MemoryLauncher"
        )
