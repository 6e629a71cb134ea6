"""Control groups that hold limits. They stand beside whatever contains a process, and their controllers count its tree.

Each launcher has a group of its own for each hierarchy, next to that of this program or above it, wherever the system
allows that; below it each limited process has one, which it enters itself. Version 2 has one hierarchy with all
controllers; in version 1 each controller may have its own.

A launcher holds a lock on its groups. What a program that was killed has left behind has none, and the next launcher
removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from spindle_trio._linux._control_groups import remove_group

if TYPE_CHECKING:
    from spindle_trio._model._resource_limits import ResourceLimits

__all__ = ["LimitGroup", "LimitGroups", "hierarchies_in"]

_NAME: Final = "spindle-trio-limits-"
_CONTROLLERS: Final = ("memory", "pids", "cpu", "cpuacct")
_PERIOD: Final = 100_000
"""Microseconds in which a tree may use its share of the processors (the kernel's own default)."""

_LEAST_QUOTA: Final = 1_000
"""Microseconds: the kernel takes no less."""

_NEEDED: Final[Mapping[tuple[int, str], str]] = {
    (1, "memory"): "memory.limit_in_bytes",
    (1, "pids"): "pids.max",
    (1, "cpu"): "cpu.cfs_quota_us",
    (1, "cpuacct"): "cpuacct.usage",
    (2, "memory"): "memory.max",
    (2, "pids"): "pids.max",
    (2, "cpu"): "cpu.max",
}
"""The file that shows that a group has a controller."""

_CONTROLLER_OF: Final = {"memory": "memory", "pids": "pids", "cpus": "cpu"}


@attrs.frozen
class Hierarchy:
    """Where this program is in one hierarchy of control groups."""

    version: int
    mount: str
    """Where it is mounted."""
    folder: str
    """The group of this program."""
    controllers: frozenset[str]
    """What it may have; in version 2 its files say."""


def hierarchies_in(membership: str, mounts: str) -> Iterator[Hierarchy]:
    """Find the hierarchies that this program can see, from its ``/proc/PID/cgroup`` and ``/proc/PID/mountinfo``."""
    paths: dict[frozenset[str], str] = {}
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        paths[frozenset(names.split(",")) if names else frozenset()] = path
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        root, target = fields.split()[3:5]
        kind, _, options = rest.split()[:3]
        for controllers, path in paths.items():
            is_this = (
                kind == "cgroup2" if not controllers else kind == "cgroup" and controllers <= {*options.split(",")}
            )
            below = os.path.relpath(path, root)
            if is_this and below.split("/")[0] != "..":  # otherwise the group is not visible from here
                folder = os.path.normpath(os.path.join(target, below))
                yield Hierarchy(1 if controllers else 2, target, folder, controllers)


class LimitGroup:
    """The groups of one process: a folder for each hierarchy."""

    def __init__(self, folders: Mapping[str, tuple[int, str]]) -> None:
        self._folders = folders  # controller → version, folder
        self.paths: Sequence[str] = tuple(dict.fromkeys(folder for _, folder in folders.values()))
        """The folders, to be entered."""

    def hold(self, limits: ResourceLimits) -> None:
        """Set the limits.

        Raises:
            OSError: the kernel refuses one.
        """
        if limits.memory is not None:
            version, folder = self._folders["memory"]
            if version == 1:
                _write(f"{folder}/memory.limit_in_bytes", limits.memory)
                _write_if_there(f"{folder}/memory.memsw.limit_in_bytes", limits.memory)
            else:
                _write(f"{folder}/memory.max", limits.memory)
                _write_if_there(f"{folder}/memory.swap.max", 0)
                _write_if_there(f"{folder}/memory.oom.group", 1)
        if limits.pids is not None:
            _write(f"{self._folders['pids'][1]}/pids.max", limits.pids)
        if limits.cpus is not None:
            version, folder = self._folders["cpu"]
            quota = max(_LEAST_QUOTA, int(limits.cpus * _PERIOD))
            if version == 1:
                _write(f"{folder}/cpu.cfs_period_us", _PERIOD)
                _write(f"{folder}/cpu.cfs_quota_us", quota)
            else:
                _write(f"{folder}/cpu.max", f"{quota} {_PERIOD}")

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed one of its processes for their memory."""
        return self._counted("memory", ("memory.oom_control", "memory.events"), "oom_kill") > 0

    def refused_pids(self) -> bool:
        """Whether the kernel has refused one of its processes another process or thread."""
        return self._counted("pids", ("pids.events", "pids.events"), "max") > 0

    def memory(self) -> int | None:
        """Bytes in use."""
        return self._number("memory", ("memory.usage_in_bytes", "memory.current"))

    def peak_memory(self) -> int | None:
        """The most bytes that were in use."""
        return self._number("memory", ("memory.max_usage_in_bytes", "memory.peak"))

    def pids(self) -> int | None:
        """Processes and threads."""
        return self._number("pids", ("pids.current", "pids.current"))

    def peak_pids(self) -> int | None:
        """The most processes and threads at a time."""
        return self._number("pids", ("pids.peak", "pids.peak"))

    def processor_seconds(self) -> float | None:
        """Seconds of processor time until now."""
        if "cpuacct" in self._folders:
            used = self._number("cpuacct", ("cpuacct.usage", ""))
            return None if used is None else used / 1e9
        used = self._counted("cpu", ("cpu.stat", "cpu.stat"), "usage_usec", default=-1)
        return None if used < 0 else used / 1e6

    def remove(self) -> bool:
        """Remove the folders; return whether they are gone, which they are once no process is in them."""
        removed = [remove_group(path) for path in self.paths]
        return all(removed)

    def _number(self, controller: str, names: tuple[str, str]) -> int | None:
        if controller not in self._folders:
            return None
        version, folder = self._folders[controller]
        text = _read(f"{folder}/{names[version - 1]}").strip()
        return int(text) if text.isdecimal() else None

    def _counted(self, controller: str, names: tuple[str, str], word: str, default: int = 0) -> int:
        if controller not in self._folders:
            return default
        version, folder = self._folders[controller]
        for line in _read(f"{folder}/{names[version - 1]}").splitlines():
            name, _, value = line.partition(" ")
            if name == word and value.isdecimal():
                return int(value)
        return default


class LimitGroups:
    """The groups of a launcher."""

    def __init__(self, hierarchies: Sequence[Hierarchy], *, without_version_2: str | None = None) -> None:
        """Find out which limits groups can hold here, by making one and removing it.

        Args:
            hierarchies: those that this program can see.
            without_version_2: why that version cannot be used; `None` if it can.
        """
        self.problems: dict[str, str] = {}
        """Why a group cannot hold a limit, by the field of `ResourceLimits`."""
        self._bases: dict[str, tuple[int, str]] = {}  # controller → version, folder
        self._locks: list[int] = []
        self._is_open = False
        self._last = 0
        self._left: list[LimitGroup] = []  # of processes that had not ended when they were given up
        for controller in _CONTROLLERS:
            problem = "no control groups with this controller are mounted"
            for hierarchy in hierarchies:
                if hierarchy.version == 1 and controller not in hierarchy.controllers:
                    continue
                if hierarchy.version == 2 and without_version_2 is not None:
                    problem = without_version_2
                    continue
                found = self._base_of(hierarchy, controller)
                if isinstance(found, tuple):
                    self._bases[controller] = found
                    break
                problem = found
            else:
                for name, needed in _CONTROLLER_OF.items():
                    if needed == controller:
                        self.problems[name] = problem
        self._remove_bases()  # until a process has limits, nothing is there

    @staticmethod
    def of_this_program(*, without_version_2: str | None = None) -> LimitGroups:
        """Find those of this program."""
        hierarchies = hierarchies_in(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
        return LimitGroups(list(hierarchies), without_version_2=without_version_2)

    def can_hold(self, name: str) -> bool:
        """Whether a group can hold a limit, given by the field of `ResourceLimits`."""
        return _CONTROLLER_OF[name] in self._bases

    def make(self, limits: ResourceLimits) -> LimitGroup | None:
        """Make the groups of a process, with its limits; `None` if none of them is for groups.

        Raises:
            OSError: the system refuses; nothing is left.
        """
        self.sweep()
        given = limits.given()
        if not any(name in given and self.can_hold(name) for name in _CONTROLLER_OF):
            return None
        if not self._is_open:
            try:
                for version, base in dict.fromkeys(self._bases.values()):
                    self._make(version, base)
            except OSError:
                self._remove_bases()
                raise
            self._is_open = True
        self._last += 1
        group = LimitGroup({name: (version, f"{base}/{self._last}") for name, (version, base) in self._bases.items()})
        try:
            for path in group.paths:
                os.mkdir(path)
            group.hold(limits)
        except BaseException:
            group.remove()
            raise
        return group

    def release(self, group: LimitGroup) -> None:
        """Remove the groups of a process, now or when it has ended."""
        if not group.remove():
            self._left.append(group)

    def sweep(self) -> None:
        """Remove groups whose processes have ended since they were released."""
        self._left = [group for group in self._left if not group.remove()]

    def close(self) -> None:
        """Remove all groups. What it can hold stays known."""
        self.sweep()
        self._remove_bases()
        self._is_open = False

    def _remove_bases(self) -> None:
        for _, base in self._bases.values():
            remove_group(base)
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    def _make(self, version: int, base: str) -> None:
        """Make the group of this launcher in one hierarchy.

        Raises:
            OSError: the system refuses.
        """
        os.mkdir(base)
        lock = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._locks.append(lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if version == 2:
            _enable(base, ["memory", "pids", "cpu"])

    def _base_of(self, hierarchy: Hierarchy, controller: str) -> tuple[int, str] | str:
        """Make the group of this launcher, or find the one that was made for another controller; or say why not."""
        for version, base in self._bases.values():
            if version == hierarchy.version and os.path.exists(f"{base}/{_NEEDED.get((version, controller), '?')}"):
                return version, base
        if (hierarchy.version, controller) not in _NEEDED:
            return "this version counts processor time with the others"
        folder, problem = hierarchy.folder, ""
        while True:
            found = self._make_base(hierarchy.version, folder, controller)
            if isinstance(found, tuple):
                return found
            problem = problem or found
            folder = os.path.dirname(folder)
            if not folder.startswith(hierarchy.mount) or not _is_ours(hierarchy.version, folder):
                return problem

    def _make_base(self, version: int, folder: str, controller: str) -> tuple[int, str] | str:
        _remove_abandoned(folder)
        base = f"{folder}/{_NAME}{os.getpid()}-{os.urandom(4).hex()}"
        try:
            if version == 2:
                _enable(folder, [controller])
            self._make(version, base)
            probe = f"{base}/try"
            os.mkdir(probe)
            try:
                if not os.path.exists(f"{probe}/{_NEEDED[version, controller]}"):
                    raise OSError(errno.ENOENT, "the groups here do not have this controller")
            finally:
                os.rmdir(probe)
        except OSError as error:
            remove_group(base)
            return f"{folder}: {error.strerror}"
        return version, base


def _is_ours(version: int, folder: str) -> bool:
    """Whether this program may put processes into a group above its own.

    Whoever is no superuser may do so where the system lets them. A superuser may do so anywhere, and would take them
    out of the bounds of a service; only a group that a service manager has marked as delegated is meant for that.
    """
    if version == 1 or os.geteuid() != 0:
        return True
    for mark in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(folder, mark) == b"1":
                return True
        except OSError:
            continue
    return False


def _enable(folder: str, controllers: Sequence[str]) -> None:
    """Have the groups below a folder of version 2 have controllers, as far as that is allowed."""
    control = f"{folder}/cgroup.subtree_control"
    for controller in controllers:
        if controller not in _read(control).split():
            try:
                _write(control, f"+{controller}")
            except OSError as error:
                if len(controllers) > 1:
                    continue  # those that are missing show when a limit needs them
                error.strerror = f"the controller {controller!r} is not delegated ({error.strerror})"
                raise


def _remove_abandoned(folder: str) -> None:
    """Remove the groups of programs that have been killed: nobody holds their locks."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(_NAME)]
    except OSError:
        return
    for name in names:
        path = f"{folder}/{name}"
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_group(path)
        except OSError:
            pass  # its program lives
        finally:
            os.close(lock)


def _write(path: str, value: object) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def _write_if_there(path: str, value: object) -> None:
    """Write to a file that not every kernel has."""
    try:
        _write(path, value)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EOPNOTSUPP):
            raise


def _read(path: str) -> str:
    """Read a file; nothing if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
