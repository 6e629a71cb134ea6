"""The process of a service, one generation after another: how it is started, watched and stopped.

A unit decides nothing. It is used by one task at a time, the one that keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from inspect import isawaitable
from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._errors import (
    KeyLostError,
    PayloadError,
    SpawnError,
    SpindleError,
    StartupCancelledError,
)
from spindle_trio._model import ExitReason, LifecycleEvent, ProcessState, SpawnArguments
from spindle_trio._services._distant_spawn import DistantSpawn
from spindle_trio._services._end import SAID, End, one_line
from spindle_trio._services._listener import leave, listen
from spindle_trio._services._restart import Ending
from spindle_trio._services._settings import UnitSettings
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._process_handle import ProcessHandle
    from spindle_trio._services._excess import ExcessWatch
    from spindle_trio._worker import Worker


@uninterrupted
class Unit:
    """The generations of one service."""

    def __init__(
        self, worker: Worker, settings: UnitSettings, take: Callable[[int, ProcessHandle], object] | None = None
    ) -> None:
        """Listen to a worker; `close` has to follow.

        Args:
            worker: starts the processes.
            settings: what each is started with.
            take: called with each generation and its process, when that is ready, before `on_start`.

        Raises:
            trio.ClosedResourceError: the worker is closed.
        """
        self.settings: UnitSettings = settings
        self.generation: int = 0
        """The one that was begun last: 1 for the first."""
        self.excess: str | None = None
        """What the process uses that is more than it is to; it is to be recycled."""
        self._excess_watch: ExcessWatch | None = None  # made for the first process
        self._processes = worker.backend_processes
        self._take = take
        self._handle: ProcessHandle | None = None
        self._predecessor: str | None = None  # whose key the next one takes over
        self._is_let_through = False
        self.ready_at: float = -math.inf
        """When the last one became ready, in Trio's time."""
        self._spawn: DistantSpawn | None = None
        if settings.key is not None and not worker.is_local:
            self._spawn = DistantSpawn(worker, settings)
        self._is_called_off = False
        self._handshake = trio.CancelScope()  # of `on_start`
        self._asked: set[str] = set()  # processes that were asked to stop, by whomever
        self._ends: dict[str, LifecycleEvent] = {}  # of processes of which there is no handle yet
        self._patience = trio.CancelScope()
        self._most_grace = math.inf
        self._listener = listen(self._processes)

    @property
    def process(self) -> ProcessHandle | None:
        """The process, if users may have it now."""
        handle = self._handle
        return handle if self._is_let_through and handle is not None and handle.state is ProcessState.RUNNING else None

    @property
    def last(self) -> ProcessHandle | None:
        """The process that became ready last, also if it has ended."""
        return self._handle

    @property
    def is_live(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._handle is not None and not self._handle.state.is_terminal

    # ---- a life

    async def start(self) -> End | None:
        """Start the next generation, and run `on_start`.

        If it is cancelled before the process is ready, the process is gone; over a stream it may also have become ready
        meanwhile. From then on it lives on until `stop`.

        Returns:
            How it ended, if nobody can use it; `None` if it runs.

        Raises:
            trio.ClosedResourceError: the worker is closed.
            trio.BrokenResourceError: the connection to the host is lost.
        """
        self.generation += 1
        self._is_let_through = self._is_called_off = False
        self.excess = None
        self._asked.clear()
        self._forget()
        self._listener.expect(self.settings.key, self._note)
        process_id: str | None = None
        try:
            spawn = self._processes.spawn if self._spawn is None else self._spawn.run
            handle = await spawn(self.settings.entry, **self._options())
        except StartupCancelledError as error:
            await self._see_off(error.info.process_id)
            await trio.lowlevel.checkpoint_if_cancelled()
            return self._never_ready(error)
        except SpindleError as error:
            return self._never_ready(error)
        else:
            process_id = handle.process_id
        finally:
            self._listener.settle(self.settings.key, self._note, process_id)
            self._ends.clear()
        self._handle = handle
        self._predecessor = handle.process_id
        self.ready_at = trio.current_time()
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._take is not None:
            self._take(self.generation, handle)
        is_done, cause = await self._prepare(handle)
        if not is_done:
            how, why = Ending.FAILED, "its start has failed"
            if self._is_called_off:
                how, why = Ending.RECYCLED, "its start was called off"
            end = await self.stop(why, how=how, keep_key=True)
            if cause is not None and end.how is Ending.FAILED:
                end = attrs.evolve(end, said=one_line(f"on_start raised {type(cause).__name__}: {cause}"))
            return attrs.evolve(end, ready_at=None, cause=cause)
        self._is_let_through = True
        return None

    def call_off(self) -> None:
        """Have the start that is under way end soon: nobody will use its process. It is stopped once it is ready.

        Its spawn goes on. One that is cancelled would have the key for an unknown time, over a stream.
        """
        self._is_called_off = True
        self._handshake.cancel()

    async def watch(self) -> End | None:
        """Wait until the process has ended by itself, or by somebody; `None`: it is to be recycled, as `excess` says.

        Raises:
            trio.BrokenResourceError: the connection to the host is lost.
        """
        handle = self._handle
        assert handle is not None, "a process has been started"
        if self.settings.restart_above is not None:
            if self._excess_watch is None:
                from spindle_trio._services._excess import ExcessWatch  # most services have none

                self._excess_watch = ExcessWatch(self.settings.restart_above, self.settings.name)
            self.excess = await self._excess_watch.wait_above(handle)
            if self.excess is not None:
                return None
        await handle.wait_ended()
        return self._ended(handle, None)

    async def recycle(self, reason: str | None, stable_after: float) -> End:
        """Stop the process, so that another one follows; one that was above its bound too soon has failed.

        Args:
            reason: shown to the entry's stop handler.
            stable_after: seconds since `ready` after which a process has proved itself.
        """
        if self.excess is None or trio.current_time() >= self.ready_at + stable_after:
            return await self.stop(reason, how=Ending.RECYCLED, keep_key=True)
        end = await self.stop(reason, how=Ending.FAILED, keep_key=True)
        return attrs.evolve(end, said=self.excess) if end.how is Ending.FAILED else end

    async def wait_lost(self) -> None:
        """Wait until the worker is closed, or its connection lost. Then the next start raises that."""
        await self._listener.wait_lost()

    async def stop(self, reason: str | None, *, how: Ending, grace: float | None = None, keep_key: bool = False) -> End:
        """Stop the process as gracefully as its grace period allows, and return when it is gone.

        Shielded, and bounded by the grace period and the kill.

        Args:
            reason: shown to the entry's stop handler.
            how: what this end counts as, unless somebody else was first.
            grace: seconds until it is killed; by default the process's own.
            keep_key: whether its key is kept for a next generation.

        Raises:
            trio.BrokenResourceError: the connection to the host is lost, which ends the process.
        """
        handle = self._handle
        assert handle is not None, "a process has been started"
        own = how if handle.state is ProcessState.RUNNING else None
        self._is_let_through = False
        with trio.CancelScope(shield=True):
            while True:
                with trio.CancelScope() as self._patience:
                    if self._most_grace < math.inf:
                        grace = self._most_grace if grace is None else min(grace, self._most_grace)
                    try:
                        await handle.stop(reason, grace=grace, keep_key=keep_key and self.settings.key is not None)
                    except PayloadError:
                        reason = None  # over a limit that the host alone knows
                        continue
                    except (trio.ClosedResourceError, trio.BrokenResourceError):
                        # The host is ending it, or has. Over a lost connection nobody will hear of that.
                        await handle.wait_ended()
                    break
        return self._ended(handle, own)

    async def _see_off(self, process_id: str) -> None:
        """Wait until a process is gone that somebody has stopped while it was starting. Shielded, and bounded."""
        with trio.CancelScope(shield=True), suppress(trio.ClosedResourceError):
            while True:
                with trio.CancelScope() as self._patience:
                    grace = None if self._most_grace == math.inf else self._most_grace
                    await self._processes.stop(process_id, grace=grace)
                    break

    def hurry(self, grace: float = 0) -> None:
        """Give a stop that is under way, or comes, no more than so many seconds: by default kill at once."""
        self._most_grace = min(self._most_grace, grace)
        self._patience.cancel()

    async def close(self) -> None:
        """Listen no more, and give up a key that is kept for a next generation. No process lives. Shielded."""
        self._forget()
        leave(self._processes)
        if self._predecessor is not None and self.settings.key is not None:
            with trio.CancelScope(shield=True), suppress(trio.ClosedResourceError, trio.BrokenResourceError):
                await self._processes.release_key(self._predecessor)

    def _options(self) -> SpawnArguments:
        """The options of the next spawn."""
        options = self.settings.spawn.copy()
        if self.settings.key is not None:
            options["keep_key"] = True
            if self._predecessor is not None:
                options["successor_of"] = self._predecessor
        return options

    # ---- how it ended

    def _note(self, event: LifecycleEvent) -> None:
        """Note who was asked to stop, and the ends of processes before anybody has a handle on them."""
        if event.state is ProcessState.STARTING and self._spawn is not None:
            self._spawn.note(event)
        elif event.state is ProcessState.STOPPING:
            self._asked.add(event.process_id)
        elif event.state.is_terminal:
            self._ends[event.process_id] = event

    def _forget(self) -> None:
        """Hear of the last process no longer."""
        if self._handle is not None:
            self._listener.forget(self._handle.process_id)

    async def _prepare(self, handle: ProcessHandle) -> tuple[bool, Exception | None]:
        """Run `on_start` while the process lives. Returns whether that is done, and what it raised."""
        on_start = self.settings.on_start
        if on_start is None or self._is_called_off:
            return not self._is_called_off, None
        is_done = False
        caught: Exception | None = None

        async def watch() -> None:
            with suppress(trio.BrokenResourceError):
                await handle.wait_ended()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            self._handshake = nursery.cancel_scope
            nursery.start_soon(watch)
            try:
                waiting = on_start(handle)
                if not isawaitable(waiting):
                    raise TypeError("on_start must be an async function; type: async def on_start(process): …")
                await waiting
                is_done = handle.state is ProcessState.RUNNING  # it may have waited for the end itself
            except Exception as error:
                caught = error
            nursery.cancel_scope.cancel()
        return is_done, caught

    def _never_ready(self, error: SpindleError) -> End:
        info = error.info if isinstance(error, SpawnError) else None
        event = None if info is None else self._ends.get(info.process_id)
        if info is not None:
            self._predecessor = info.process_id
        how = Ending.FAILED
        if isinstance(error, KeyLostError):
            how = Ending.REPLACED
        elif isinstance(error, StartupCancelledError):
            how = _by_host(None if event is None else event.exit_reason) or Ending.STOPPED
        post_mortem = None if event is None else event.post_mortem
        return End(how, trio.current_time(), None, info, post_mortem, one_line(str(error)), error)

    def _ended(self, handle: ProcessHandle, own: Ending | None) -> End:
        """Say how the process has ended.

        Args:
            handle: the process.
            own: what it counts as if it was stopped from here.
        """
        info = handle.info
        how = _by_host(info.exit_reason) or own
        if how is None:
            if handle.process_id in self._asked or info.state is ProcessState.STOPPED:
                how = Ending.STOPPED  # whatever its last word: somebody has wished it
            elif info.state is ProcessState.COMPLETED:
                how = Ending.COMPLETED
            else:
                how = Ending.FAILED
        said = info.error if info.error is not None and how is Ending.FAILED else SAID[how]
        return End(how, trio.current_time(), self.ready_at, info, handle.post_mortem, one_line(said))


def _by_host(reason: ExitReason | None) -> Ending | None:
    if reason is ExitReason.REPLACED:
        return Ending.REPLACED
    return Ending.UNLOADED if reason is ExitReason.BACKEND_UNLOADED else None
