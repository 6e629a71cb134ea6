"""The child's side of the page that it shares with its host: heartbeats up, the stop flag down, stacks at the end.

One memory page of native doubles comes first. Word `BEAT` is the monotonic time of the latest heartbeat in seconds,
written here alone; 0 before the first. Word `STOP` is 1 once a stop was requested, written by the host alone. So
neither a beat nor a check for a stop costs a system call.

The rest is the dump area, which this process writes through the descriptor and does not map. `faulthandler` leaves the
stacks of all threads there: at a crash, and at `DUMP_SIGNAL`, which a host sends to a process that has missed a
deadline. It needs neither the interpreter's lock nor memory, and works also in the middle of a call into C. Then the
signal has its default effect, so that the exit tells the host that the dump is complete.
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
"""How long it is. A dump has a hundred frames of a hundred threads at most, and what does not fit is left out."""

DUMP_SIGNAL: int = signals.SIGRTMIN + 7
"""Asks for a dump. One of the signals that mean nothing to anybody, and end a process that does not expect them."""


def make_page() -> int:
    """Make an empty page with a dump area and return its descriptor: for the parent of a child.

    Raises:
        OSError: the system has no memory or no descriptor left.
    """
    import fcntl  # not everywhere, and a launcher says in its `start` where it cannot run

    page = os.memfd_create("spindle_trio", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(page, DUMP_OFFSET + DUMP_BYTES)
        # A child that could shrink the page would have its host killed at the next look (SIGBUS); one that could let it
        # grow would have all the memory there is.
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
        fd: the page, which stays open for that. No process that the entry starts gets it.
    """
    os.set_inheritable(fd, False)
    os.lseek(fd, DUMP_OFFSET, os.SEEK_SET)
    faulthandler.enable(fd, all_threads=True)
    faulthandler.register(DUMP_SIGNAL, fd, all_threads=True, chain=True)
