"""How long this program was kept waiting for a processor.

A deadline of the host is about its processes. Time in which the host itself could not run extends it, or delays what
follows from it (contract, rules 7 and 8). So a test that holds a time against a deadline leaves such time out: the
slack is the library's own, whatever else the machine does. What the program spends in computing or asleep is not left
out, so that a host that is slow, or blocks its loop, is still found.
"""

from __future__ import annotations

from pathlib import Path


def waited_for_processor() -> float:
    """Tell for how many seconds in all the calling thread was ready to run and did not; 0 where nobody counts them."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
