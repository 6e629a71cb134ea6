"""What this program has of the system's, child processes and descriptors, and whether some of it was left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
import trio

_STEP_SECONDS: Final = 0.02
_MOST_STEPS: Final = 100
_STEADY_STEPS: Final = 5
"""After how many steps without a change it counts as settled: a spare process is forked in a fraction of one."""


@attrs.frozen
class Belongings:
    """What this program has, as far as the system lets it see that."""

    children: frozenset[int]
    descriptors: int


async def settled_belongings() -> Belongings | None:
    """Look what this program has, once that does not change: a launcher may keep processes ready for the next launch.

    `None` where the system does not show it.
    """
    now, steady = _look(), 0
    for _ in range(_MOST_STEPS):
        await trio.sleep(_STEP_SECONDS)
        before, now = now, _look()
        steady = steady + 1 if now == before else 0
        if steady == _STEADY_STEPS:
            break
    return now


async def expect_belongings(before: Belongings | None) -> None:
    """Make sure that nothing has been added; what is let go of in the background has a moment for it."""
    if before is None:
        return
    left: list[int] = []
    descriptors = 0
    for _ in range(_MOST_STEPS):
        now = _look() or before
        left = sorted(now.children - before.children)
        descriptors = now.descriptors - before.descriptors
        if not left and descriptors <= 0:
            return
        await trio.sleep(_STEP_SECONDS)
    raise AssertionError(f"left behind: processes {left}, and {descriptors} descriptor(s)")


def _look() -> Belongings | None:
    tasks, descriptors = Path("/proc/self/task"), Path("/proc/self/fd")
    try:
        children = {int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()}
        return Belongings(frozenset(children), sum(1 for _ in descriptors.iterdir()))
    except OSError:
        return None
