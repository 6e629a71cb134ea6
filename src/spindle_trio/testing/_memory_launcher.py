"""Runs `async` entries as tasks of the same Trio run, so that whole systems can be tested in virtual time.

The entry, its runtime and the frames are the real ones; only the operating system is missing. Nothing here uses a real
clock or a thread, or depends on anything but Trio's scheduler.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Never, TypeAlias

from spindle_trio._errors import EntryError
from spindle_trio.abc import LaunchedProcess, Launcher, LaunchOrder, ResolvedEntry
from spindle_trio.child import ProcessContext
from spindle_trio.child._calls import entry_of
from spindle_trio.launchers._entry_path import normalise_entry, normalise_folder
from spindle_trio.testing._memory_entry import EntryBlock, MemoryEntry
from spindle_trio.testing._memory_process import MemoryProcess
from spindle_trio.testing._scripted import ScriptedChild
from spindle_trio.testing._scripted_process import ScriptedBlock, ScriptedProcess

if TYPE_CHECKING:
    from spindle_trio._model._command import Command
    from spindle_trio.testing._scripted_program import CommandScript

AnyEntry: TypeAlias = MemoryEntry | Mapping[str, Callable[[Never], object]] | ScriptedChild | Sequence[ScriptedChild]
"""What a `MemoryLauncher` can be given to run."""


class MemoryLauncher(Launcher):
    """Launches `async` callables, and scripted children, in the Trio run of the host.

    They share the test's own program: an entry sees that program's `os.environ`, working directory and `sys.argv`. The
    `environment`, `folder` and `arguments` of a spawn are checked and have no effect. Of its `resource_limits`, those
    on memory, pids and processor time hold for a `ScriptedChild`, which says by `use` what it uses; `run_seconds` holds
    for all; the others have no effect.
    """

    def __init__(
        self,
        entries: Mapping[str, AnyEntry] = MappingProxyType({}),
        *,
        commands: Mapping[str, CommandScript] = MappingProxyType({}),
    ) -> None:
        """Take in the entries, and the programs of commands.

        Args:
            entries: name → what it runs. Names are used like the paths of files. A mapping of names to functions
                answers calls, as the `calls` of a module does. A `ScriptedChild` plays one launch; a sequence of them
                plays several, in order.
            commands: program → the script that plays it, an ``async def script(program)`` that gets a
                `ScriptedProgram`, and returns the exit code. A program is named as in the `Command`'s argv, or by the
                last part of that.

        Raises:
            TypeError: `entries` or `commands` is not a mapping, or an entry or a script is not an `async` function;
                names it.
            ValueError: an entry is a mapping, but not of names to functions; names it.
        """
        _check_mapping(entries)
        self._entries: dict[str, MemoryEntry | list[ScriptedChild]] = {}
        self._resolved: dict[str, ResolvedEntry] = {}
        self._looked_through: dict[str, int] = {}  # how many scripted children of an entry have been launched
        for name, entry in entries.items():
            self._entries[normalise_entry(name, Path("/"))] = _checked(name, entry)
        self._commands: dict[str, CommandScript] = _checked_scripts(commands)
        self._live: set[MemoryProcess] = set()
        self._complaints: list[str] = []

    def __repr__(self) -> str:
        commands = f" {len(self._commands)} commands," if self._commands else ""
        return f"<MemoryLauncher {len(self._entries)} entries,{commands} {len(self._live)} live>"

    @property
    def live_processes(self) -> int:
        """How many processes exist whose launch block has not been left."""
        return len(self._live)

    @property
    def complaints(self) -> Sequence[str]:
        """Entries that survived their kill; tests should fail for each."""
        return tuple(self._complaints)

    @property
    def limit_means(self) -> Mapping[str, str]:
        """Take every limit; see `Launcher.limit_means`."""
        return dict.fromkeys(("memory", "pids", "cpus", "cpu_seconds", "open_files", "file_bytes"), "script")

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        """Accept an entry that this launcher was given; see `Launcher.resolve`."""
        name = normalise_entry(entry, root)
        if name not in self._entries:
            known = (
                ", ".join(map(repr, sorted(self._entries))) or "none (with the fixtures, override `spindle_entries`)"
            )
            raise EntryError(f"there is no entry {name!r} in this MemoryLauncher; it has: {known}")
        return self._resolved.setdefault(name, ResolvedEntry(name))

    def resolve_command(self, command: Command, root: Path, environment: Mapping[str, str]) -> ResolvedEntry:
        """Accept a command whose program this launcher was given; see `Launcher.resolve_command`."""
        program = command.argv[0]
        if self._script_of(command) is None:
            known = ", ".join(map(repr, sorted(self._commands))) or "none"
            raise EntryError(
                f"there is no program {program!r} in this MemoryLauncher; it has: {known}; type: "
                f"MemoryLauncher(commands={{{program!r}: script}})"
            )
        from spindle_trio._model._command import name_of_command

        return ResolvedEntry(name_of_command(command), program=root / program if "/" in program else None)

    def _script_of(self, command: Command) -> CommandScript | None:
        program = command.argv[0]
        return self._commands.get(program) or self._commands.get(program.rpartition("/")[2])

    def resolve_folder(self, folder: str, root: Path) -> Path:
        """Accept a folder that need not exist, since no entry runs in it here; see `Launcher.resolve_folder`."""
        return root / normalise_folder(folder, root)

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        """Start an entry for as long as the block lasts; see `Launcher.launch`.

        Raises:
            AssertionError: on leaving the block: the entry went on for more than 1.5 s after its kill.
        """
        if order.command is not None:
            from spindle_trio.testing._scripted_program import playing  # only for those who use it

            script = self._script_of(order.command)
            assert script is not None, "a command was resolved before its launch"
            return EntryBlock(self._live, self._complaints, order, playing(script, order, order.command))
        entry = self._entries[order.entry.entry]
        if callable(entry):
            return EntryBlock(self._live, self._complaints, order, entry)
        # From where the last look ended, so that a list of thousands is not gone through for each of them.
        number = self._looked_through.get(order.entry.entry, 0)
        while number < len(entry) and entry[number].was_launched:
            number += 1
        self._looked_through[order.entry.entry] = number
        if number < len(entry):
            return ScriptedBlock(self._live, ScriptedProcess(order, entry[number]))
        raise OSError(
            f"{order.entry.entry!r} has {len(entry)} scripted child(ren), all of which have been launched; "
            "give the launcher a list with one for each launch"
        )


def _check_mapping(entries: object) -> None:
    if not isinstance(entries, Mapping):
        name = getattr(entries, "__name__", "entry")
        raise TypeError(
            f"entries must be a mapping of names to what runs, not {entries!r}; "
            f'type: MemoryLauncher({{"{name}": {name}}})'
        )


def _checked_scripts(commands: object) -> dict[str, CommandScript]:
    if not isinstance(commands, Mapping):
        raise TypeError(
            f"commands must be a mapping of programs to scripts, not {commands!r}; "
            'type: MemoryLauncher(commands={"my-server": my_server})'
        )
    for name, script in commands.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"commands must map the names of programs, not {name!r}")
        if not inspect.iscoroutinefunction(_unwrapped(script)):
            raise TypeError(f"the script of {name!r} must be an `async def` function, not {_described(script)}")
    return dict(commands)


def _unwrapped(function: object) -> object:
    """Return the function behind partial ones, or the call of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return function
    return getattr(type(function), "__call__", None)  # noqa: B004  # looked at, not for whether it is callable


