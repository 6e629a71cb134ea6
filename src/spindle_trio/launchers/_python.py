"""The exec launcher: a fresh Python interpreter for each process.

`launch` goes through these steps; whatever fails undoes the ones before it:

1. On the launch thread (see `_launch_thread` for why there): two socket pairs, the shared page, two pipes, the fork
   and exec, and a pidfd, before anybody could reap the process and its number could mean another one.
2. Back in Trio: a `RealProcess` around what came out, and two tasks that drain its output.
3. In the child, `spindle_trio.child.__main__`: it asks to die with its parent, looks whether that still lives, and
   then waits for its first frame.

The child's command line says which entry it runs, for people who look at a list of processes, then the number of this
process, and then one JSON object with the descriptors and the file. The interpreter is started with `-P`, since
`sys.path` is the host's business. Site processing stays on, although it costs some milliseconds: packages that are
installed in editable form are found by hooks that it sets up, and `sys.path` alone does not bring those over.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from spindle_trio._model import ResolvedEntry
from spindle_trio.abc import Launcher, LaunchOrder
from spindle_trio.launchers._entry_path import resolve_entry
from spindle_trio.launchers._launch_thread import run_in_launch_thread
from spindle_trio.launchers._page import HeartbeatPage
from spindle_trio.launchers._real_process import ProcessBlock, ProcessParts
from spindle_trio.launchers._real_time import require_real_time

__all__ = ["PythonLauncher"]

SUFFIXES: Final = (".py",)

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_PROGRAM: Final = _PACKAGE / "child" / "__main__.py"


class PythonLauncher(Launcher):
    """Runs each entry, a ``.py`` file, in a Python interpreter of its own. Needs Linux 5.4 or later."""

    def __init__(self, python: str | None = None) -> None:
        """Prepare; starts nothing.

        Args:
            python: the interpreter, as a path or as a command that is looked up. By default it is the one that runs
                this program; then children also have its `sys.path`. Another one keeps its own, with this package
                added.
        """
        self._python = python or sys.executable
        self._is_own_python = self._python == sys.executable
        # Looked up now: the child's environment need not have a PATH, and its working directory is another one.
        found = shutil.which(self._python)
        self._command = None if found is None else os.path.abspath(found)

    def __repr__(self) -> str:
        return f"PythonLauncher({self._python!r})"

    async def start(self) -> None:
        """Make sure that this system can do what is needed; see `Launcher.start`.

        Raises:
            RuntimeError: it cannot, or this program does not run in real time; says what is missing.
        """
        require_real_time("PythonLauncher")
        if sys.platform != "linux":
            raise RuntimeError(
                f"PythonLauncher needs Linux (pidfd and memfd), and this is {sys.platform}; "
                "spindle_trio.testing.MemoryLauncher runs everywhere"
            )
        try:
            os.close(os.pidfd_open(os.getpid()))
            HeartbeatPage().close()
        except (AttributeError, OSError) as error:
            raise RuntimeError(
                f"PythonLauncher needs pidfd_open and sealed memfds, as Linux 5.4 and later have them: {error}"
            ) from error
        if self._command is None:
            raise RuntimeError(f"PythonLauncher: there is no interpreter {self._python!r}; name an executable file")

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        """Accept or refuse an entry; see `Launcher.resolve`."""
        return resolve_entry(entry, root, SUFFIXES)

    def launch(self, order: LaunchOrder) -> ProcessBlock:
        """Start an interpreter for the entry; see `Launcher.launch`."""
        start = functools.partial(
            _start_process, self._command or self._python, _search_path() if self._is_own_python else None, order
        )
        return ProcessBlock(order, lambda: run_in_launch_thread(start, ProcessParts.dispose))


def _search_path() -> list[str]:
    """Return this program's `sys.path`, such that it means the same from another working directory.

    What is no text, importing does not look at either; and a relative folder is none where the current one is gone.
    """
    folders: list[str] = []
    for folder in sys.path:
        if isinstance(folder, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # anything may be put into it
            with suppress(FileNotFoundError):
                folders.append(os.path.abspath(folder))  # '' is the current one
    return folders


def _start_process(python: str, path: list[str] | None, order: LaunchOrder) -> ProcessParts:
    """Start a process; runs on the launch thread.

    Raises:
        OSError: the system has refused, and nothing is left.
    """
    with ExitStack() as ours, ExitStack() as theirs:
        control, child_control = _socket_pair(ours, theirs)
        messages, child_messages = _socket_pair(ours, theirs)
        stdout, child_stdout = _pipe(ours, theirs)
        stderr, child_stderr = _pipe(ours, theirs)
        page = HeartbeatPage()
        ours.callback(page.close)
        theirs.callback(page.close_fd)
        given = (child_control.fileno(), child_messages.fileno(), page.fd)
        process = subprocess.Popen(
            _command(python, path, order, given),
            stdin=subprocess.DEVNULL,
            stdout=child_stdout,
            stderr=child_stderr,
            cwd=order.root,
            env=dict(order.environment),
            pass_fds=given,
            start_new_session=True,
        )
        try:
            pidfd = os.pidfd_open(process.pid)
        except BaseException:
            process.kill()
            process.wait()
            raise
        # From here on the pidfd tells the end. `subprocess` must neither reap the process nor complain about it.
        process.returncode = 0
        ours.pop_all()
        return ProcessParts(order.process_id, process.pid, pidfd, control, messages, stdout, stderr, page)


def _command(python: str, path: list[str] | None, order: LaunchOrder, given: tuple[int, int, int]) -> list[str]:
    control, messages, page = given
    orders = {
        "control": control,
        "messages": messages,
        "page": page,
        "file": str(order.entry.path),
        "path": path,
    }
    flags = ["-P"]
    if sys.dont_write_bytecode:
        flags.append("-B")
    flags += ["-O"] * sys.flags.optimize
    return [python, *flags, str(_PROGRAM), order.entry.entry, str(os.getpid()), json.dumps(orders)]


def _socket_pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return ours.enter_context(here), theirs.enter_context(there)


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    return read, write
