"""The pids of what a process has started, as it sees them and as this program does: in a PID namespace they differ."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def outside(kin: int, inside: int) -> int:
    """Return the number that this program has for a process that exists.

    Args:
        kin: a process in its namespace, as this program numbers them; a zombie will do.
        inside: its number in there.

    Raises:
        ProcessLookupError: there is none.
    """
    namespace = os.readlink(f"/proc/{kin}/ns/pid")
    if namespace == os.readlink("/proc/self/ns/pid"):
        return inside
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace and number_inside(pid) == inside:
                return pid
    raise ProcessLookupError(f"nobody in the namespace of {kin} has the number {inside}")


def number_inside(pid: int) -> int | None:
    """Return the number by which a process knows itself; `None` if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None
