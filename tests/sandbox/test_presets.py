"""Each thing that a preset forbids, and each that it must allow, tried from Python, Node and a shell.

The attempts are in `tests/entries/sandboxed`; `support/sandbox.py` runs them. Without a sandbox all of them succeed, as
a test shows: so each can fail.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import spindle_trio
from spindle_trio import DefaultLauncher, PythonLauncher
from support import sandbox as support
from support.javascript import needs_node
from support.seccomp import refusing, refusing_namespaces_of_clones

PRESETS = list(support.PRESETS)
LANGUAGES = [
    pytest.param("python"),
    pytest.param("shell"),
    pytest.param("command"),
    pytest.param("node", marks=needs_node),
]
LEVELS = ["killpg", "pidns"]


@pytest.mark.parametrize(
    ("language", "preset"),
    [
        *(("python", preset) for preset in PRESETS),
        ("shell", "READ_ONLY"),
        ("command", "WORKSPACE_WRITE"),
        pytest.param("node", "READ_ONLY", marks=needs_node),
    ],
)
async def test_a_preset_forbids_what_a_process_tries_itself(language: str, preset: str) -> None:
    with support.prepared_place() as at:
        launcher = DefaultLauncher(containment="killpg", spares=0)
        names = support.quick_in(language, preset)
        assert await support.surprises_of(at, language, preset, launcher, names) == {}


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["READ_ONLY", "OFFLINE"])
async def test_a_preset_keeps_a_process_from_its_own_init(preset: str) -> None:
    """At `pidns` the init shares the memory of what has forked it, and nothing but the sandbox keeps root from it."""
    await _require("pidns")
    names = [attempt.__name__ for attempt in support.attempts.PROCESSES]
    with support.prepared_place() as at:
        launcher = DefaultLauncher(containment="pidns", spares=0)
        assert await support.surprises_of({**at, "victim": 1}, "python", preset, launcher, names) == {}


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_preset_forbids_what_it_says_and_allows_the_rest(language: str, preset: str) -> None:
    with support.prepared_place() as at:
        launcher = DefaultLauncher(containment="killpg", spares=0)
        assert await support.surprises_of(at, language, preset, launcher) == {}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can do all of it without a sandbox")
@pytest.mark.parametrize("language", LANGUAGES)
async def test_all_of_it_can_be_done_without_a_sandbox(language: str) -> None:
    with support.prepared_place() as at:
        launcher = DefaultLauncher(containment="killpg", spares=0)
        assert await support.surprises_of(at, language, None, launcher) == {}


@pytest.mark.slow
@pytest.mark.parametrize("level", [level for level in spindle_trio.Containment if level != "killpg"])
@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_preset_holds_at_each_level_of_containment(language: str, level: str) -> None:
    await _require(level)
    with support.prepared_place() as at:
        for preset in PRESETS:
            launcher = DefaultLauncher(containment=level, spares=0)
            assert await support.surprises_of(at, language, preset, launcher) == {}, preset


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
async def test_a_preset_holds_in_a_fresh_interpreter_and_in_a_spare(preset: str) -> None:
    with support.prepared_place() as at:
        for launcher in (PythonLauncher(containment="killpg"), DefaultLauncher(containment="killpg")):
            assert await support.surprises_of(at, "python", preset, launcher) == {}, launcher


CELLS = [f"{language}:{preset}" for language in ("python", "shell", "command", "node") for preset in PRESETS]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize("level", LEVELS)
def test_a_preset_holds_for_an_unprivileged_user(level: str) -> None:
    python = _python_of_all()
    _require_open_folders()
    cells = [cell for cell in CELLS if not cell.startswith("node") or shutil.which("node")]
    ran = _run([python, "-P", _PROGRAM, level, *cells], user=65534)
    assert json.loads(ran) == {cell: {} for cell in cells}


@pytest.mark.slow
@pytest.mark.parametrize("level", ["killpg", "sweep"])
def test_a_preset_holds_where_namespaces_are_refused_as_in_a_container(level: str) -> None:
    cells = [cell for cell in CELLS if not cell.startswith("node") or shutil.which("node")]
    prelude = (
        "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        + refusing("unshare", errno.EPERM)
        + refusing_namespaces_of_clones()
        + f"os.execv(sys.executable, [sys.executable, '-P', {_PROGRAM!r}, *sys.argv[1:]])\n"
    )
    assert json.loads(_run([sys.executable, "-c", prelude, level, *cells])) == {cell: {} for cell in cells}


async def _require(level: str) -> None:
    try:
        async with spindle_trio.open_host(DefaultLauncher(containment=level, spares=0)):
            pass
    except RuntimeError as error:
        pytest.skip(f"the level {level} cannot be had: {error}")


_PROGRAM = str(Path(support.__file__))


def _run(command: list[str], user: int | None = None) -> str:
    folders = _folders()
    ran = subprocess.run(
        command,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        env={**os.environ, "HOME": "/", "PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def _folders() -> list[str]:
    return [str(Path(spindle_trio.__file__).parents[1]), *(path for path in sys.path if "site-packages" in path)]


def _require_open_folders() -> None:
    """Skip where another user could not read this package, or what it stands on."""
    for folder in [*_folders(), str(Path(_PROGRAM).parent)]:
        closed = [place for place in (Path(folder), *Path(folder).parents) if not place.stat().st_mode & stat.S_IXOTH]
        if closed:
            pytest.skip(f"no other user may enter {closed[-1]}")


def _python_of_all() -> str:
    """Find an interpreter of this version that every user may run; that of a developer may lie in a closed home."""
    for python in (sys.executable, support.SYSTEM_PYTHON):
        if python is None:
            continue
        asked = (
            subprocess.run(
                [python, "-c", "import sys; print(*sys.version_info[:2])"],
                user=65534,
                group=65534,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=False,
            )
            if _may_run(python)
            else None
        )
        if asked is not None and asked.stdout.split() == [str(number) for number in sys.version_info[:2]]:
            return python
    pytest.skip("no interpreter of this version can be run by everybody")


def _may_run(python: str) -> bool:
    path = Path(os.path.realpath(python))
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))
