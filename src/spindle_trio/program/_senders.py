"""Tells who has sent a notification: a process of the program's tree, or a foreign one.

The kernel says who sent a datagram. All processes of the tree descend from the shim, which adopts orphans. In a PID
namespace of its own there is nobody else, and what comes from outside has the pid 0.
"""

from __future__ import annotations

import os
from typing import Final

_MOST_GENERATIONS: Final = 64


def descends(pid: int) -> bool | None:
    """Whether a process descends from this one, or is it; `None` if it has ended or cannot be looked up."""
    own = os.getpid()
    try:
        for _ in range(_MOST_GENERATIONS):
            if pid == own:
                return True
            if pid <= 1:
                return False
            pid = _parent_of(pid)
    except OSError:
        return None
    return False


def is_own(pid: int, user: int) -> bool:
    """Whether a notification comes from the program's tree.

    Args:
        pid: the sender's.
        user: the sender's.
    """
    if pid == 0:
        return False  # of another PID namespace
    if not _proc_fits():
        return True  # this one has a PID namespace of its own, and no `/proc` for it: nobody else is in there
    answer = descends(pid)
    # One that has ended cannot be looked up. Only its user and the superuser can have entered the socket's folder.
    return user in (0, os.geteuid()) if answer is None else answer


def _proc_fits() -> bool:
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return True


def _parent_of(pid: int) -> int:
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 4096)
    finally:
        os.close(fd)
    return int(data.rpartition(b")")[2].split()[1])
