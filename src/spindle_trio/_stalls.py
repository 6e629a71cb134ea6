"""When this program has stood still: held up by a call that blocks, or stopped."""

from __future__ import annotations

from typing import Final

STALL_SECONDS: Final = 0.05
"""A program that wakes up later than planned by less than this is busy; by more, it has stood still."""


def stood_still_since(planned_at: float, awake_at: float, now: float) -> float:
    """Tell since when a program is taken to have stood still that wakes up now; `now` if it has not.

    It knows when it should have woken up, not when it was stopped before that, and its processes may have been stopped
    together with it. So as much time again as it is late counts as well, back to when it was last awake: all there can
    be, after a stall that is long enough, and next to nothing where it is late a little and often.

    Args:
        planned_at: when it should have woken up.
        awake_at: when it was last awake for certain.
        now: the present.
    """
    late = now - planned_at
    return now if late < STALL_SECONDS else max(planned_at - late, awake_at)
