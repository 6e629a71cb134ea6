"""How the tree of a process is held together, in four levels; `launchers/_containment.py` ends what they hold.

    pidns   All is in one PID namespace, whose first process is the root, and each process in a nested one (`_inits`).
            When the first process of a namespace ends, the kernel kills all others in it before it reports that end. So
            the end of an init implies an empty tree, and the end of the server, with which the root ends, one of all.
            Without the privilege for that, a user namespace gives it; the user stays the same in there.
    cgroup  Each process has a control group of its own, which is killed as a whole. Needs version 2, delegated.
    sweep   Each process has an init (`_init`), in no namespace: it adopts what loses its parents (a subreaper), and
            kills that when the process has ended. The guard adopts what is left of an init that was killed itself.
    killpg  Nothing holds the tree together: the process group and the descendants are all that can be found.

A level is entered by the guard, then by the server that it forks, and then for each process. Entering a namespace
cannot be taken back, so whether a level works is tried out in a copy of the guard (`find_level`).

An entry is never the first process of its namespace: there SIGSTOP and SIGKILL to itself would do nothing, and it would
have to reap strangers.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys

from spindle_trio.child._control_groups import remove_group
from spindle_trio.child._protection import die_with_parent, name_process, outlive_parent
from spindle_trio.child._syscalls import call
from spindle_trio.fork_server._birth import close_all_but
from spindle_trio.fork_server._init import own_children, run_init, sweep
from spindle_trio.fork_server._inits import CLONE_NEWPID, Inits, make_inits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from spindle_trio.fork_server._birth import Birth

_CLONE_NEWUSER = 0x10000000
_PR_SET_SECUREBITS = 28
_NO_ROOT = 0b11  # SECBIT_NOROOT, and its lock
_PR_SET_CHILD_SUBREAPER = 36
_CAPABILITY_VERSION_3 = 0x20080522

TREE_NUMBERS = max(2048, 16 * (os.cpu_count() or 1))
"""The numbers of one process's tree stay below this, at level pidns and from Linux 6.14 on: so many processes and
threads can it have, and a fork bomb no more. The kernel demands 8 for each processor."""

_FIRST_NUMBER = 300
_NUMBERED = 1500
"""Entries are numbered from the first on, this many, and then again. What a process starts has the numbers after its
own, and later those from 300 on (`RESERVED_PIDS` of the kernel)."""


class Level:
    """One level of containment. This one is `killpg`; each other changes what it does better."""

    name: str = "killpg"
    adopts: bool = False
    """Whether the guard becomes the parent of what has lost its own, and has to `tidy`."""
    group: str | None = None
    """The control group of all processes, where there is one, once the guard has entered."""

    def enter_guard(self) -> None:
        """Enter this level as the guard, which then outlives its host: it is what ends the tree.

        Raises:
            OSError: this system does not let it.
        """
        outlive_parent()

    def enter_server(self, guard: int) -> None:
        """Enter it as the server.

        Raises:
            OSError: as above.
        """
        die_with_parent(guard)

    def try_out(self) -> None:
        """Make sure, as a server in this level, that processes can be made.

        Raises:
            OSError: they cannot.
        """

    def server_fds(self) -> set[int]:
        """Return the descriptors that the server keeps for this level."""
        return set()

    def roots(self) -> list[int]:
        """Return the numbers of the programs between the guard and the server."""
        return []

    def fork(self, birth: Birth) -> int:
        """Fork a process, and have its birth announced. Returns its number in the server, and 0 in the process.

        Raises:
            OSError: the system has refused, and nothing is left.
        """
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            _or_end(lambda: die_with_parent(server))
            return 0
        _announce(birth, pid)
        return pid

    def forget(self, number: int) -> None:
        """Let go, as the server, of what was made for a process that has been reaped."""

    def tidy(self, server: int) -> None:
        """Look, as a guard that adopts, for what has been left behind while the server lives."""

    def clear_up(self) -> None:
        """End, as the guard, what the server has left behind."""


class PidNamespaceLevel(Level):
    """`pidns`."""

    name: str = "pidns"

    def __init__(self) -> None:
        self._has_user_namespace = False
        self._own_namespace = -1
        self._inits: Inits
        self._init_of: dict[int, int] = {}  # the numbers of processes that live → those of their inits
        release = os.uname().release.partition("-")[0].split(".")
        # Before that, the largest number was one for the whole system.
        self._bounds_numbers = [int(part) for part in release[:2] if part.isdecimal()] >= [6, 14]

    def enter_guard(self) -> None:
        """Enter; the guard dies with its host, and the namespace with the server."""
        try:
            call("unshare", CLONE_NEWPID)
        except PermissionError:
            if _has_capabilities():
                raise OSError(
                    "this program has not the right to make PID namespaces, and others that it would lose in a user "
                    "namespace (CAP_SYS_ADMIN is missing)"
                ) from None
            user, group = os.geteuid(), os.getegid()
            call("unshare", _CLONE_NEWUSER | CLONE_NEWPID)
            # Without a privilege outside, this one user can be mapped, and groups must not be given up.
            for name, content in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                _write(f"/proc/self/{name}", content)
            self._has_user_namespace = True

    def enter_server(self, guard: int) -> None:
        """Enter, and leave the root behind, which makes inits. The guard is outside, and so has no number here."""
        die_with_parent(0)
        here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid:
            close_all_but((here.fileno(),), first=3)
            make_inits(here, pid, self._prepare_init)
        here.close()
        die_with_parent(1)
        self._inits = Inits(there)
        self._own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def try_out(self) -> None:
        """Have an init made, fork into its namespace, and come back."""
        _, init = self._inits.take()
        call("setns", init, CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        call("setns", self._own_namespace, CLONE_NEWPID)
        os.waitpid(pid, 0)

    def server_fds(self) -> set[int]:
        """Return the way back from nested namespaces, and the way to the root."""
        return {self._own_namespace, self._inits.fileno()}

    def roots(self) -> list[int]:
        """Return the number of the root, which is the first process here."""
        return [1]

    def fork(self, birth: Birth) -> int:
        """Fork a process into the namespace of an init."""
        try:
            number, init = self._inits.take()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                error.strerror = "there are as many PID namespaces as the system allows (user.max_pid_namespaces)"
            raise
        try:
            pid = self._fork_into(init)
            if pid == 0:
                _or_end(self._become_entry)
                return 0
            _announce(birth, pid, init)
        except BaseException:
            self._inits.end(number)
            raise
        finally:
            os.close(init)
        self._init_of[birth.number] = number
        return pid

    def forget(self, number: int) -> None:
        """Have the init ended, unless the host has; that of a launch that was given up nobody else ends."""
        self._inits.end(self._init_of.pop(number))

    def _fork_into(self, init: int) -> int:
        call("setns", init, CLONE_NEWPID)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid:
                call("setns", self._own_namespace, CLONE_NEWPID)
        return pid

    def _prepare_init(self, number: int) -> None:
        """Have entries differ in their numbers, which go into names of files; and bound the tree."""
        try:
            if self._bounds_numbers:
                _write("/proc/sys/kernel/pid_max", str(TREE_NUMBERS))
            _write("/proc/sys/kernel/ns_last_pid", str(_FIRST_NUMBER + number % _NUMBERED - 1))
        except OSError:
            pass  # /proc/sys cannot be written to here, as in a container

    def _become_entry(self) -> None:
        die_with_parent(0)  # the server is outside of its namespace
        if self._has_user_namespace:
            # An entry has the rights that the host has, and not those of a superuser in here; nor does it get them back
            # by becoming another program, as user 0 otherwise would.
            call("prctl", _PR_SET_SECUREBITS, _NO_ROOT, 0, 0, 0)
            call("capset", _CAPABILITY_VERSION_3.to_bytes(4, sys.byteorder) + bytes(4), bytes(24))


class CgroupLevel(Level):
    """`cgroup`."""

    name: str = "cgroup"

    def enter_guard(self) -> None:
        """Make a group for all processes."""
        outlive_parent()
        # Its number alone would not do: another namespace has the same one, and so has whoever was killed long ago.
        base = f"{_own_group()}/spindle-trio-{os.getpid()}-{os.urandom(4).hex()}"
        os.mkdir(base)
        self.group = base
        if not os.path.exists(f"{base}/cgroup.kill"):
            raise OSError("no cgroup.kill in control groups: that needs Linux 5.14")

    def try_out(self) -> None:
        """Have a process enter a group of its own."""
        group = f"{self.group}/try"
        os.mkdir(group)
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    _write(f"{group}/cgroup.procs", "0")
                    os._exit(0)
                except OSError as error:
                    os._exit(error.errno or 1)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            os.rmdir(group)
        if code:
            raise OSError(code, f"a process cannot enter {group}: {os.strerror(code)}")

    def fork(self, birth: Birth) -> int:
        """Fork a process into a group of its own."""
        group = f"{self.group}/{birth.number}"
        os.mkdir(group)
        server = os.getpid()
        try:
            pid = os.fork()
        except BaseException:
            os.rmdir(group)
            raise
        if pid == 0:
            _or_end(lambda: _enter_group(group, server))
            return 0
        birth.group = group
        _announce(birth, pid)
        return pid

    def forget(self, number: int) -> None:
        """Remove the group, unless its host has; that of a launch that was given up nobody else removes."""
        remove_group(f"{self.group}/{number}")

    def clear_up(self) -> None:
        """Kill and remove all groups."""
        if self.group is None:
            return
        _write(f"{self.group}/cgroup.kill", "1")
        attempts = 100
        while attempts > 0 and not remove_group(self.group):
            attempts -= 1
            _pause()


class SweepLevel(Level):
    """`sweep`."""

    name: str = "sweep"
    adopts: bool = True

    def enter_guard(self) -> None:
        """Adopt whatever loses its parents below here."""
        outlive_parent()
        call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        own_children()

    def fork(self, birth: Birth) -> int:
        """Fork an init, which adopts what its process leaves behind, and forks that."""
        server = os.getpid()
        pid = os.fork()
        if pid:
            return pid

        def adopt() -> None:
            die_with_parent(server)
            call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

        init = os.getpid()
        return _become_init(birth, adopt, lambda: die_with_parent(init))

    def tidy(self, server: int) -> None:
        """Kill what an init that was killed has left."""
        if own_children() != [server]:
            sweep(but=server)

    def clear_up(self) -> None:
        """Kill all that is left."""
        sweep()


LEVELS = (PidNamespaceLevel, CgroupLevel, SweepLevel, Level)
"""Strongest first."""


def find_level(wanted: int) -> tuple[Level | None, dict[str, str]]:
    """Find the strongest level that works here.

    Args:
        wanted: the place of the only one that will do; negative for any.

    Returns:
        The level, and why each of those that were tried before it, or instead, does not work.
    """
    problems: dict[str, str] = {}
    for kind in LEVELS[wanted : wanted + 1] if wanted >= 0 else LEVELS:
        level = kind()
        problem = _problem_with(level)
        if problem is None:
            return kind(), problems
        problems[level.name] = problem
    return None, problems


def _problem_with(level: Level) -> str | None:
    """Try a level out in a copy of this program."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        _try_out(level, tell)
    os.close(tell)
    problem = b""
    while data := os.read(told, 4096):
        problem += data
    os.close(told)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if problem:
        return problem.decode(errors="replace")
    return None if status == 0 else f"trying it out has ended with status {status}"


