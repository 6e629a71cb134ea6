"""Out-of-memory kills, as the kernel counts them for each control group.

The SIGKILL of the out-of-memory killer looks like any other. But the control group counts such kills: `oom_kill` in
`memory.events` (cgroup v2) or in `memory.oom_control` (v1). The kernel counts before it kills. So the counter is read
once in advance, and again after a SIGKILL that the host did not send; ordinary starts and ends read nothing.

A counter says how many were killed, not which. If several were killed at once, each end seen within `CREDIT_SECONDS`
counts as one of those.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio

__all__ = ["MemoryEvents"]

CREDIT_SECONDS: Final = 2.0
"""Seconds that a counted kill may wait for its process's end."""

_COUNTERS: Final = ("memory.events", "memory.oom_control")


class MemoryEvents:
    """The counter of one control group."""

    def __init__(self, group: Path) -> None:
        """Begin to count from now on.

        Args:
            group: the folder of the group; it need not have a counter.
        """
        self._group = group
        self._seen = self._count()
        self._credit = 0
        self._credit_ends = 0.0

    def __repr__(self) -> str:
        return f"<MemoryEvents {self._group} seen={self._seen}>"

    @staticmethod
    def of_this_program() -> MemoryEvents | None:
        """Watch the group of this program and its processes; `None` if memory is not accounted for."""
        try:
            membership, mounts = _read("/proc/self/cgroup"), _read("/proc/self/mountinfo")
        except OSError:
            return None
        groups = (MemoryEvents(Path(folder)) for folder in groups_in(membership, mounts))
        return next((group for group in groups if group._seen is not None), None)

    def has_killed(self) -> bool | None:
        """Whether a process of the group that has just ended by SIGKILL was killed for lack of memory.

        Returns:
            `None` if there is no counter.
        """
        count, now = self._count(), trio.current_time()
        if count is None or self._seen is None:
            self._seen = count
            return None
        if now > self._credit_ends:
            self._credit = 0
        if count > self._seen:
            self._credit += count - self._seen
            self._credit_ends = now + CREDIT_SECONDS
        self._seen = count
        if self._credit == 0:
            return False
        self._credit -= 1
        return True

    def _count(self) -> int | None:
        for name in _COUNTERS:
            try:
                lines = _read(self._group / name).splitlines()
            except OSError:
                continue
            for line in lines:
                words = line.split()
                if words[:1] == ["oom_kill"] and words[1:] and words[1].isdecimal():
                    return int(words[1])
        return None


def groups_in(membership: str, mounts: str) -> Iterator[str]:
    """Find the folders of the groups that account for a process's memory, version 1 first.

    Args:
        membership: the content of ``/proc/PID/cgroup``.
        mounts: the content of ``/proc/PID/mountinfo``.
    """
    paths: dict[str, str] = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            paths["cgroup"] = path
        elif not controllers:
            paths["cgroup2"] = path
    for kind in ("cgroup", "cgroup2"):
        for line in mounts.splitlines():
            fields, _, rest = line.partition(" - ")
            root, target = fields.split()[3:5]
            found, _, options = rest.split()[:3]
            if found == kind in paths and (kind == "cgroup2" or "memory" in options.split(",")):
                below = os.path.relpath(paths[kind], root)
                if below.split("/")[0] != "..":  # otherwise the group is not visible from here
                    yield os.path.normpath(os.path.join(target, below))


def _read(path: str | Path) -> str:
    return Path(path).read_text(errors="replace")
