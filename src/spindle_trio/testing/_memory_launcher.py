"""Runs `async` entries as tasks of the same Trio run, so that whole systems can be tested in virtual time.

The entry, its runtime and the frames are the real ones; only the operating system is missing. Nothing here uses a real
clock or a thread, or depends on anything but Trio's scheduler.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import trio

from spindle_trio._errors import EntryError
from spindle_trio.abc import ABANDON_SECONDS, ExitStatus, LaunchedProcess, Launcher, LaunchOrder, ResolvedEntry
from spindle_trio.child import ProcessContext
from spindle_trio.child._async_runtime import ChildEnd, run_async_child
from spindle_trio.child._facts import facts_from_init
from spindle_trio.launchers._entry_path import normalise_entry, normalise_folder
from spindle_trio.testing._memory_process import KILLED, MemoryProcess
from spindle_trio.testing._scripted import ScriptedChild, ScriptedProcess
from spindle_trio.testing._shields import take_shields_away

MemoryEntry: TypeAlias = Callable[[ProcessContext], Awaitable[object]]
"""What a `MemoryLauncher` runs: the same ``async def`` functions that entry files export."""

_log = logging.getLogger("spindle_trio.testing")


class MemoryLauncher(Launcher):
    """Launches `async` callables, and scripted children, in the Trio run of the host.

    They share the test's own program: an entry sees that program's `os.environ`, working directory and `sys.argv`. The
    `environment`, `folder` and `arguments` of a spawn are checked and have no effect.
    """

    def __init__(self, entries: Mapping[str, MemoryEntry | ScriptedChild | Sequence[ScriptedChild]]) -> None:
        """Take in the entries.

        Args:
            entries: name → what it runs. Names are used like the paths of files. A `ScriptedChild` plays one
                launch; a sequence of them plays several, in order.

        Raises:
            TypeError: `entries` is not a mapping, or an entry is not an `async` function; names it.
        """
        _check_mapping(entries)
        self._entries: dict[str, MemoryEntry | list[ScriptedChild]] = {}
        self._resolved: dict[str, ResolvedEntry] = {}
        self._looked_through: dict[str, int] = {}  # how many scripted children of an entry have been launched
        for name, entry in entries.items():
            self._entries[normalise_entry(name, Path("/"))] = _checked(name, entry)
        self._live: set[MemoryProcess] = set()
        self._complaints: list[str] = []

    def __repr__(self) -> str:
        return f"<MemoryLauncher {len(self._entries)} entries, {len(self._live)} live>"

    @property
    def live_processes(self) -> int:
        """How many processes exist whose launch block has not been left."""
        return len(self._live)

    @property
    def complaints(self) -> Sequence[str]:
        """Entries that survived their kill; tests should fail for each."""
        return tuple(self._complaints)

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        """Accept an entry that this launcher was given; see `Launcher.resolve`."""
        name = normalise_entry(entry, root)
        if name not in self._entries:
            known = (
                ", ".join(map(repr, sorted(self._entries))) or "none (with the fixtures, override `spindle_entries`)"
            )
            raise EntryError(f"there is no entry {name!r} in this MemoryLauncher; it has: {known}")
        return self._resolved.setdefault(name, ResolvedEntry(name))

    def resolve_folder(self, folder: str, root: Path) -> Path:
        """Accept a folder that need not exist, since no entry runs in it here; see `Launcher.resolve_folder`."""
        return root / normalise_folder(folder, root)

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        """Start an entry for as long as the block lasts; see `Launcher.launch`.

        Raises:
            AssertionError: on leaving the block: the entry went on for more than 1.5 s after its kill.
        """
        entry = self._entries[order.entry.entry]
        if callable(entry):
            return _EntryBlock(self._live, self._complaints, _EntryProcess(order, entry))
        # From where the last look ended, so that a list of thousands is not gone through for each of them.
        number = self._looked_through.get(order.entry.entry, 0)
        while number < len(entry) and entry[number].was_launched:
            number += 1
        self._looked_through[order.entry.entry] = number
        if number < len(entry):
            return _ScriptedBlock(self._live, ScriptedProcess(order, entry[number]))
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


def _checked(
    name: str, entry: MemoryEntry | ScriptedChild | Sequence[ScriptedChild]
) -> MemoryEntry | list[ScriptedChild]:
    if isinstance(entry, ScriptedChild):
        return [entry]
    if isinstance(entry, Sequence):
        children: Sequence[object] = entry
        for child in children:
            if not isinstance(child, ScriptedChild):
                raise TypeError(
                    f"the entry {name!r} is a sequence that has a {type(child).__name__}, no ScriptedChild, in it"
                )
        return [child for child in children if isinstance(child, ScriptedChild)]
    function: object = entry
    while isinstance(function, functools.partial):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004  # looked at, not for whether it is callable
    if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(call):
        raise TypeError(
            f"the entry {name!r} must be an `async def` function or a ScriptedChild, not {_described(function)}: "
            "MemoryLauncher runs entries as Trio tasks, and a blocking one would stop them all"
        )
    return entry


def _described(value: object) -> str:
    if inspect.isasyncgenfunction(value):
        return "an async generator function"
    return "a plain function" if inspect.isfunction(value) else type(value).__name__


class _EntryProcess(MemoryProcess):
    """An entry that runs in a task of its launch block."""

    __slots__ = ("_entry", "_nursery", "ended_at", "interrupt", "killed_at", "task")

    def __init__(self, order: LaunchOrder, entry: MemoryEntry) -> None:
        super().__init__(order)
        self._entry = entry
        self._nursery: trio.Nursery | None = None
        self.killed_at = self.ended_at = math.inf
        self.task: trio.lowlevel.Task | None = None
        self.interrupt: KeyboardInterrupt | None = None

    def kill(self) -> None:
        """Cancel the entry, and let nothing that it still says out; see `LaunchedProcess.kill`."""
        if self._status is None and self.killed_at == math.inf:
            self.killed_at = trio.current_time()
            self.child_control.silence()
            self.child_messages.silence()
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Be the process, from its first frame to its exit."""
        self.task = trio.lowlevel.current_task()
        self.task.name = f"entry {self.order.entry.entry}"
        status = KILLED
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                # Like a real process it feels no cancellation of its host's; the launch block sees to a kill.
                nursery.cancel_scope.shield = True
                if self.killed_at < math.inf:
                    nursery.cancel_scope.cancel()
                end = await self._run_child(nursery)
                if end is not None and self.killed_at == math.inf:
                    status = ExitStatus(code=end.code)
        finally:
            self.ended_at = trio.current_time()
            self.end(status)

    async def _run_child(self, nursery: trio.Nursery) -> ChildEnd | None:
        """Run the entry; `None` if the host is gone before it has said anything."""
        try:
            try:
                # A host that owns this process has sent its first frame before this task has its first turn.
                (init,) = self.child_control.receive_nowait(1)
            except trio.WouldBlock:
                (init,) = await self.child_control.receive(1)
        except trio.EndOfChannel:
            return None
        return await run_async_child(
            self._call,
            facts_from_init(json.loads(init)),
            self.child_control,
            self.child_messages,
            beat=self.beat,
            report=self.write_stderr,
            nursery=nursery,
        )

    @trio.lowlevel.disable_ki_protection
    async def _call(self, context: ProcessContext) -> object:
        try:
            return await self._entry(context)
        except KeyboardInterrupt as interrupt:
            # In a real process it is that process's own affair. Here somebody wants the whole test to end.
            self.interrupt = interrupt
            raise

    @property
    def shields_end_at(self) -> trio.CancelScope | None:
        """The scope in which all that the entry opens lies; `None` before its first turn."""
        return None if self._nursery is None else self._nursery.cancel_scope


