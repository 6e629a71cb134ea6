"""Closes the descriptors that a process has inherited and must not keep.

`os.closerange` up to a huge number is not enough: without `close_range(2)` (old kernels, filters that do not know it,
interpreters built without it) it becomes a loop over every number.
"""

from __future__ import annotations

import os

_MOST = 1 << 20
"""How many numbers to try if nothing lists the open ones: the usual bound of the kernel (`fs.nr_open`)."""


def close_all_but(kept: tuple[int, ...], *, first: int) -> None:
    """Close every descriptor from `first` on, except those to keep."""
    try:
        open_fds = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no `/proc`, no number in it, or no descriptor left to read it with
        _close_up_to_limit(kept, first)
        return
    for fd in open_fds:
        if fd >= first and fd not in kept:
            os.closerange(fd, fd + 1)  # ignores that the listing's own descriptor is closed by now


def _close_up_to_limit(kept: tuple[int, ...], first: int) -> None:
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = max(first, fd + 1)
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(first, limit if 0 < limit < _MOST else _MOST)
