"""Level `cgroup`: a control group for each process, below one for all. See `_levels`."""

from __future__ import annotations

import os

from spindle_trio._linux._control_groups import remove_group
from spindle_trio._linux._parent_death import die_with_parent, outlive_parent
from spindle_trio.fork_server._level import Level, announce_child, or_end, read_kernel_file, write_kernel_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from spindle_trio.fork_server._birth import Birth


class CgroupLevel(Level):
    """`cgroup`."""

    name: str = "cgroup"

    def enter_guard(self) -> None:
        """Make a group for all processes."""
        outlive_parent()
        # The pid alone is not unique: other namespaces use the same one, and so did processes that were killed long
        # ago.
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
                    write_kernel_file(f"{group}/cgroup.procs", "0")
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
            or_end(lambda: _enter_group(group, server))
            return 0
        birth.group = group
        announce_child(birth, pid)
        return pid

    def forget(self, number: int) -> None:
        """Remove the group, unless the host has. Only this removes the group of a launch that was given up."""
        remove_group(f"{self.group}/{number}")

    def clear_up(self) -> None:
        """Kill and remove all groups."""
        if self.group is None:
            return
        write_kernel_file(f"{self.group}/cgroup.kill", "1")
        attempts = 100
        while attempts > 0 and not remove_group(self.group):
            attempts -= 1
            _pause()


def _enter_group(group: str, server: int) -> None:
    write_kernel_file(f"{group}/cgroup.procs", "0")
    die_with_parent(server)


def _own_group() -> str:
    """Find this process's control group in the unified hierarchy.

    Raises:
        OSError: there is none.
    """
    for line in read_kernel_file("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            break
    else:
        raise OSError("no unified hierarchy of control groups (cgroup v2)")
    for mount in read_kernel_file("/proc/self/mountinfo").splitlines():
        fields, _, kind = mount.partition(" - ")
        if kind.split()[0] == "cgroup2":
            return fields.split()[4] + line[3:].rstrip("/")
    raise OSError("no unified hierarchy of control groups (cgroup v2) is mounted")


def _pause() -> None:
    import select

    select.poll().poll(5)