class _ScriptedBlock(AbstractAsyncContextManager[LaunchedProcess]):
    """The life of a scripted child. It has no task: leaving the block need not wait for anything but its word."""

    def __init__(self, live: set[MemoryProcess], process: ScriptedProcess) -> None:
        self._live = live
        self._process = process

    async def __aenter__(self) -> LaunchedProcess:
        await trio.lowlevel.checkpoint()
        self._live.add(self._process)
        self._process.launched()
        return self._process

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        try:
            killed_at = self._process.killed_at
            if killed_at is not None:  # one that withstands is waited for once, here or before the block is left
                with trio.CancelScope(deadline=killed_at + ABANDON_SECONDS, shield=True):
                    await self._process.wait()
        finally:
            self._live.discard(self._process)
            self._process.close_host_ends()


class _EntryBlock(AbstractAsyncContextManager[LaunchedProcess]):
    """The life of an entry's task, which is one of the host's where there is a host, and else of a nursery in here."""

    __slots__ = ("_complaints", "_live", "_nursery_manager", "_process")

    def __init__(self, live: set[MemoryProcess], complaints: list[str], process: _EntryProcess) -> None:
        self._live = live
        self._complaints = complaints
        self._process = process
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None

    async def __aenter__(self) -> LaunchedProcess:
        await trio.lowlevel.checkpoint()  # before anything exists, so that a cancellation leaves nothing
        start_soon = self._process.order.start_soon
        if start_soon is None:
            self._nursery_manager = trio.open_nursery()
            start_soon = (await self._nursery_manager.__aenter__()).start_soon
        self._live.add(self._process)
        start_soon(self._process.run)
        return self._process

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        complaint = None
        try:
            # Bounded: the entry has been killed, and where that is not enough its shields are taken away.
            with trio.CancelScope(shield=True):
                with trio.move_on_at(self._process.killed_at + ABANDON_SECONDS):
                    await self._process.wait()
                is_late = self._process.ended_at > self._process.killed_at + ABANDON_SECONDS
                if is_late:
                    complaint = self._complain()
                    take_shields_away(self._process.task, self._process.shields_end_at)
                    await self._process.wait()
        finally:
            try:
                if self._nursery_manager is not None:
                    # As if without error, so that what is raised in the body leaves it as it is, in no group.
                    await self._nursery_manager.__aexit__(None, None, None)  # noqa: ASYNC102  # its task has ended
            finally:
                self._live.discard(self._process)
                self._process.close_host_ends()
        if self._process.interrupt is not None:
            raise self._process.interrupt
        if complaint is not None:
            raise AssertionError(complaint)

    def _complain(self) -> str:
        order = self._process.order
        complaint = (
            f"the entry {order.entry.entry!r} (process {order.process_id}) went on for more than "
            f"{ABANDON_SECONDS} s after its kill: it is shielded for longer than a real process survives SIGKILL"
        )
        self._complaints.append(complaint)
        _log.error("%s", complaint, extra=order.log_attributes())
        return complaint
