"""`spindle-trio doctor`: tries out what this machine offers for supervising processes."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Final

import trio

import spindle_trio as spindle
from spindle_trio.cli._printing import print_out
from spindle_trio.javascript import OLDEST_NODE

_DESCRIPTORS_A_PROCESS: Final = 8
"""Descriptors of one process in its host: two sockets, stdout, stderr, the page, and pidfds of it and its init."""
_DESCRIPTORS_OF_THE_HOST: Final = 64
"""The host's own descriptors, generously: standard streams, event loop, fork server with its spares."""
_PROBE_SECONDS: Final = 10

_MEANING: Final = {
    spindle.Containment.PIDNS: "a PID namespace for each process: when it ends, all that it has started has ended",
    spindle.Containment.CGROUP: "a control group for each process, which is killed as a whole",
    spindle.Containment.SWEEP: "each process has a parent that adopts and kills what it leaves behind",
    spindle.Containment.KILLPG: "the process group and the descendants that can be found; daemons are not",
}

_LIMITS: Final = ("memory", "pids", "cpus", "cpu_seconds", "open_files", "file_bytes", "run_seconds")
_MEANS: Final = {
    "cgroup": "a control group for the whole tree of each process",
    "sampler": "the host looks at the tree of each process often, and ends it when it is over",
    "rlimit": "a limit of the system on each process",
    "deadline": "a deadline of the host",
}


def doctor(*, as_json: bool = False) -> int:
    """Print a line for each thing that matters. Return 0 if this machine can supervise processes, else 1.

    Args:
        as_json: print one object with all of them instead.
    """
    can_supervise = _can_supervise()
    said: dict[str, str] = {}
    for name, line in _lines():
        said[name] = line
        if not as_json and (status := print_out(f"{name:<25} {line}\n")) != 0:
            return status
    if as_json:
        level = said["containment"].partition(":")[0]
        limits = {name: said.get(f"limit {name}", "no").partition(":")[0] for name in _LIMITS}
        found: dict[str, object] = {
            "ok": can_supervise,
            "containment": None if level == "none" else level,
            "limits": {name: None if means == "no" else means for name, means in limits.items()},
            "sandbox": {
                part: None if (line := said.get(f"sandbox {part}", "no")).startswith("no") else line.partition(": ")[2]
                for part in map(str, spindle.SandboxPart)
            },
            "lines": said,
        }
        if (status := print_out(json.dumps(found, ensure_ascii=False) + "\n")) != 0:
            return status
    return 0 if can_supervise else 1


def _lines() -> Iterator[tuple[str, str]]:
    yield "platform", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "Python", f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    yield "pidfd", _answer(_try_pidfd)
    yield "memfd", _answer(_try_memfd)
    yield "descriptors", _descriptor_line()
    yield "JavaScript", _javascript_line()
    if not _can_supervise():
        yield "launcher", "none: this release launches processes on Linux 5.4 or later only"
        yield "containment", "none"
        return
    yield (
        "launcher",
        "DefaultLauncher: Python entries are forked off a warm server, JavaScript entries run in a Node or Bun each; "
        "PythonLauncher, on request, starts a fresh interpreter for each Python entry",
    )
    works: list[spindle.Containment] = []
    limits: list[str] = []
    parts: list[str] = []
    for level in spindle.Containment:
        lacks: list[str] = []
        problem = _problem_with(lambda: trio.run(_try_level, level, lacks, limits, parts))  # noqa: B023  # called at once
        if problem is None:
            works.append(level)
        yield f"level {level}", "; but ".join(["yes", *lacks]) if problem is None else f"no: {problem}"
    yield "containment", f"{works[0]}: {_MEANING[works[0]]}" if works else "none"
    yield from zip((f"limit {name}" for name in _LIMITS), limits, strict=False)
    yield from zip((f"sandbox {part}" for part in spindle.SandboxPart), parts, strict=False)


async def _try_level(level: spindle.Containment, lacks: list[str], limits: list[str], parts: list[str]) -> None:
    """Open a host at a level, as any program would, and add what the level lacks here.

    Args:
        level: which.
        lacks: takes what is missing at that level.
        limits: takes how each limit is held, at the first level that works.
        parts: takes how each part of a sandbox is held there.
    """
    launcher = spindle.ForkServerLauncher(preload=(), spares=0, containment=level)
    try:
        async with spindle.open_host(launcher) as host:
            statistics = host.statistics()
            lacks += statistics.containment_problems.values()
            if not limits:
                limits += [_limit_line(name, statistics) for name in _LIMITS]
                parts += [_part_line(part, launcher) for part in spindle.SandboxPart]
    except RuntimeError as error:
        raise OSError(str(error).rpartition("does not work here: ")[2]) from error


def _part_line(part: spindle.SandboxPart, launcher: spindle.ForkServerLauncher) -> str:
    means = launcher.sandbox_means.get(part)
    return f"no: {launcher.sandbox_problems[part]}" if means is None else f"yes: {means}"


def _limit_line(name: str, statistics: spindle.HostStatistics) -> str:
    means, problem = statistics.limit_means.get(name), statistics.limit_problems.get(name)
    if means is None:
        return f"no: {problem or 'this launcher holds no such limit'}"
    said = f"{means}: {_MEANS[means]}" if means in _MEANS else means
    return said if problem is None else f"{said}; not by a control group: {problem}"


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


def _javascript_line() -> str:
    """Say what runs JavaScript entries, or what to install."""
    needed = ".".join(map(str, OLDEST_NODE))
    advice = f"to run JavaScript entries, install Node {needed} or later so that node is on the PATH"
    program = spindle.NodeLauncher().program
    if program is None:
        return f"no: neither node nor bun is on the PATH; {advice}"
    try:
        version = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"no: {program} does not run ({error}); {advice}"
    if _is_too_old(version):
        return f"no: {program} is {version}, older than {needed}; {advice}"
    return f"yes: {program} {version}"


def _is_too_old(version: str) -> bool:
    """Whether this is a version of Node that is too old. Bun's versions have no `v` in front, and all are fine."""
    found = re.match(r"v(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < OLDEST_NODE
