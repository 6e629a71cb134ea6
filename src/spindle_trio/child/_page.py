"""The child's side of the page that it shares with its host: heartbeats up, the mark of a stop down.

One memory page of native doubles. Word `BEAT` is the monotonic time of the latest heartbeat in seconds, written here
alone; 0 before the first. Word `STOP` is 1 once a stop was requested, written by the host alone. A beat thus costs no
system call, and neither does a look for a stop. `spindle_trio.launchers._page` is the other side.
"""

from __future__ import annotations

import mmap
import os

BEAT = 0
STOP = 1


def make_page() -> int:
    """Make an empty page and return its descriptor: for the parent of a child.

    Raises:
        OSError: the system has no memory or no descriptor left.
    """
    import fcntl  # not everywhere, and a launcher says in its `start` where it cannot run

    page = os.memfd_create("spindle_trio", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(page, mmap.PAGESIZE)
        # A child that could shrink the page would have its host killed at the next look (SIGBUS).
        fcntl.fcntl(page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(page)
        raise
    return page


def map_page(fd: int) -> memoryview[float]:
    """Map the page and close its descriptor."""
    page = mmap.mmap(fd, mmap.PAGESIZE)
    os.close(fd)
    # The view keeps the mapping alive.
    return memoryview(page).cast("d")
