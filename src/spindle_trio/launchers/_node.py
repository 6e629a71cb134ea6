"""The launcher of JavaScript entries, each in a Node or Bun of its own.

A lean fork server makes the processes, so they are contained, reaped and protected like all others. Each then becomes
Node by `exec`. Its runtime (`spindle_trio.javascript`) uses the same frames as every process.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Final

import attrs

from spindle_trio._errors import EntryError
from spindle_trio._model import Containment, ResolvedEntry
from spindle_trio.abc import LaunchOrder
from spindle_trio.javascript import OLDEST_NODE, RUNTIME
from spindle_trio.launchers._entry_path import JAVASCRIPT_SUFFIXES
from spindle_trio.launchers._local._engine import Engine, Program
from spindle_trio.launchers._local._first_frames import encode_execution
from spindle_trio.launchers._local._forked_process import ProcessParent
from spindle_trio.launchers._local._server_launcher import ServerLauncher

__all__ = ["JavaScriptEngine", "NodeLauncher"]

DEFAULT_SPARES: Final = 1

_NAMES: Final = ("node", "bun")
"""The programs to look for on the `PATH`, in this order."""

_BUN: Final = "bun"
_BUNDLE_MARK: Final = b"// @bun"
"""Begins a file that Bun has bundled for itself, after a ``#!`` line if it has one. Node cannot run such a file."""

_HEAD_BYTES: Final = 512
"""How much of an entry to search for that."""

_CHANNEL: Final = ("NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE")
"""With these, Node takes over a descriptor from its parent. That number is the host's, and may be a lane here."""

_ADVICE: Final = (
    f"install Node {'.'.join(map(str, OLDEST_NODE))} or later so that node is on the PATH, or name a program: "
)


class JavaScriptEngine(Engine):
    """The program that runs JavaScript, which a process becomes. It is looked up on first use."""

    suffixes = JAVASCRIPT_SUFFIXES

    def __init__(self, program: str | None = None, *, naming: str = "NodeLauncher('/…/node')") -> None:
        """Prepare; looks for nothing yet.

        Args:
            program: a path, or a command to look up; `None` for the first of `node` and `bun` that exists.
            naming: how a caller names a program to the launcher, for advice.
        """
        self._naming: Final = naming
        self.program: Final = program
        self._path: str | None = None

    def path(self) -> str | None:
        """Return its path; `None` while there is none."""
        if self._path is None or not os.access(self._path, os.X_OK):
            found = map(shutil.which, _NAMES if self.program is None else (self.program,))
            path = next(filter(None, found), None)
            # A process has another working directory.
            self._path = None if path is None else os.path.abspath(path)
        return self._path

    def path_for(self, entry: ResolvedEntry) -> str | None:
        """Return the program for an entry: Bun if Bun has bundled it for itself; `None` if there is no such program."""
        is_named_bun = self.program is not None and os.path.basename(self.program).startswith(_BUN)
        if is_named_bun or not _is_bun_bundle(entry):
            return self.path()
        bun = shutil.which(_BUN)
        return None if bun is None else os.path.abspath(bun)

    def require(self, entry: ResolvedEntry) -> None:
        """Make sure that something can run an entry.

        Raises:
            EntryError: nothing can run it; says what to install.
        """
        if self.path_for(entry) is not None:
            return
        if _is_bun_bundle(entry):
            raise EntryError(
                f"nothing here can run the JavaScript entry {entry.entry!r}: it begins with '// @bun', so it is a "
                "bundle for Bun, and there is no bun on the PATH; install Bun, or bundle it with --target=node"
            )
        raise EntryError(f"nothing here can run the JavaScript entry {entry.entry!r}: {self.problem()}")

    def problem(self) -> str:
        """Say what is missing, and what to do."""
        missing = f"there is no {self.program!r}" if self.program else "neither node nor bun is on the PATH"
        return f"{missing}; {_ADVICE}{self._naming}"

    def runtime(self, entry: ResolvedEntry) -> Sequence[str]:
        """List what Node or Bun needs; see `Engine.runtime`."""
        from spindle_trio.launchers._sandbox_runtime import installation_of, system_runtime  # as in the other engines

        program = self.path_for(entry)
        return [
            *system_runtime(),
            str(RUNTIME.parent.resolve()),
            *(() if program is None else installation_of(program)),
        ]

    def prepare(self, order: LaunchOrder, parent: ProcessParent) -> Program:
        """Write the command; see `Engine.prepare`."""
        path = self.path_for(order.entry)
        if path is None:
            raise FileNotFoundError(self.problem())
        environment = {name: value for name, value in order.environment.items() if name not in _CHANNEL}
        order = attrs.evolve(order, environment=environment)
        command = [path, str(RUNTIME), f"{order.entry.entry} {order.process_id}"]
        frame = encode_execution(order, command, str(order.entry.path), order.arguments)
        # Nobody can look into a Node that runs in a loop. An entry may compute while a message has left in part; the
        # watchdog covers that.
        return Program([frame], leaves_stacks=False, waits_to_send=False)


def _is_bun_bundle(entry: ResolvedEntry) -> bool:
    """Whether Bun has bundled a file for itself. False if it cannot be read; the launch then reports that."""
    if entry.path is None:
        return False
    try:
        with open(entry.path, "rb", opener=_open_without_waiting) as file:
            head = file.read(_HEAD_BYTES) or b""  # nothing is there yet: a pipe
    except OSError:
        return False
    if head.startswith(b"#!"):
        head = head.partition(b"\n")[2]
    return head.startswith(_BUNDLE_MARK)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking: it may have become a pipe since its check, and the whole host would wait."""
    return os.open(path, flags | os.O_NONBLOCK)


class NodeLauncher(ServerLauncher):
    """Runs each entry, a ``.js``, ``.mjs`` or ``.cjs`` file, in a Node (20.19 or later) or Bun of its own.

    A file that Bun has bundled for itself (it begins with ``// @bun``) runs in the `bun` on the `PATH`. Needs Linux 5.4
    or later. The default launcher of a host runs JavaScript entries as well, beside Python ones.
    """

    def __init__(
        self, program: str | None = None, *, spares: int = DEFAULT_SPARES, containment: Containment | str | None = None
    ) -> None:
        """Prepare; starts nothing.

        Args:
            program: the program that runs JavaScript, as a path or as a command that is looked up; `None` for the first
                of `node` and `bun` on the `PATH`.
            spares: how many processes wait for the next launches, each to become that program.
            containment: the level of containment: exactly this one, or the host refuses to open; `None` for the
                strongest that works here.

        Raises:
            ValueError: `spares` is negative or not an integer, or `containment` is not a level.
        """
        self._engine: Final = JavaScriptEngine(program)
        super().__init__(self._engine, spares=spares, containment=containment, execs=True)

    def __repr__(self) -> str:
        return f"NodeLauncher({self._engine.program or self._engine.path()!r})"

    @property
    def program(self) -> str | None:
        """The path of the program that runs JavaScript; `None` if there is none."""
        return self._engine.path()

    async def start(self) -> None:
        """Make ready; see `ServerLauncher.start`.

        Raises:
            RuntimeError: there is no such program, or a reason that `ServerLauncher.start` gives.
        """
        if self._engine.path() is None:
            raise RuntimeError(f"NodeLauncher: {self._engine.problem()}")
        await super().start()
