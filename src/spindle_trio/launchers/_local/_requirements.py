"""What real processes need of the system and of the program: checks that every launcher of them makes."""

from __future__ import annotations

import os
import sys

import trio

from spindle_trio.launchers._local._heartbeat_page import HeartbeatPage
from spindle_trio.launchers._local._system_limits import limit_behind

__all__ = ["require_real_processes"]


def require_real_processes(launcher: str) -> None:
    """Make sure that this system has what real processes need, and that this program runs in real time.

    Args:
        launcher: the name that the error gives it.

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
    try:
        os.close(os.pidfd_open(os.getpid()))
        HeartbeatPage().close()
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and (limit := limit_behind(error)):
            raise RuntimeError(f"{launcher} cannot start: {error.strerror}: {limit}") from error
        raise RuntimeError(
            f"{launcher} needs pidfd_open and sealed memfds, as Linux 5.4 and later have them: {error}"
        ) from error


def _require_real_time(launcher: str) -> None:
    """Refuse a mock clock, which would fire every deadline of a real process long before its time."""
    # A program that has a mock clock has loaded its module. Others shall not load it for this.
    testing = sys.modules.get("trio.testing")
    if testing is not None and isinstance(trio.lowlevel.current_clock(), testing.MockClock):
        raise RuntimeError(
            f"{launcher} starts real processes, and this program runs on a mock clock, whose deadlines fire before a "
            "real process has done anything; run it in real time (without autojump_clock, mock_clock or the "
            "spindle_host fixture), or use spindle_trio.testing.MemoryLauncher"
        )
