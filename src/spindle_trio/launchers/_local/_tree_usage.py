"""What the processes of a tree use, as `/proc` shows it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from spindle_trio._model._usage import Usage
from spindle_trio.launchers._local._tree import children_of

__all__ = ["memory_of", "processor_seconds_of", "threads_of", "tree_from", "usage_of"]

_PAGE: Final = os.sysconf("SC_PAGESIZE")
_TICK: Final = os.sysconf("SC_CLK_TCK")
_MOST: Final = 4_096
"""How many processes to look at, at most."""


def tree_from(roots: Iterable[int]) -> list[int]:
    """List processes with all that descend from them. What starts or ends meanwhile may be missing."""
    found = dict.fromkeys(roots)
    members = list(found)
    for parent in members:  # grows while it is walked
        if len(members) >= _MOST:
            break
        for child in children_of(parent):
            if child not in found:
                found[child] = None
                members.append(child)
    return members


def usage_of(pids: Iterable[int]) -> Usage:
    """Add up what processes use now."""
    live = [pid for pid in pids if os.path.exists(f"/proc/{pid}/stat")]
    return Usage(memory=memory_of(live), pids=threads_of(live), processor_seconds=processor_seconds_of(live))


def memory_of(pids: Iterable[int], enough: int | None = None) -> int:
    """Add up the memory of processes, in bytes. What several share counts once, as far as the system tells.

    Args:
        pids: the processes.
        enough: a figure below which nobody asks for more than an upper bound, which costs less.
    """
    pids = list(pids)
    if enough is not None:
        upper = sum(_resident(pid) for pid in pids)
        if upper <= enough:
            return upper
    return sum(_proportional(pid) for pid in pids)


def threads_of(pids: Iterable[int]) -> int:
    """Count the threads of processes; each process has one at least."""
    fields = (_read(f"/proc/{pid}/stat").rpartition(b")")[2].split() for pid in pids)
    return sum(int(found[17]) if len(found) > 17 else 1 for found in fields)


def processor_seconds_of(pids: Iterable[int]) -> float:
    """Add up the seconds that processes have used, with those of their children that were reaped."""
    return sum(_ticks(pid) for pid in pids) / _TICK


def _resident(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE if len(fields) > 1 else 0


def _proportional(pid: int) -> int:
    """Return the memory of a process, with its share of what it has in common with others."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)  # another user's, or an old kernel


def _ticks(pid: int) -> int:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return sum(map(int, fields[11:15])) if len(fields) > 14 else 0  # utime, stime, cutime, cstime


def _read(path: str) -> bytes:
    """Read a file of `/proc`; nothing if the process is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""
