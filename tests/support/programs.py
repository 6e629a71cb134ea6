"""Commands over real processes: a host on a fork server, and small programs written for a test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spindle_trio import Command, ProcessHandle
from spindle_trio._model._command import Lane, Readiness
from support.fork_server import Forked

SHIM = "from spindle_trio.program.entry import run\n"


def python_program(folder: Path, source: str, name: str = "program.py") -> list[str]:
    """Write a program in Python, and return what starts it."""
    path = folder / name
    path.write_text(textwrap.dedent(source))
    return [sys.executable, "-SE", str(path)]


def script(folder: Path, text: str, name: str = "script") -> list[str]:
    """Write a program that is executed itself, and return what starts it."""
    path = folder / name
    path.write_text(textwrap.dedent(text).lstrip())
    path.chmod(0o755)
    return [str(path)]


def spec_of(
    argv: Sequence[str],
    *,
    ready: str | dict[str, Any] = "started",
    lane: str = "none",
    stop_signal: int = signal.SIGTERM,
    variables: dict[str, str] | None = None,
    folder: Path | None = None,
    program: str | None = None,
    **further: object,
) -> str:
    """Write what a shim reads."""
    return json.dumps({
        "program": program or shutil.which(argv[0]) or argv[0],
        "argv": list(argv),
        "environment": variables,
        "folder": None if folder is None else str(folder),
        "ready": {"kind": ready} if isinstance(ready, str) else ready,
        "lane": lane,
        "stopSignal": int(stop_signal),
        **further,
    })  # fmt: skip


async def spawn_command(
    forked: Forked,
    argv: Sequence[str],
    *,
    ready: Readiness = "started",
    lane: Lane = "none",
    stop_signal: int = signal.SIGTERM,
    variables: dict[str, str] | None = None,
    folder: str | None = None,
    **options: Any,
) -> ProcessHandle:
    """Spawn a command."""
    command = Command(
        argv, environment=variables, folder=folder, ready=ready, lane=lane, stop_signal=signal.Signals(stop_signal)
    )
    return await forked.worker.backend_processes.spawn(command, **options)


async def spawn_shim(
    forked: Forked, argv: Sequence[str], *, options: dict[str, Any] | None = None, **spec: Any
) -> ProcessHandle:
    """Spawn a shim by what it reads, which no check of the host has seen."""
    return await forked.spawn(SHIM, arguments=[spec_of(argv, **spec)], **(options or {}))


def needed(*names: str, places: Sequence[str] = ()) -> str:
    """Find a program that nobody here wrote, or skip; `.ci/run` has installed them, and there this fails."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *places])
    for name in names:
        found = shutil.which(name, path=path)
        if found is not None:
            return found
    reason = f"there is no {' and no '.join(names)} here"
    if os.environ.get("SPINDLE_NEEDS_PROGRAMS"):
        pytest.fail(f"{reason}, and SPINDLE_NEEDS_PROGRAMS asks for it")
    pytest.skip(reason)
