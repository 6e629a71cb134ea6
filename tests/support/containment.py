"""Which levels of containment this machine has, and hosts of other users."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import trio

from spindle_trio import Containment, ForkServerLauncher, open_host


@functools.cache
def problem_with(level: Containment) -> str | None:
    """Say why a level does not work here; `None` if it does."""

    async def attempt() -> None:
        async with open_host(ForkServerLauncher(preload=(), spares=0, containment=level)):
            pass

    try:
        trio.run(attempt)
    except RuntimeError as error:
        return str(error)
    return None


def levels(*wanted: Containment) -> pytest.MarkDecorator:
    """Run a test once at each of these levels, by default at all; it has to `require` the one that it is given."""
    return pytest.mark.parametrize("level", [pytest.param(level, id=str(level)) for level in wanted or Containment])


def require(level: Containment) -> None:
    """Skip a test whose level does not work here."""
    problem = problem_with(level)
    if problem is not None:
        pytest.skip(f"level {level}: {problem}")


def run_program(folder: Path, program: str, *, before: str = "", as_nobody: bool = False) -> str:
    """Run a host program in surroundings of its own, and return what it prints.

    Args:
        folder: for the program's file; the program's only argument.
        program: its source.
        before: what an interpreter does before it becomes the program; has `libc`, and `prctl` and the like in it.
        as_nobody: whether it is run by a user without any privilege.
    """
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program))
    starter = "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n" + textwrap.dedent(before)
    starter += "\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    python, options = sys.executable, {}
    if as_nobody and os.geteuid() == 0:
        python, options = python_for_nobody(), AS_NOBODY
        for parent in (folder, *folder.parents):
            if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    done = subprocess.run(
        [python, "-c", starter, str(path), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


AS_NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": ()}


@functools.cache
def python_for_nobody() -> str:
    """Find an interpreter that a user without any privilege can run these tests' modules with, or skip."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [python, "-c", "import msgspec, cattrs; from spindle_trio import DefaultLauncher, open_host"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                cwd="/",
                stderr=subprocess.DEVNULL,
                timeout=60,
                check=False,
                **AS_NOBODY,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    pytest.skip("no interpreter here can be run by another user: all lie in folders that are closed to others")


WITHOUT_SYS_ADMIN = "libc.prctl(24, 21, 0, 0, 0)"
"""Takes CAP_SYS_ADMIN away from a superuser for good, and leaves the others, as in a container (PR_CAPBSET_DROP)."""


def at_most_namespaces(number: int, kind: str = "pid") -> str:
    """Write what enters a user namespace in which so many namespaces can be made; for `run_program(before=)`."""
    return f"""
user, group = os.geteuid(), os.getegid()
if libc.unshare(0x10000000):
    sys.exit(os.strerror(ctypes.get_errno()))
for name, content in ("setgroups", "deny"), ("uid_map", f"{{user}} {{user}} 1"), ("gid_map", f"{{group}} {{group}} 1"):
    with open(f"/proc/self/{{name}}", "w") as file:
        file.write(content)
with open("/proc/sys/user/max_{kind}_namespaces", "w") as file:
    file.write("{number}")
"""
