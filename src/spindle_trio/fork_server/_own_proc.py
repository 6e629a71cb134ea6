"""A `/proc` that fits the PID namespace of a process, in a mount namespace of its own, made with its init.

Without it a process sees the host's `/proc`, in which `/proc/<os.getpid()>` is another process. Nothing else differs:
later mounts and unmounts outside show up inside, too, while those that a process makes stay inside.

It needs the right to mount. And it must not uncover parts of `/proc` that something mounted over them hides, as
containers do: in that case a process gets none.
"""

from __future__ import annotations

import os

from spindle_trio._linux._syscalls import CLONE_NEWNS, call
from spindle_trio.fork_server._level import read_kernel_file

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_SLAVE = 0x2, 0x4, 0x8, 0x4000, 0x80000

PROC_OF_SELF = b"/proc/self\0"
"""A link that names the process that reads it, by its number in the namespace of that `/proc`."""

MOUNTS = (
    (b"none\0", b"/\0", b"none\0", _MS_REC | _MS_SLAVE, b"\0"),
    (b"proc\0", b"/proc\0", b"proc\0", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, b"\0"),
)
"""The arguments of `mount`, in a new mount namespace."""

_HIDES_NOTHING = "/proc/sys/fs/binfmt_misc"
"""A file system of its own is mounted here in an ordinary `/proc`."""


def mount_own_proc() -> None:
    """Give this process a mount namespace, in which `/proc` fits its PID namespace.

    Raises:
        OSError: the system does not allow it.
    """
    call("unshare", CLONE_NEWNS)
    for arguments in MOUNTS:
        call("mount", *arguments)


def enter_mounts(fd: int) -> None:
    """Enter a mount namespace, at its root.

    Args:
        fd: refers to it, or to a process in it.

    Raises:
        OSError: the system does not allow it, or the process has ended.
    """
    call("setns", fd, CLONE_NEWNS)


def why_no_own_proc() -> str | None:
    """Find out, in a copy of this process, why processes here cannot have one; `None` if they can."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(tell, (_problem() or "").encode(errors="backslashreplace"))
        finally:
            os._exit(0)
    os.close(tell)
    problem = os.read(told, 4096).decode(errors="replace")
    os.close(told)
    os.waitpid(pid, 0)
    return problem or None


def _problem() -> str | None:
    for mount in read_kernel_file("/proc/self/mountinfo").splitlines():
        place = mount.split()[4]
        if place.startswith("/proc/") and place != _HIDES_NOTHING:
            return f"something is mounted over a part of it ({place}), which a new one would uncover"
    root = os.stat("/")
    try:
        call("unshare", CLONE_NEWNS)  # in a user namespace, a process can only enter a mount namespace of its own
        enter_mounts(os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        if not os.path.samestat(root, os.stat("/")):
            return "this program runs in a chroot, and a process could get out of it"
        mount_own_proc()
    except OSError as error:
        return str(error.strerror)
    return None
