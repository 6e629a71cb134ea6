"""Kill a process with all that descends from it: freeze, walk, kill.

Killing from the top would orphan the descendants, and nothing could find them again. So this module freezes the process
first, then each descendant as it finds it, and repeats the walk until it finds nothing new: frozen processes start
nothing. Then it kills the deepest first, since each one's parent proves that its pid still means the same process. A
pid alone proves nothing: this module opens a pidfd, then reads the parent of that pid, and only then signals the pidfd.
If the pid was reused in between, either the parent is a stranger or the pidfd belongs to a process that is gone.

All pids here are those of `/proc`; system calls may take others (`spindle_trio._linux._pid_numbers`).

A process that has double-forked away before the kill is no descendant any more; only the kill of the process group can
reach it.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from spindle_trio._linux._pid_numbers import number_from_proc

__all__ = [
    "children_of",
    "hold_tree",
    "is_stopped",
    "kill_descendants",
    "kill_group",
    "kill_held",
    "kill_tree",
    "open_child",
    "pid_of",
    "signal_pidfd",
]

_MAX_WALKS: Final = 16
"""How many walks at most. If the tree still grows then, only the kill of the group ends the rest."""

_MAX_DESCENDANTS: Final = 4_096
"""How many descendants to look at, at most, so that a fork bomb cannot hold up its killer."""

_MAX_HELD: Final = 256
"""How many descendants to hold, each by a descriptor, while their process dumps its stacks."""

_LINKS_WITH_ONE_THREAD: Final = 3
"""Links of `/proc/PID/task` for one thread: two as for any empty folder, and one for each thread."""

_READ_BYTES: Final = 4 * 1024


def kill_tree(pid: int, pidfd: int) -> None:
    """Kill a process that leads a session, its process group and its descendants. Never blocks, and never raises.

    Args:
        pid: the process's pid. Its parent, this program or another, does not reap it meanwhile.
        pidfd: refers to the process. If that has been reaped, nothing happens.
    """
    if not signal_pidfd(pidfd, signal.SIGSTOP):
        return  # somebody else has reaped it, and the pid may mean another process by now
    # Deepest first: each parent is still there, and proves the number of the one that is killed.
    for descendant, parent in reversed(_freeze_descendants(pid)):
        _signal_child_of(parent, descendant, signal.SIGKILL)
    kill_group(pid)
    signal_pidfd(pidfd, signal.SIGKILL)


def kill_descendants(pid: int, pidfd: int) -> None:
    """Kill all descendants of a process, but not the process. Never blocks, and never raises.

    Args:
        pid: the process's pid.
        pidfd: refers to the process. If that has been reaped, nothing happens.
    """
    if not signal_pidfd(pidfd, 0):
        return
    for descendant, parent in reversed(_freeze_descendants(pid)):
        _signal_child_of(parent, descendant, signal.SIGKILL)
    signal_pidfd(pidfd, signal.SIGCONT)  # one of them may have stopped it


def kill_group(pid: int) -> None:
    """Kill the process group that a process leads. Never raises.

    Args:
        pid: the process's pid. It must not have been reaped: even a zombie reserves the group's number.
    """
    try:
        os.killpg(number_from_proc(pid), signal.SIGKILL)
    except OSError:
        pass  # the group is empty, or only has processes with another user's rights


def hold_tree(pid: int, pidfd: int) -> list[int] | None:
    """Stop a process and its descendants, before only the process continues for its last moment.

    Args:
        pid: as in `kill_tree`.
        pidfd: as in `kill_tree`.

    Returns:
        A pidfd for each descendant, for `kill_held`: nobody can find them once their process has ended. `None` if the
        process is gone, or if there are too many to hold. They are stopped then, and `kill_tree` must follow.
    """
    if not signal_pidfd(pidfd, signal.SIGSTOP):
        return None
    descendants = _freeze_descendants(pid)
    if len(descendants) > _MAX_HELD:
        return None
    opened = [open_child(parent, descendant) for descendant, parent in descendants]
    held = [fd for fd in opened if fd is not None]
    if len(held) < len(descendants):  # no descriptor is left, or one was reaped before its parent had stopped
        for fd in held:
            os.close(fd)
        return None
    return held


def kill_held(held: list[int]) -> None:
    """Kill the descendants that are held, whether their process has ended or not, and close them. Never raises."""
    while held:
        fd = held.pop()
        signal_pidfd(fd, signal.SIGKILL)
        os.close(fd)


def open_child(parent: int, pid: int) -> int | None:
    """Open a pidfd of a process if it is a child of that parent; `None` if not, or if no descriptor is left."""
    try:
        pidfd = os.pidfd_open(number_from_proc(pid))
    except OSError:
        return None
    if _parent_of(pid) == parent:
        return pidfd
    os.close(pidfd)
    return None


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[0] == b"T"
    except (OSError, IndexError):
        return False


def _freeze_descendants(root: int) -> list[tuple[int, int]]:
    """Stop every descendant, and return each with its parent, the parents first."""
    found: dict[int, int] = {}
    for _ in range(_MAX_WALKS):
        discovered = 0
        members = [root]
        for parent in members:  # grows while it is walked
            for child in children_of(parent):
                if child not in found:
                    if len(found) >= _MAX_DESCENDANTS:
                        return list(found.items())
                    if not _signal_child_of(parent, child, signal.SIGSTOP):
                        continue
                    found[child] = parent
                    discovered += 1
                members.append(child)
        if not discovered:
            break
    return list(found.items())


def _signal_child_of(parent: int, pid: int, number: signal.Signals) -> bool:
    """Signal a process if it is a child of that parent, and return whether it is."""
    pidfd = open_child(parent, pid)
    if pidfd is None:
        return False  # gone, or no descriptor left: the group is killed all the same
    try:
        return signal_pidfd(pidfd, number)
    finally:
        os.close(pidfd)


def signal_pidfd(pidfd: int, number: int) -> bool:
    """Signal a process (0 only looks), and return whether it exists, even as a zombie. Never raises."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it has taken on another user's rights, or the system refuses for reasons of its own
    return True


def pid_of(pidfd: int) -> int | None:
    """Return the pid that `/proc` has for a process; `None` if it has been reaped.

    Raises:
        OSError: this program has no descriptor left to look with.
    """
    for line in _read(f"/proc/self/fdinfo/{pidfd}").splitlines():
        if line.startswith(b"Pid:"):
            number = int(line[4:])
            return number if number > 0 else None
    return None


def children_of(pid: int) -> list[int]:
    """List the children of every thread of a process; none if it is gone."""
    # Most processes have one thread and no children, and finding that out is most of the cost of a kill. So this lists
    # no threads if there is one, and buffers nothing.
    tasks = f"/proc/{pid}/task"
    try:
        threads = [str(pid)] if os.stat(tasks).st_nlink == _LINKS_WITH_ONE_THREAD else os.listdir(tasks)
    except OSError:
        return []
    try:
        return [int(child) for thread in threads for child in _read(f"{tasks}/{thread}/children").split()]
    except OSError:
        # The kernel was built without these files, or a thread has just ended.
        return _children_by_scanning(pid)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while chunk := os.read(fd, _READ_BYTES):
            data += chunk
        return data
    finally:
        os.close(fd)


def _children_by_scanning(pid: int) -> list[int]:
    """List the children of a process by looking at every process in the system."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    return [int(name) for name in names if name.isdecimal() and _parent_of(int(name)) == pid]


def _parent_of(pid: int) -> int | None:
    """Read the pid of a process's parent; `None` if there is no such process."""
    try:
        # The second field is the program's name in parentheses, and may itself contain some.
        return int(_read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
