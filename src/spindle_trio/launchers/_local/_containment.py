"""The host's part of containment: it ends a process's tree. `spindle_trio.fork_server._levels` describes the levels.

A `Tree` is everything that one process has started, as far as its level can find it. Its pidfd refers to the process,
or at level `sweep` to its init, which ends last. At `pidns` the init has a second pidfd, whose end says that nothing is
left.
"""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Final

import trio

from spindle_trio._linux._control_groups import remove_group
from spindle_trio._model import Containment
from spindle_trio.launchers._local._descriptors import RESERVE
from spindle_trio.launchers._local._reaper import has_ended, wait_ended
from spindle_trio.launchers._local._tree import (
    hold_tree,
    kill_descendants,
    kill_group,
    kill_held,
    kill_tree,
    pid_of,
    signal_pidfd,
)

__all__ = [
    "ENDED_EARLY",
    "LEVELS",
    "AdoptedTree",
    "GroupTree",
    "NamespaceTree",
    "Tree",
    "clear_group",
    "open_kill_file",
    "tree_of",
]

ENDED_EARLY: Final = "the process has ended before it could be used"
"""What is said of a launch whose process is gone before the host holds it."""

LEVELS: Final = tuple(Containment)
"""In the order of their places in `spindle_trio.fork_server._levels.LEVELS`."""

CLEAR_SECONDS: Final = 0.5
"""Seconds that a control group may take to become empty after its kill."""

ADOPT_SECONDS: Final = 1.0
"""Seconds that the guard, which looks twice a second, may take to reap a process whose init was killed."""

_LOOK_SECONDS: Final = 0.002


class Tree(ABC):
    """One process, and everything that is killed with it."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the whole tree, at once. Never blocks or raises; does nothing once the process has been reaped."""

    def roots(self) -> list[int]:
        """List pids from which everything in it descends, apart from the entry's process."""
        return []

    def hold(self, entry: int) -> bool:
        """Make sure that the rest of the tree can still be ended after the entry's process; `kill` or `clear` follows.

        This may stop that process; the caller continues it. Never blocks.

        Args:
            entry: the pid of that process.

        Returns:
            Whether that worked. Levels that lose no process need to do nothing for it.
        """
        return True

    def let_go(self) -> None:
        """Release what `hold` has taken, unless `kill` or `clear` has, and all descriptors."""

    async def clear(self) -> None:
        """Make sure that nothing is left, after the pidfd's end and before any reaping. Bounded."""

    async def settle(self) -> None:
        """Wait until nothing is left, after the reaping, at a level that knows only then. Bounded."""


class NamespaceTree(Tree):
    """Level `pidns`: it ends with its init."""

    def __init__(self, pidfd: int, init: int) -> None:
        """Begin.

        Args:
            pidfd: refers to the process.
            init: refers to the init; this object owns it from now on.
        """
        self._pidfd = pidfd
        self._init = init

    def kill(self) -> None:
        """Kill the init; see `Tree.kill`."""
        self._end()
        signal_pidfd(self._pidfd, signal.SIGKILL)

    def roots(self) -> list[int]:
        """Name the init, which adopts orphans; see `Tree.roots`."""
        init = pid_of(self._init) if self._init >= 0 else None
        return [] if init is None else [init]

    def let_go(self) -> None:
        """Close the init's descriptor; see `Tree.let_go`."""
        if self._init >= 0:
            os.close(self._init)
            self._init = -1

    async def clear(self) -> None:
        """Kill the init, which ends once the process has been reaped; see `Tree.clear`."""
        self._end()

    async def settle(self) -> None:
        """Wait for the end of the init, which shows that the whole tree has ended; see `Tree.settle`."""
        if self._init >= 0 and not has_ended(self._init):
            with trio.move_on_after(CLEAR_SECONDS):
                await wait_ended(self._init)

    def _end(self) -> None:
        if self._init >= 0:
            signal_pidfd(self._init, signal.SIGKILL)


class GroupTree(Tree):
    """Level `killpg`: a walk finds the descendants."""

    def __init__(self, pid: int, pidfd: int) -> None:
        """Begin.

        Args:
            pid: the process that leads the group.
            pidfd: refers to it.
        """
        self._pid = pid
        self._pidfd = pidfd
        self._held: list[int] | None = None

    def kill(self) -> None:
        """Kill the descendants and the group; see `Tree.kill`."""
        with RESERVE.lent():
            kill_tree(self._pid, self._pidfd)
            self.let_go()

    def hold(self, entry: int) -> bool:
        """Stop it, and keep a descriptor of each descendant; see `Tree.hold`."""
        self._held = hold_tree(self._pid, self._pidfd)
        return self._held is not None

    def let_go(self) -> None:
        """Kill what is held; see `Tree.let_go`."""
        if self._held:
            kill_held(self._held)

    async def clear(self) -> None:
        """Kill what is left of the group, and what is held; see `Tree.clear`."""
        with RESERVE.lent():
            self.let_go()
            if signal_pidfd(self._pidfd, 0):  # otherwise somebody else has reaped it, and the pid is free
                kill_group(self._pid)


