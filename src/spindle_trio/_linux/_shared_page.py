"""The child's side of the page that it shares with its host: heartbeats up, the stop flag down, stacks at the end.

One memory page of native doubles comes first. Word `BEAT` is the monotonic time of the latest heartbeat in seconds, 0
before the first; only the child writes it. Word `STOP` is 1 once a stop was requested; only the host writes it. So
neither a beat nor a check for a stop costs a system call.

The rest is the dump area, which this process writes through the descriptor and does not map. `faulthandler` writes the
stacks of all threads there: at a crash, and at `DUMP_SIGNAL`, which a host sends to a process that has missed a
deadline. It needs neither the interpreter's lock nor memory, so it works even in the middle of a call into C. Then the
signal has its default effect: the exit shows the host that the dump is complete.
`spindle_trio.launchers._local._heartbeat_page` is the other side.
"""

from __future__ import annotations

import faulthandler
import mmap
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
else:
    import _signal as signals  # `signal` would load `enum`

BEAT = 0
STOP = 1

DUMP_OFFSET = mmap.PAGESIZE
"""Where the dump area begins."""
DUMP_BYTES = 60 * 1024
"""Its size. A dump has a hundred frames of a hundred threads at most; the rest is cut off."""

DUMP_SIGNAL: int = signals.SIGRTMIN + 7
"""Asks for a dump. This signal has no other meaning, and by default it ends a process."""


def make_page() -> int:
    """Make an empty page with a dump area and return its descriptor. The parent of a child does this.

    Raises:
        OSError: the system has no memory or no descriptor left.
    """
    import fcntl  # missing on some systems; there a launcher says in its `start` that it cannot run

    page = os.memfd_create("spindle_trio", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(page, DUMP_OFFSET + DUMP_BYTES)
        # If a child could shrink the page, the next look would kill its host (SIGBUS). If it could let the page grow,
        # it could use up all memory.
        fcntl.fcntl(page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(page)
        raise
    return page


def map_page(fd: int) -> memoryview[float]:
    """Map the words of the page."""
    page = mmap.mmap(fd, mmap.PAGESIZE)
    # The view keeps the mapping alive.
    return memoryview(page).cast("d")


def leave_stacks(fd: int) -> None:
    """Have the stacks of all threads written into the dump area, at a crash and when the host asks for them.

    Args:
        fd: the page, which stays open for that. Processes that the entry starts do not inherit it.
    """
    os.set_inheritable(fd, False)
    os.lseek(fd, DUMP_OFFSET, os.SEEK_SET)
    faulthandler.enable(fd, all_threads=True)
    faulthandler.register(DUMP_SIGNAL, fd, all_threads=True, chain=True)
