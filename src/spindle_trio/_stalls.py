"""Stalls of this program: a call blocks it, or a signal has stopped it."""

from __future__ import annotations

from typing import Final

STALL_SECONDS: Final = 0.05
"""A program that wakes up late by less than this is busy; by more, it has stood still."""


def stood_still_since(planned_at: float, awake_at: float, now: float) -> float:
    """Return since when a program that wakes up now counts as stalled; `now` if it does not.

    The program knows when it should have woken up, not when it was stopped before that, and its processes may have been
    stopped together with it. So its lateness counts twice, back to when it was last awake. That covers everything after
    a long stall, and next to nothing if the program is often a little late.

    Args:
        planned_at: when it should have woken up.
        awake_at: when it was last awake for certain.
        now: the present.
    """
    late = now - planned_at
    return now if late < STALL_SECONDS else max(planned_at - late, awake_at)
