"""The exec launcher: a fresh Python interpreter for each process.

`launch` goes through these steps; whatever fails undoes the ones before it:

1. On the launch thread (see `_launch_thread` for why there): two socket pairs, the shared page, two pipes, the fork
   and exec, and a pidfd, before anybody could reap the process and its number could mean another one.
2. Back in Trio: a `RealProcess` around what came out, which sends the order as the first frame, and two tasks that
   drain its output.
3. In the child, `spindle_trio.child.__main__`: it asks to die with its parent, looks whether that still lives, and
   then waits for its first frame.

"""

from __future__ import annotations

import functools
import os
import select
import shutil
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

from spindle_trio._model import ResolvedEntry
from spindle_trio.abc import Launcher, LaunchOrder
from spindle_trio.launchers._containment import GroupTree
from spindle_trio.launchers._descriptors import raise_limit
from spindle_trio.launchers._entry_path import PYTHON_SUFFIXES, resolve_entry
from spindle_trio.launchers._interpreter import search_path, start_interpreter
from spindle_trio.launchers._launch_thread import PATIENCE, reap_in_background, run_in_launch_thread
from spindle_trio.launchers._memory_events import MemoryEvents
from spindle_trio.launchers._order import check_surroundings, encode_order
from spindle_trio.launchers._page import HeartbeatPage
from spindle_trio.launchers._real_process import ProcessBlock, ProcessParts
from spindle_trio.launchers._reaper import OwnReaper
from spindle_trio.launchers._requirements import require_real_processes
from spindle_trio.launchers._tree import kill_tree

__all__ = ["PythonLauncher"]


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
        self._memory_events: MemoryEvents | None = None

    def __repr__(self) -> str:
        return f"PythonLauncher({self._python!r})"

    async def start(self) -> None:
        """Make sure that this system can do what is needed; see `Launcher.start`.

        Raises:
            RuntimeError: it cannot, or this program does not run in real time; says what is missing.
        """
        require_real_processes("PythonLauncher")
        if self._command is None:
            raise RuntimeError(f"PythonLauncher: there is no interpreter {self._python!r}; name an executable file")
        raise_limit()
        self._memory_events = MemoryEvents.of_this_program()

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        """Accept or refuse an entry; see `Launcher.resolve`."""
        return resolve_entry(entry, root, PYTHON_SUFFIXES)

    def launch(self, order: LaunchOrder) -> ProcessBlock:
        """Start an interpreter for the entry; see `Launcher.launch`."""
        start = functools.partial(
            _start_process,
            self._command or self._python,
            search_path() if self._is_own_python else None,
            order,
            self._memory_events,
        )
        return ProcessBlock(order, lambda: run_in_launch_thread(start, _dispose))


def _start_process(
    python: str, path: list[str] | None, order: LaunchOrder, memory_events: MemoryEvents | None = None
) -> ProcessParts:
    """Start a process; runs on the launch thread.

    Raises:
        OSError: the system has refused, and nothing is left.
        ValueError: no environment can hold one of the names or values.
    """
    check_surroundings(order)
    first_frame = encode_order(order, path)
    with ExitStack() as ours, ExitStack() as theirs:
        control, child_control = _socket_pair(ours, theirs)
        messages, child_messages = _socket_pair(ours, theirs)
        stdout, child_stdout = _pipe(ours, theirs)
        stderr, child_stderr = _pipe(ours, theirs)
        page = HeartbeatPage()
        ours.callback(page.close)
        theirs.callback(page.close_fd)
        given = (child_control.fileno(), child_messages.fileno(), page.fd)
        process = start_interpreter(
            python,
            order.entry.entry,
            "spindle_trio.child._program",
            pass_fds=given,
            stdout=child_stdout,
            stderr=child_stderr,
            root=order.root,
            environment=order.environment,
        )
        ours.pop_all()
        return ProcessParts(
            process.pid,
            process.pidfd,
            process.pid,
            OwnReaper(),
            GroupTree(process.pid, process.pidfd),
            control,
            messages,
            stdout,
            stderr,
            page,
            first_frame,
            memory_events,
        )


def _dispose(parts: ProcessParts) -> None:
    """Kill a process nobody wants, reap it and close everything. Blocks for `PATIENCE` seconds at most."""
    kill_tree(parts.pid, parts.pidfd)
    poll = select.poll()
    poll.register(parts.pidfd, select.POLLIN)
    if poll.poll(PATIENCE * 1000):
        OwnReaper().reap_nowait(parts.pidfd)
        os.close(parts.pidfd)
    else:
        reap_in_background("(not wanted any more)", parts.pid, parts.pidfd)
    parts.close()


def _socket_pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return ours.enter_context(here), theirs.enter_context(there)


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    return read, write
