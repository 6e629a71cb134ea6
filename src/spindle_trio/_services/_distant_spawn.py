"""A spawn at the far end of a stream that leaves no process behind when it is cancelled."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Unpack

import trio

from spindle_trio._model import SpawnArguments
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._model import LifecycleEvent
    from spindle_trio._model._command import Command
    from spindle_trio._process_handle import ProcessHandle
    from spindle_trio._services._settings import UnitSettings
    from spindle_trio._worker import Worker


@uninterrupted
class DistantSpawn:
    """The spawns of one service, one after another.

    `BackendProcesses.spawn` goes on at once when it is cancelled over a stream, and its process lives on until the host
    has answered. This one waits for the answer. The events name the process before, by its key: it is killed at once.
    Without a key they may speak of anybody's process, and this is not used.
    """

    def __init__(self, worker: Worker, settings: UnitSettings) -> None:
        """Begin without a spawn.

        Args:
            worker: is connected to its host by a stream.
            settings: what each process is started with.
        """
        self._processes = worker.backend_processes
        self._kind = (settings.spawn.get("kind") or "").strip() or settings.entry_name
        self._user_id = (settings.spawn.get("user_id") or "").strip() or None
        self._process_id: str | None = None
        self._known = trio.Event()  # the process has a name, or the answer is there
        self._answered = trio.Event()
        self._handle: ProcessHandle | None = None
        self._error: Exception | None = None

    def note(self, event: LifecycleEvent) -> None:
        """Take note of a process with this key that starts."""
        is_own = event.kind == self._kind and self._user_id in {None, event.user_id}
        if self._process_id is None and is_own:
            self._process_id = event.process_id
            self._known.set()

    async def run(self, entry: str | Command, **options: Unpack[SpawnArguments]) -> ProcessHandle:
        """Spawn a process; see `BackendProcesses.spawn`.

        If it is cancelled, it raises or returns what the host answers: mostly that the process was stopped.
        """
        self._process_id = None
        self._known, self._answered = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, entry, options)
            try:
                await self._answered.wait()
            except trio.Cancelled:  # noqa: ASYNC103  # raised at the next checkpoint: the answer comes first
                with trio.CancelScope(shield=True):
                    await self._kill()
        handle, self._handle = self._handle, None
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame
        assert handle is not None, "a spawn without an error has a process"
        return handle

    async def _ask(self, entry: str | Command, options: SpawnArguments) -> None:
        try:
            with trio.CancelScope(shield=True):
                self._handle = await self._processes.spawn(entry, **options)
        except Exception as error:
            self._error = error
        finally:
            self._known.set()
            self._answered.set()

    async def _kill(self) -> None:
        """Kill the process once it has a name. Bounded: the host answers when it is ready, or its time is over."""
        await self._known.wait()
        process_id = self._process_id
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):  # the host ends it, or has
            if process_id is not None and not self._answered.is_set():
                await self._processes.get(process_id)  # a spawn that was refused is answered by now: it is another's
            if process_id is not None and not self._answered.is_set():
                await self._processes.stop(process_id, grace=0)
        await self._answered.wait()