class AdoptedTree(Tree):
    """Level `sweep`: the init outlives all that it kills, reaps the process, and ends when nothing is left.

    If somebody kills the init, the process dies with it, and the guard reaps the process.
    """

    def __init__(self, init: int, pidfd: int, entry: int) -> None:
        """Begin.

        Args:
            init: the pid of the init.
            pidfd: refers to the init.
            entry: refers to the process; this object owns it from now on.
        """
        self._init = init
        self._pidfd = pidfd
        self._entry = entry

    def kill(self) -> None:
        """Kill the descendants of the init, but not the init; see `Tree.kill`."""
        with RESERVE.lent():
            kill_descendants(self._init, self._pidfd)
        self._kill_entry()

    def roots(self) -> list[int]:
        """Name the init, which adopts orphans; see `Tree.roots`."""
        return [self._init]

    def let_go(self) -> None:
        """Close the descriptor of the process; see `Tree.let_go`."""
        if self._entry >= 0:
            os.close(self._entry)
            self._entry = -1

    async def clear(self) -> None:
        """Wait until the process has been reaped. It has, unless somebody killed its init; see `Tree.clear`."""
        deadline = trio.current_time() + ADOPT_SECONDS
        while self._kill_entry() and trio.current_time() < deadline:  # noqa: ASYNC110  # no event shows that
            await trio.sleep(_LOOK_SECONDS)

    def _kill_entry(self) -> bool:
        """Kill the process, and return whether it exists, even as a zombie."""
        return self._entry >= 0 and signal_pidfd(self._entry, signal.SIGKILL)


class ControlGroupTree(Tree):
    """Level `cgroup`."""

    def __init__(self, pidfd: int, group: str, kill_file: int) -> None:
        """Begin.

        Args:
            pidfd: refers to the process.
            group: the group's folder, which is removed in the end.
            kill_file: see `open_kill_file`; this object owns it from now on.
        """
        self._pidfd = pidfd
        self._group = group
        self._kill_file = kill_file

    def kill(self) -> None:
        """Kill the group; see `Tree.kill`."""
        self._kill_group()
        signal_pidfd(self._pidfd, signal.SIGKILL)  # it may not have entered its group yet

    def roots(self) -> list[int]:
        """List what is in the group; see `Tree.roots`."""
        try:
            with open(f"{self._group}/cgroup.procs", "rb", buffering=0) as file:
                return [int(pid) for pid in file.read().split()]
        except OSError:
            return []

    def let_go(self) -> None:
        """Close the group's file; see `Tree.let_go`."""
        if self._kill_file >= 0:
            os.close(self._kill_file)
            self._kill_file = -1

    async def clear(self) -> None:
        """Kill the group, wait until it is empty, and remove it; see `Tree.clear`."""
        self._kill_group()
        await _remove_empty(self._group)

    def _kill_group(self) -> None:
        with suppress(OSError):  # it has been removed: the server is gone, or has cleared it
            os.write(self._kill_file, b"1")


def open_kill_file(group: str) -> int:
    """Open the file that kills a control group. At the launch, since the program may have no descriptor left later.

    Raises:
        OSError: this program has no descriptor left, or there is no such group any more.
    """
    try:
        return os.open(f"{group}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # its server has ended, and what guards that has removed the group
        raise OSError(ENDED_EARLY) from None


async def clear_group(group: str) -> None:
    """Kill a control group, wait until it is empty (at most `CLEAR_SECONDS`), and remove it."""
    with suppress(OSError), RESERVE.lent():  # it may have been removed
        kill_file = open_kill_file(group)
        try:
            os.write(kill_file, b"1")
        finally:
            os.close(kill_file)
    await _remove_empty(group)


async def _remove_empty(group: str) -> None:
    deadline = trio.current_time() + CLEAR_SECONDS
    # The kernel tells when it is empty, but in a way that Trio cannot wait for (POLLPRI).
    while not _is_removed(group) and trio.current_time() < deadline:  # noqa: ASYNC110
        await trio.sleep(_LOOK_SECONDS)


def _is_removed(group: str) -> bool:
    with RESERVE.lent():  # to list the groups below it
        return remove_group(group)


def tree_of(level: Containment, pid: int, pidfd: int, other: int, *, group: tuple[str, int] | None) -> Tree:
    """Make the `Tree` of a process.

    Args:
        level: the level of containment.
        pid: the pid, in `/proc`, of the pidfd's process.
        pidfd: refers to the process, or to its init if the init is its parent.
        other: refers to the other of these two, if there are two; the tree owns it from now on.
        group: the folder of its control group, and the file that kills it.
    """
    if level is Containment.PIDNS:
        return NamespaceTree(pidfd, other)
    if level is Containment.SWEEP:
        return AdoptedTree(pid, pidfd, other)
    os.close(other)
    if group is not None:
        return ControlGroupTree(pidfd, *group)
    return GroupTree(pid, pidfd)