def _checked(name: str, entry: AnyEntry) -> MemoryEntry | list[ScriptedChild]:
    if isinstance(entry, ScriptedChild):
        return [entry]
    if isinstance(entry, Mapping):
        return _answering(entry_of(entry, f"the entry {name!r}"))
    if isinstance(entry, Sequence):
        children: Sequence[object] = entry
        for child in children:
            if not isinstance(child, ScriptedChild):
                raise TypeError(
                    f"the entry {name!r} is a sequence that has a {type(child).__name__}, no ScriptedChild, in it"
                )
        return [child for child in children if isinstance(child, ScriptedChild)]
    if not inspect.iscoroutinefunction(_unwrapped(entry)):
        raise TypeError(
            f"the entry {name!r} must be an `async def` function or a ScriptedChild, not {_described(entry)}: "
            "MemoryLauncher runs entries as Trio tasks, and a blocking one would stop them all"
        )
    return entry


def _answering(register: Callable[[ProcessContext], object]) -> MemoryEntry:
    """Make an `async` entry of one that may be plain."""

    async def run(process: ProcessContext) -> None:
        registered = register(process)
        if isinstance(registered, Awaitable):
            await registered

    return run


def _described(value: object) -> str:
    while isinstance(value, functools.partial):
        value = value.func
    if inspect.isasyncgenfunction(value):
        return "an async generator function"
    return "a plain function" if inspect.isfunction(value) else type(value).__name__
