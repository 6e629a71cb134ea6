"""Instruments: they watch the scheduler, or read /proc."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

import trio


@contextmanager
def kept_affinity() -> Iterator[None]:
    """Restore the thread's cores when the block is left."""
    cores = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


_cores = sorted(os.sched_getaffinity(0))


def on_two_cores(pid: int | None) -> None:
    """Pin this thread to one core and a process to another; if there is only one, both to it."""
    _pin(pid, _cores[-1])


def on_one_core(pid: int | None) -> None:
    """Pin this thread and a process to the same core."""
    _pin(pid, _cores[0])


def _pin(pid: int | None, core: int) -> None:
    assert pid is not None, "it is a real process"
    os.sched_setaffinity(0, {_cores[0]})
    os.sched_setaffinity(pid, {core})


class _Instrument(trio.abc.Instrument):
    """An instrument that watches during a block."""

    def __enter__(self) -> Self:
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        trio.lowlevel.remove_instrument(self)


class StepTimes(_Instrument):
    """Notes the longest step of any task, in seconds: nothing else could run in that time.

    Full garbage collections count aside: how long one takes depends on all objects of the program.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.longest_collection = 0.0
        self._began = self._collection_began = perf_counter()

    def __enter__(self) -> Self:
        gc.callbacks.append(self._collect)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        gc.callbacks.remove(self._collect)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.longest = max(self.longest, perf_counter() - self._began)

    def _collect(self, phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            self._collection_began = perf_counter()
        elif about["generation"] == 2:
            span = perf_counter() - self._collection_began
            self._began += span
            self.longest_collection = max(self.longest_collection, span)


class WakeUps(_Instrument):
    """Counts how often the scheduler has come back from waiting."""

    def __init__(self) -> None:
        self.count = 0

    def after_io_wait(self, timeout: float) -> None:
        if timeout:
            self.count += 1


def unique_set_size(pid: int | None) -> float:
    """Return how much memory a process has for itself, in MiB: what would be freed if it ended."""
    kib = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Private_"):
            kib += int(line.split()[1])
    return kib / 1024


def ancestors(pid: int | None) -> list[int]:
    """List the processes between this program and one of its descendants, such as server and init; nearest first."""
    found: list[int] = []
    parent = _stat(pid)[1]
    while int(parent) not in {0, 1, os.getpid()}:
        found.append(int(parent))
        parent = _stat(int(parent))[1]
    return found


def processor_seconds(pid: int) -> float:
    """Return how much processor time a process has used, in seconds."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def zombies() -> list[int]:
    """List the descendants of this program that have ended and are not reaped."""
    states: dict[int, str] = {}
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            states[int(name)], parent = _stat(int(name))[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(name)] = int(parent)
    return [pid for pid, state in states.items() if state == "Z" and _descends(pid, parents)]


def children() -> list[int]:
    """List the processes that this program has started and that it has not reaped."""
    threads = os.listdir("/proc/self/task")
    lists = [Path(f"/proc/self/task/{thread}/children").read_text(encoding="ascii") for thread in threads]
    return [int(pid) for pids in lists for pid in pids.split()]


def open_descriptors(pid: int | None = None) -> int:
    """Count the descriptors of a process, by default this program's."""
    return len(os.listdir(f"/proc/{pid or 'self'}/fd"))


def _descends(pid: int, parents: dict[int, int]) -> bool:
    """Whether this program is an ancestor of a process."""
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def _stat(pid: int | None) -> list[str]:
    """Read the fields of a process in /proc, from its state on: its name before that may have blanks."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
