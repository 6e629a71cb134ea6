"""Limits of the system: which one a program has reached, its value, and what to raise.

The kernel gives only an error number, and for processes and threads three limits share one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["limit_behind", "with_limit"]

_GROUPS: Final = Path("/sys/fs/cgroup")

_NO_THREAD: Final = "can't start new thread"
"""The text of `threading` for EAGAIN."""


def with_limit(error: OSError, pid: int = 0) -> OSError:
    """Return an error that names the limit behind it; return any other error unchanged.

    Args:
        error: the system's error.
        pid: the program that got it; 0 for this one.
    """
    limit = limit_behind(error, pid)
    if limit is None:
        return error
    return OSError(f"{error.strerror or error}: {limit}")


def limit_behind(error: Exception, pid: int = 0) -> str | None:
    """Name the limit behind an error, its value and what to raise; `None` if there is none.

    Args:
        error: the system's error, or another program's text about it.
        pid: the program that got it; 0 for this one.
    """
    number = error.errno if isinstance(error, OSError) else _number_in(str(error))
    match number:
        case errno.EMFILE:
            return _of_descriptors(pid)
        case errno.ENFILE:
            return f"the whole system may have {_read('/proc/sys/fs/file-max')} files open: raise fs.file-max (sysctl)"
        case errno.EAGAIN:
            return _of_processes(pid)
        case _:
            return None


def _number_in(text: str) -> int | None:
    """Find the error behind the text of another program, or of `threading`."""
    if _NO_THREAD in text:
        return errno.EAGAIN
    # One of these texts is the beginning of another one.
    return next((number for number in (errno.ENFILE, errno.EMFILE, errno.EAGAIN) if os.strerror(number) in text), None)


def _of_descriptors(pid: int) -> str:
    import resource  # not everywhere, and a launcher says in its `start` where it cannot run

    who = "this program" if pid == 0 else f"the fork server (pid {pid})"
    soft = _soft_limit(pid, resource.RLIMIT_NOFILE)
    return (
        f"{who} may have {soft} descriptors open (RLIMIT_NOFILE): raise that before this program starts (ulimit -n), "
        "or run fewer processes"
    )


def _of_processes(pid: int) -> str:
    import resource  # as above

    limits = [f"user {os.getuid()} may have {_soft_limit(pid, resource.RLIMIT_NPROC)} processes and threads "]
    limits[0] += "(RLIMIT_NPROC; ulimit -u)"
    limits += [f"the control group {group} {number} (pids.max)" for group, number in _pids_max()]
    limits.append(f"the whole system {_read('/proc/sys/kernel/threads-max')} threads (kernel.threads-max)")
    return f"{', '.join(limits)}: raise the one that is used up, or run fewer processes"


def _soft_limit(pid: int, kind: int) -> str:
    import resource  # as above

    try:
        soft = resource.prlimit(pid, kind)[0]
    except OSError:  # it has other rights than this program, or has ended
        soft = resource.getrlimit(kind)[0]
    return "any number of" if soft == resource.RLIM_INFINITY else str(soft)


def _pids_max() -> Iterator[tuple[str, str]]:
    """Find the control groups that bound the number of processes here, each with its bound: this program's, and those
    around it, as far as they are of version 2 and can be seen.
    """
    for line in _read("/proc/self/cgroup").splitlines():
        hierarchy, _, path = line.split(":", 2)
        if hierarchy != "0":
            continue
        group = _GROUPS / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(_GROUPS):
                bound = _read(folder / "pids.max")
                if bound.isdecimal():
                    yield str(folder), bound


def _read(path: str | Path) -> str:
    with suppress(OSError):
        return Path(path).read_text(errors="replace").strip()
    return ""
