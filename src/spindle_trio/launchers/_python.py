"""The exec launcher: a fresh Python interpreter for each process.

A lean fork server makes the processes, so they are contained, reaped and protected like all others. The first frame has
each become an interpreter by `exec` (`spindle_trio.child._exec`); the second frame is its order.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Final

from spindle_trio._model import Containment, ResolvedEntry
from spindle_trio.abc import LaunchOrder
from spindle_trio.launchers._entry_path import PYTHON_SUFFIXES
from spindle_trio.launchers._local._engine import Engine, Program
from spindle_trio.launchers._local._first_frames import confined_already, encode_execution, encode_order
from spindle_trio.launchers._local._forked_process import ProcessParent
from spindle_trio.launchers._local._interpreter import interpreter_command, search_path
from spindle_trio.launchers._local._server_launcher import ServerLauncher

__all__ = ["PythonLauncher"]

DEFAULT_SPARES: Final = 1


class PythonEngine(Engine):
    """Runs Python entries: each process becomes an interpreter."""

    suffixes = PYTHON_SUFFIXES

    def __init__(self, python: str | None) -> None:
        """Look for the interpreter.

        Args:
            python: a path, or a command to look up; `None` for the one that runs this program.
        """
        self.python: Final = python or sys.executable
        # Looked up now: the child may have no PATH, and has another working directory.
        found = shutil.which(self.python)
        self.command: Final = None if found is None else os.path.abspath(found)
        """Its path; `None` if it was not found."""

    def runtime(self, entry: ResolvedEntry) -> Sequence[str]:
        """List what the interpreter needs; see `Engine.runtime`."""
        from spindle_trio.launchers._sandbox_runtime import installation_of, python_runtime  # as in the other engines

        return [*python_runtime(), *(() if self.command is None else installation_of(self.command))]

    def prepare(self, order: LaunchOrder, parent: ProcessParent) -> Program:
        """Write the command and the order; see `Engine.prepare`."""
        assert self.command is not None, "a launcher that was started has an interpreter"
        if not os.access(self.command, os.X_OK):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory, or not to be executed", self.command)
        command = interpreter_command(self.command, f"{order.entry.entry} {order.process_id}")
        path = search_path() if self.python == sys.executable else None
        execution = encode_execution(order, command, "spindle_trio.child._program")
        return Program([execution, encode_order(confined_already(order), path)])  # it has gone into it before


class PythonLauncher(ServerLauncher):
    """Runs each entry, a ``.py`` file, in a Python interpreter of its own. Needs Linux 5.4 or later."""

    def __init__(
        self, python: str | None = None, *, spares: int = DEFAULT_SPARES, containment: Containment | str | None = None
    ) -> None:
        """Prepare; starts nothing.

        Args:
            python: the interpreter, as a path or as a command that is looked up. By default it is the one that runs
                this program; then children also have its `sys.path`. Another one keeps its own, with this package
                added.
            spares: how many processes wait for the next launches, each to become an interpreter.
            containment: the level of containment: exactly this one, or the host refuses to open; `None` for the
                strongest that works here.

        Raises:
            ValueError: `spares` is negative or not an integer, or `containment` is not a level.
        """
        self._engine: Final = PythonEngine(python)
        super().__init__(self._engine, spares=spares, containment=containment, execs=True)

    def __repr__(self) -> str:
        return f"PythonLauncher({self._engine.python!r})"

    async def start(self) -> None:
        """Make ready; see `ServerLauncher.start`.

        Raises:
            RuntimeError: there is no such interpreter, or a reason that `ServerLauncher.start` gives.
        """
        if self._engine.command is None:
            python = self._engine.python
            raise RuntimeError(f"PythonLauncher: there is no interpreter {python!r}; name an executable file")
        await super().start()
