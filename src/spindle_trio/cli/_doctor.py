"""`spindle-trio doctor`: what this machine offers for supervising processes, found out by trying."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_DESCRIPTORS_A_PROCESS: Final = 6
"""In the host, for one process: two sockets, stdout, stderr, the heartbeat page, and the pidfd."""
_DESCRIPTORS_OF_THE_HOST: Final = 64
"""The host's own, generously: standard streams, the event loop's, the fork server's with its spares."""
_PROBE_SECONDS: Final = 10

_UNSHARE: Final = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for flag in map(int, sys.argv[1:]):
    if libc.unshare(flag):
        sys.exit(os.strerror(ctypes.get_errno()))
child = os.fork()
if child == 0:
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWPID: Final = 0x20000000


def doctor() -> int:
    """Print a line for each thing that matters, and return 0 if processes can be supervised here, else 1."""
    for name, line in _lines():
        print(f"{name:<18} {line}")
    return 0 if _can_supervise() else 1


def _lines() -> Iterator[tuple[str, str]]:
    yield "platform", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "Python", f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    yield "pidfd", _answer(_try_pidfd)
    yield "memfd", _answer(_try_memfd)
    yield "user namespaces", _answer(lambda: _try_unshare(_CLONE_NEWUSER))
    yield "PID namespaces", _answer(lambda: _try_unshare(_CLONE_NEWUSER, _CLONE_NEWPID))
    yield "cgroup delegation", _answer(_try_cgroup)
    yield "descriptors", _descriptor_line()
    yield "Node", _node_line()
    if not _can_supervise():
        yield "launcher", "none: this release launches processes on Linux 5.4 or later only"
        yield "containment", "none"
        return
    yield (
        "launcher",
        "ForkServerLauncher: processes are forked off a warm server; PythonLauncher, on request, starts a fresh "
        "interpreter for each",
    )
    yield (
        "containment",
        "killpg, with a walk of the descendants: what has started a session of its own and lost its parents "
        "before the end is not found",
    )


def _can_supervise() -> bool:
    return all(_problem_with(attempt) is None for attempt in (_try_pidfd, _try_memfd))


def _answer(attempt: Callable[[], None]) -> str:
    problem = _problem_with(attempt)
    return "yes" if problem is None else f"no: {problem}"


def _problem_with(attempt: Callable[[], None]) -> str | None:
    try:
        attempt()
    except AttributeError:
        return "not on this platform"
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None


def _try_pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _try_memfd() -> None:
    os.close(os.memfd_create("spindle-doctor"))


def _try_unshare(*flags: int) -> None:
    """Enter new namespaces in a child, and start a process in them: some systems allow the first alone."""
    probe = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _UNSHARE, *map(str, flags)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PROBE_SECONDS,
        check=False,
    )
    if probe.returncode:
        raise OSError(probe.stderr.strip().splitlines()[-1] if probe.stderr.strip() else "the probe failed")


def _try_cgroup() -> None:
    """Make a control group below this process's own, and remove it again."""
    group = _own_cgroup()
    probe = group / f"spindle-doctor-{os.getpid()}"
    probe.mkdir()
    try:
        if not os.access(probe / "cgroup.procs", os.W_OK) or not os.access(group / "cgroup.procs", os.W_OK):
            raise OSError(f"processes may not be moved below {group}")
    finally:
        with contextlib.suppress(OSError):
            probe.rmdir()


def _own_cgroup() -> Path:
    """Find this process's control group in the unified hierarchy."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            break
    else:
        raise OSError("no unified hierarchy (cgroup v2)")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] == "cgroup2":
            return Path(fields.split()[4]) / path.lstrip("/")
    raise OSError("no unified hierarchy (cgroup v2) is mounted")


def _descriptor_line() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = "" if soft == hard else ", to which a host raises its own"
    allowed = f"up to {_processes_within(hard)} processes at once ({_DESCRIPTORS_A_PROCESS} descriptors each)"
    return f"{_shown(soft)} soft, {_shown(hard)} hard{raised}: {allowed}"


def _shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def _processes_within(limit: int) -> str:
    if limit == resource.RLIM_INFINITY:
        return "any number of"
    return str(max(0, (limit - _DESCRIPTORS_OF_THE_HOST) // _DESCRIPTORS_A_PROCESS))


def _node_line() -> str:
    node = shutil.which("node")
    if node is None:
        return "not found (not needed: this release runs Python entries)"
    try:
        version = subprocess.run(
            [node, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"{node} does not run: {error}"
    return f"{version} at {node} (not used: this release runs Python entries)"
