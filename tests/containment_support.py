"""Which levels of containment this machine has, and hosts of other users."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

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


def run_program(folder: Path, program: str, *, before: str) -> str:
    """Run a host program in surroundings of its own, and return what it prints.

    Args:
        folder: for the program's file; the program's only argument.
        program: its source.
        before: what an interpreter does before it becomes the program; has `libc`, and `prctl` and the like in it.
    """
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program))
    starter = "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n" + textwrap.dedent(before)
    starter += "\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    done = subprocess.run(
        [sys.executable, "-c", starter, str(path), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WITHOUT_PRIVILEGE = "libc.prctl(24, 21, 0, 0, 0)"
"""Takes CAP_SYS_ADMIN away from a superuser for good (PR_CAPBSET_DROP); anybody else does not have it."""

WITHOUT_NAMESPACES = """
user, group = os.geteuid(), os.getegid()
if libc.unshare(0x10000000):
    sys.exit(os.strerror(ctypes.get_errno()))
for name, content in ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(content)
with open("/proc/sys/user/max_pid_namespaces", "w") as file:
    file.write("0")
"""
"""Enters a user namespace in which no PID namespace can be made, as on a system that forbids them."""
