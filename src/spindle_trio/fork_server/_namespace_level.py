"""Level `pidns`: a PID namespace for each process, within one for all. See `_levels`."""

from __future__ import annotations

import _socket
import errno
import os
import sys

from spindle_trio._linux._descriptors import close_all_but
from spindle_trio._linux._parent_death import die_with_parent
from spindle_trio._linux._syscalls import CLONE_NEWPID, call
from spindle_trio.fork_server._inits import TOO_MANY, Inits, make_inits
from spindle_trio.fork_server._level import Level, announce_child, or_end, read_kernel_file, write_kernel_file
from spindle_trio.fork_server._own_proc import enter_mounts, why_no_own_proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from spindle_trio.fork_server._birth import Birth

_CLONE_NEWUSER = 0x10000000
_PR_SET_SECUREBITS = 28
_NO_ROOT = 0b11  # SECBIT_NOROOT, and its lock
_CAPABILITY_VERSION_3 = 0x20080522

TREE_NUMBERS = max(2048, 16 * (os.cpu_count() or 1))
"""The pids of one process's tree stay below this, at level pidns and from Linux 6.14 on. So this bounds its processes
and threads, and a fork bomb. The kernel demands 8 for each processor."""

NO_OWN_PROC = (
    "a process sees the host's /proc, so that /proc/<os.getpid()> is another process "
    "({problem}); use /proc/self there, or containment 'killpg'"
)
"""What the level lacks if a process cannot have a `/proc` of its own."""

_FIRST_NUMBER = 300
_NUMBERED = 1500
"""Entries get this many pids in turn, from the first on. What a process starts gets the pids after its own, and later
those from 300 on (`RESERVED_PIDS` of the kernel)."""


class PidNamespaceLevel(Level):
    """`pidns`."""

    name: str = "pidns"

    def __init__(self) -> None:
        self._has_user_namespace = False
        self._own_namespace = -1
        self._inits: Inits
        self._init_of: dict[int, int] = {}  # number of a live process → number of its init
        release = os.uname().release.partition("-")[0].split(".")
        # Before that, the largest pid was one setting for the whole system.
        self._bounds_numbers = [int(part) for part in release[:2] if part.isdecimal()] >= [6, 14]

    def enter_guard(self) -> None:
        """Enter. The guard dies with its host, and the namespace with the server."""
        try:
            self._enter_namespace()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                error.strerror = TOO_MANY
            raise

    def _enter_namespace(self) -> None:
        try:
            call("unshare", CLONE_NEWPID)
        except PermissionError:
            if _has_capabilities():
                raise OSError(
                    "this program may not make PID namespaces (CAP_SYS_ADMIN is missing), and in a user namespace it "
                    "would lose the capabilities that it has"
                ) from None
            user, group = os.geteuid(), os.getegid()
            call("unshare", _CLONE_NEWUSER | CLONE_NEWPID)
            # An unprivileged program may map only its own user and group, and must deny `setgroups` for that.
            for name, content in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                write_kernel_file(f"/proc/self/{name}", content)
            self._has_user_namespace = True

    def enter_server(self, guard: int) -> None:
        """Enter, and leave the root behind, which makes inits. The guard is outside, so it has no pid here."""
        die_with_parent(0)
        problem = why_no_own_proc()
        if problem is not None:
            self.lack = NO_OWN_PROC.format(problem=problem)
        here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid:
            close_all_but((here.fileno(),), first=3)
            make_inits(here, pid, has_own_proc=problem is None, settings=self._settings)
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
        """Return the pid of the root, the first process here."""
        return [1]

    def fork(self, birth: Birth) -> int:
        """Fork a process into the namespace of an init."""
        number, init = self._inits.take()
        try:
            pid = self._fork_into(init)
            if pid == 0:
                or_end(lambda: self._become_entry(init))
                return 0
            announce_child(birth, pid, init)
        except BaseException:
            self._inits.end(number)
            raise
        finally:
            os.close(init)
        self._init_of[birth.number] = number
        return pid

    def forget(self, number: int) -> None:
        """Have the init ended, unless the host has ended it. Only this ends the init of a launch that was given up."""
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

    def _settings(self, number: int) -> list[tuple[str, str]]:
        """Give entries different pids, since programs put them into file names; bound the tree."""
        last = str(_FIRST_NUMBER + number % _NUMBERED - 1)
        settings = [("/proc/sys/kernel/pid_max", str(TREE_NUMBERS))] if self._bounds_numbers else []
        return [*settings, ("/proc/sys/kernel/ns_last_pid", last)]

    def _become_entry(self, init: int) -> None:
        die_with_parent(0)  # the server is outside of its namespace
        if self.lack is None:
            enter_mounts(init)  # at their root; the order names the folder
        if self._has_user_namespace:
            # An entry has the rights of the host, not those of a superuser in here. Nor does it get those by `exec`, as
            # user 0 otherwise would.
            call("prctl", _PR_SET_SECUREBITS, _NO_ROOT, 0, 0, 0)
            call("capset", _CAPABILITY_VERSION_3.to_bytes(4, sys.byteorder) + bytes(4), bytes(24))


def _has_capabilities() -> bool:
    """Whether this program has more rights than an ordinary user. If so, an entry should have them as well."""
    for line in read_kernel_file("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line[7:], 16) != 0
    return True
