"""The resource limits of one process: held by control groups, by limits of the system, or by looking at its tree.

There are three means. ``cgroup``: the kernel holds memory, pids and cpus of the whole tree. ``sampler``: one task looks
at all trees whose limits no group holds, and ends those that are over. ``rlimit``: the kernel holds processor time,
descriptors and the size of files, for each process of the tree; the sampler adds up the processor time of the tree.
"""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._model._resource_limits import ResourceLimits, limit_text
from spindle_trio._model._usage import Usage
from spindle_trio.launchers._local._limit_groups import LimitGroup, LimitGroups
from spindle_trio.launchers._local._tree_usage import memory_of, processor_seconds_of, threads_of, usage_of

if TYPE_CHECKING:
    from spindle_trio.abc import ExitStatus

__all__ = ["HeldLimits", "LimitKeeper"]

LOOK_SECONDS: Final = 0.05
"""Seconds between two looks at the trees that no group holds."""

_SHELL_SIGNAL: Final = 128
"""What a shell adds to the number of the signal that has ended a program."""

_BY_GROUPS: Final = ("memory", "pids", "cpus")
_BY_SYSTEM: Final[Mapping[str, str]] = {"cpu_seconds": "cpu", "open_files": "nofile", "file_bytes": "fsize"}

_log = logging.getLogger("spindle_trio.launchers")


class HeldLimits:
    """The limits of one process."""

    def __init__(self, limits: ResourceLimits, group: LimitGroup | None, keeper: LimitKeeper) -> None:
        self._limits: Final = limits
        self._group: Final = group
        self._keeper: Final = keeper
        self._pids: Callable[[], list[int]] = list
        self._kill: Callable[[], None] = _nothing
        self._hit: str | None = None
        self._peak_memory = 0
        self._peak_pids = 0
        self._seconds = 0.0
        given = limits.given()
        self._by_group = {name for name in given if name in _BY_GROUPS and keeper.groups.can_hold(name)}
        self._is_watched = "cpu_seconds" in given or any(
            name in given and name not in self._by_group for name in ("memory", "pids")
        )
        self._is_watched = self._is_watched or "memory" in self._by_group  # version 1 kills one process of a tree only

    @property
    def order(self) -> dict[str, object]:
        """What the process has to do itself, for its first frame."""
        given = self._limits.given()
        rlimits = {name: math.ceil(given[field]) for field, name in _BY_SYSTEM.items() if field in given}
        return {"groups": [] if self._group is None else list(self._group.paths), "rlimits": rlimits}

    def begin(self, pids: Callable[[], list[int]], kill: Callable[[], None]) -> None:
        """Look after a process from now on.

        Args:
            pids: lists its tree.
            kill: ends it.
        """
        self._pids, self._kill = pids, kill
        if self._is_watched:
            self._keeper.watch(self)

    def end(self) -> None:
        """Look after it no longer: it has ended."""
        self._keeper.forget(self)

    def look(self) -> None:
        """End the tree if it is over a limit."""
        if self._hit is not None:
            self._kill()  # it may have started something meanwhile
            return
        limits, group = self._limits, self._group
        if group is not None and limits.memory is not None and group.out_of_memory():
            self._end_for("memory", limits.memory, limits.memory)
            return
        pids: list[int] | None = None
        if limits.memory is not None and "memory" not in self._by_group:
            pids = self._pids()
            used = memory_of(pids, enough=limits.memory)
            self._peak_memory = max(self._peak_memory, used)
            if used > limits.memory:
                self._end_for("memory", used, limits.memory)
                return
        if limits.pids is not None and "pids" not in self._by_group:
            pids = self._pids() if pids is None else pids
            count = threads_of(pids)
            self._peak_pids = max(self._peak_pids, count)
            if count > limits.pids:
                self._end_for("pids", count, limits.pids)
                return
        if limits.cpu_seconds is not None:
            self._seconds = max(self._seconds, self._processor_seconds(pids))
            if self._seconds > limits.cpu_seconds:
                self._end_for("cpu_seconds", self._seconds, limits.cpu_seconds)

    def hit(self, status: ExitStatus, *, is_shim: bool) -> str | None:
        """Say which limit the process had reached when it ended; see `LaunchedProcess.limit_hit`.

        Args:
            status: how it ended.
            is_shim: whether it is the shim of a command, whose exit code tells of its program as a shell's does.
        """
        limits, group = self._limits, self._group
        ended_by = status.signal
        if is_shim and status.code is not None and status.code > _SHELL_SIGNAL:
            ended_by = status.code - _SHELL_SIGNAL
        if self._hit is not None:
            return self._hit
        if group is not None and limits.memory is not None and group.out_of_memory():
            return limit_text("memory", limits.memory, limits.memory)
        if limits.cpu_seconds is not None and ended_by in (signal.SIGXCPU, signal.SIGKILL):
            used = max(self._seconds, self._group_seconds() or 0.0)
            if ended_by == signal.SIGXCPU or used >= limits.cpu_seconds:
                return limit_text("cpu_seconds", max(used, limits.cpu_seconds), limits.cpu_seconds)
        if limits.file_bytes is not None and ended_by == signal.SIGXFSZ:
            return limit_text("file_bytes", limits.file_bytes, limits.file_bytes)
        if group is not None and limits.pids is not None and status.code != 0 and group.refused_pids():
            return limit_text("pids", limits.pids, limits.pids)
        return None

    def usage(self) -> Usage:
        """Look at what the tree uses now."""
        group = self._group
        seen = usage_of(self._pids())
        if group is None:
            return seen
        memory, pids, seconds = group.memory(), group.pids(), self._group_seconds()
        return Usage(
            memory=seen.memory if memory is None else memory,
            pids=seen.pids if pids is None else pids,
            processor_seconds=seen.processor_seconds if seconds is None else seconds,
        )

    def peaks(self) -> Usage:
        """Return the most that it has used."""
        group = self._group
        memory = None if group is None else group.peak_memory()
        pids = None if group is None else group.peak_pids()
        seconds = self._group_seconds()
        return Usage(
            memory=(self._peak_memory or None) if memory is None else memory,
            pids=(self._peak_pids or None) if pids is None else pids,
            processor_seconds=(self._seconds or None) if seconds is None else seconds,
        )

    def release(self) -> None:
        """Look after it no longer, and remove its groups. They are read until then."""
        self.end()
        if self._group is not None:
            self._keeper.groups.release(self._group)

    def _end_for(self, name: str, used: float, bound: float) -> None:
        self._hit = limit_text(name, used, bound)
        self._kill()

    def _group_seconds(self) -> float | None:
        return None if self._group is None else self._group.processor_seconds()

    def _processor_seconds(self, pids: list[int] | None) -> float:
        seconds = self._group_seconds()
        return processor_seconds_of(self._pids() if pids is None else pids) if seconds is None else seconds


