"""Commands that start Python interpreters: for fork servers, and for processes of the exec launcher.

An interpreter starts with `-P`, since the host sets `sys.path`. Site processing stays on, although it takes some
milliseconds: it sets up the hooks that find packages installed in editable form, and `sys.path` alone does not carry
those over.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import attrs

from spindle_trio.launchers._local._descriptors import give_back_limit

_STANDARD_FDS: Final = 2
"""The highest number of a standard stream."""

_PROGRAM: Final = Path(__file__).resolve().parents[2] / "child" / "__main__.py"

__all__ = ["StartedInterpreter", "interpreter_command", "search_path", "start_interpreter"]


@attrs.frozen
class StartedInterpreter:
    """A child of this program that leads a session. Nobody else reaps it."""

    pid: int
    """Its pid."""
    pidfd: int
    """Refers to it; opened before anybody could reap it."""


def start_interpreter(
    python: str,
    name: str,
    module: str,
    *,
    pass_fds: Sequence[int],
    arguments: Sequence[int] = (),
    stdout: int,
    stderr: int,
    root: Path | None,
    environment: Mapping[str, str],
) -> StartedInterpreter:
    """Start an interpreter; runs on the launch thread.

    Args:
        python: the interpreter.
        name: shown in a list of processes.
        module: whose `main` is called with the descriptors.
        pass_fds: descriptors that it inherits.
        arguments: what `main` is called with after them.
        stdout: the descriptor that becomes its stdout.
        stderr: the descriptor that becomes its stderr.
        root: its working directory; `None` for this program's.
        environment: all of its environment.

    Raises:
        OSError: the system has refused, and nothing is left.
        ValueError: no environment can hold one of the names or values.
    """
    with ExitStack() as duplicates:
        given = [_beyond_standard(fd, duplicates) for fd in pass_fds]
        process = subprocess.Popen(
            [*interpreter_command(python, name), str(os.getpid()), module, *map(str, given), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=root,
            env=dict(environment),
            pass_fds=given,
            start_new_session=True,
        )
    try:
        pidfd = os.pidfd_open(process.pid)
    except BaseException:
        process.kill()
        process.wait()
        raise
    # From here on the pidfd shows the end. `subprocess` must neither reap the process nor complain about it.
    process.returncode = 0
    give_back_limit(process.pid)  # before its first frame, and so before its entry runs
    return StartedInterpreter(process.pid, pidfd)


def interpreter_command(python: str, name: str) -> list[str]:
    """Write the command that starts an interpreter, up to the arguments of `child/__main__.py`.

    Args:
        python: the interpreter.
        name: shown in a list of processes.
    """
    flags = ["-P"]
    if sys.dont_write_bytecode:
        flags.append("-B")
    flags += ["-O"] * sys.flags.optimize
    return [python, *flags, str(_PROGRAM), name]


def _beyond_standard(fd: int, duplicates: ExitStack) -> int:
    """Return a descriptor, or a higher duplicate if its number is that of a standard stream."""
    if fd > _STANDARD_FDS:
        return fd
    duplicate = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STANDARD_FDS + 1)
    duplicates.callback(os.close, duplicate)
    return duplicate


def search_path() -> list[str]:
    """Return this program's `sys.path` in a form that means the same from another working directory.

    It leaves out items that are no text, which importing ignores too, and relative folders if the current one is gone.
    """
    folders: list[str] = []
    for folder in sys.path:
        if isinstance(folder, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # anything may be put into it
            with suppress(FileNotFoundError):
                folders.append(os.path.abspath(folder))  # '' is the current one
    return folders
