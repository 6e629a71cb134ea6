"""Real processes live in real time: a check that every launcher of them makes."""

from __future__ import annotations

import sys

import trio

__all__ = ["require_real_time"]


def require_real_time(launcher: str) -> None:
    """Refuse to work under a mock clock, which would fire every deadline of a real process long before its time.

    Args:
        launcher: the name that the error gives it.

    Raises:
        RuntimeError: this Trio run has a `trio.testing.MockClock`.
    """
    # A program that has a mock clock has loaded its module. Others shall not load it for this.
    testing = sys.modules.get("trio.testing")
    if testing is not None and isinstance(trio.lowlevel.current_clock(), testing.MockClock):
        raise RuntimeError(
            f"{launcher} starts real processes, and this program runs on a mock clock, whose deadlines fire before a "
            "real process has done anything; run it in real time (without autojump_clock, mock_clock or the "
            "spindle_host fixture), or use spindle_trio.testing.MemoryLauncher"
        )