class LimitKeeper:
    """Holds the limits of a launcher's processes. Made by the first spawn with a limit, or question about limits."""

    def __init__(self, groups: LimitGroups) -> None:
        self.groups: Final = groups
        self._watched: dict[HeldLimits, None] = {}
        self._news = trio.Event()
        self._scope = trio.CancelScope()
        self._is_running = False

    @property
    def means(self) -> dict[str, str]:
        """By which means it holds each limit; see `Launcher.limit_means`."""
        means = {name: "cgroup" for name in _BY_GROUPS if self.groups.can_hold(name)}
        return {"memory": "sampler", "pids": "sampler"} | means | dict.fromkeys(_BY_SYSTEM, "rlimit")

    @property
    def problems(self) -> dict[str, str]:
        """Why a limit is held by a weaker means, or not at all; see `Launcher.limit_problems`."""
        return dict(self.groups.problems)

    def hold(self, limits: ResourceLimits, start_soon: Callable[[Callable[[], Awaitable[None]]], None]) -> HeldLimits:
        """Prepare to hold the limits of a process.

        Args:
            limits: these.
            start_soon: starts the task that looks at processes, the first time.

        Raises:
            OSError: the system refuses.
        """
        held = HeldLimits(limits, self.groups.make(limits), self)
        if not self._is_running:
            self._is_running = True
            start_soon(self.run)
        return held

    def watch(self, held: HeldLimits) -> None:
        """Look at a process from now on."""
        self._watched[held] = None
        self._news.set()

    def forget(self, held: HeldLimits) -> None:
        """Look at a process no longer."""
        self._watched.pop(held, None)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Look at all that are watched, until `stop`."""
        with self._scope:
            while True:
                await self._news.wait()
                while self._watched:
                    for held in list(self._watched):
                        try:
                            held.look()
                        except OSError as error:  # no descriptor is left: the next look may have one
                            _log.warning("a look at what a process uses has failed: %s", error)
                    await trio.sleep(LOOK_SECONDS)
                self._news = trio.Event()

    def stop(self) -> None:
        """Have `run` return."""
        self._scope.cancel()

    def close(self) -> None:
        """Remove all groups."""
        self.groups.close()


def _nothing() -> None:
    pass
