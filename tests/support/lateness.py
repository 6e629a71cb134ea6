"""How long this program was kept waiting for a processor.

A deadline of the host is about its processes. Time in which the host itself could not run extends it, or delays what
follows from it (contract, rules 7 and 8). So a test that holds a time against a deadline leaves such time out: the
slack is the library's own, whatever else the machine does. What the program spends in computing or asleep is not left
out, so that a host that is slow, or blocks its loop, is still found.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio


def waited_for_processor() -> float:
    """Return for how many seconds in all the calling thread was ready to run and did not; 0 if nothing counts them."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


async def wait_within(seconds: float, wait: Callable[[], Awaitable[object]]) -> None:
    """Wait for something, for so many seconds at most in which this program had a processor when it wanted one.

    Args:
        seconds: how long.
        wait: may be cancelled, and begun again.
    """
    left = seconds
    while left > 0:
        before = waited_for_processor()
        with trio.move_on_after(left) as scope:
            await wait()
        left = waited_for_processor() - before if scope.cancelled_caught else 0