def _try_out(level: Level, tell: int) -> NoReturn:
    try:
        guard = os.getpid()
        level.enter_guard()
        pid = os.fork()
        if pid == 0:
            level.enter_server(guard)
            level.try_out()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        level.clear_up()
        os._exit(0 if code == 0 else 1)
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs here
        os.write(tell, _in_words(error).encode(errors="backslashreplace"))
        level.clear_up()
    os._exit(1)


def _in_words(error: BaseException) -> str:
    """Say what does not work, and of which file that is true."""
    text = error.strerror if isinstance(error, OSError) else None
    if text and isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {text}"
    return text or str(error) or repr(error)


def _has_capabilities() -> bool:
    """Whether this program has more rights than an ordinary user: then an entry is to have them as well."""
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line[7:], 16) != 0
    return True


def _or_end(step: Callable[[], object]) -> None:
    """Do something in a process that has just been forked, or end it: nothing may come out into the server's code."""
    try:
        step()
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs here
        try:
            os.write(2, f"a forked process could not begin: {error!r}\n".encode())
        finally:
            os._exit(1)  # noqa: ASYNC104


def _announce(birth: Birth, pid: int, init: int | None = None) -> None:
    """Have the host told of a process that is a child of the server."""
    pidfd = -1
    try:
        pidfd = os.pidfd_open(pid)
        birth.announce(pidfd, pidfd if init is None else init)
    except BaseException:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        raise
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _become_init(birth: Birth, prepare: Callable[[], None], become_entry: Callable[[], None]) -> int:
    """Be the init of one process: fork it, and see it through to its end. Returns in that process alone, with 0."""
    try:
        os.setsid()
        prepare()
        entry = -1
        try:
            entry = os.fork()
            if entry == 0:
                _or_end(become_entry)
                return 0
            own, pidfd = os.pidfd_open(os.getpid()), os.pidfd_open(entry)
        except OSError as error:
            if entry > 0:
                os.kill(entry, 9)
            birth.refuse(error)
            os._exit(1)
        name_process("spindle init")
        birth.announce(own, pidfd)
        run_init(entry, birth)
    except BaseException as error:  # noqa: ASYNC103  # as above
        try:
            os.write(2, f"the init of a process has failed: {error!r}\n".encode())
        finally:
            os._exit(1)  # noqa: ASYNC104


def _enter_group(group: str, server: int) -> None:
    _write(f"{group}/cgroup.procs", "0")
    die_with_parent(server)


def _own_group() -> str:
    """Find this process's control group in the unified hierarchy.

    Raises:
        OSError: there is none.
    """
    for line in _read("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            break
    else:
        raise OSError("no unified hierarchy of control groups (cgroup v2)")
    for mount in _read("/proc/self/mountinfo").splitlines():
        fields, _, kind = mount.partition(" - ")
        if kind.split()[0] == "cgroup2":
            return fields.split()[4] + line[3:].rstrip("/")
    raise OSError("no unified hierarchy of control groups (cgroup v2) is mounted")


def _pause() -> None:
    import select

    select.poll().poll(5)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, content: str) -> None:
    """Write to a file of the kernel's; without the layers of `open`, whose pages each fork would copy."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
