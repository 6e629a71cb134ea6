"""One worker at its host: checks who may do what, and passes it on to the processes.

A `WorkerScope` is one worker's side of the host. It decides, `LiveProcesses` begins and forgets processes, and each
`Supervisor` acts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._errors import PayloadError, ProcessAccessError
from spindle_trio._host._live_processes import LiveProcesses
from spindle_trio._host._recent_ends import RecentEnds
from spindle_trio._host._settings import HostSettings
from spindle_trio._host._spawn_request import SpawnChecker
from spindle_trio._messages._broadcast import Broadcast
from spindle_trio._messages._hub import MessageHub
from spindle_trio._model import LifecycleEvent, Limits, ProcessFilter, ProcessInfo, SpawnOptions, StopOptions
from spindle_trio._model._log_attributes import log_attributes
from spindle_trio._protocol._json_codec import BodyReader
from spindle_trio._protocol._payload import bounds_of
from spindle_trio._supervision._process_record import ProcessConfig
from spindle_trio._supervision._supervised_process import SupervisedProcess

if TYPE_CHECKING:
    from spindle_trio._interfaces import RelayedCalls
    from spindle_trio._model._usage import Usage

_log = logging.getLogger("spindle_trio.host")


class WorkerScope:
    """One worker's processes. Implements `WorkerInterface`."""

    def __init__(
        self,
        settings: HostSettings,
        identifier: str,
        root: Path,
        user_id: str | None,
        recent: RecentEnds,
        *,
        distant: bool,
    ) -> None:
        """Prepare a worker with no processes.

        Args:
            settings: the host's.
            identifier: the worker's name.
            root: below which its entries lie.
            user_id: whose worker it is; `None` for an operator-scoped one.
            recent: takes what is kept of ended processes.
            distant: whether the worker is at the far end of a channel.
        """
        self.identifier = identifier
        self.root = root
        self.user_id = user_id
        self.limits: Limits = settings.limits
        self.is_local: bool = True
        self.is_closed: bool = False
        bounds = bounds_of(settings.limits)
        config = ProcessConfig(
            settings.limits, bounds, BodyReader(bounds), settings.wall_time, identifier, settings.cancel_grace
        )
        self._checker = SpawnChecker(self, settings, config, distant=distant)
        self._live = LiveProcesses(settings, config, root, recent, self._refuse_closed)
        self.lifecycle: Broadcast[LifecycleEvent] = self._live.lifecycle
        self.hub: MessageHub = self._live.hub

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<WorkerScope {state} {self.identifier} user={self.user_id!r} processes={len(self._live)}>"

    def __iter__(self) -> Iterator[SupervisedProcess]:
        return iter(self._live)

    async def open(self) -> None:
        """Open the nursery of this worker's processes."""
        await self._live.open()

    async def close(self, error: BaseException | None, *, kill: Callable[[], None]) -> None:
        """End all processes as unloaded, and return when none is left; see `NurseryScope.close`.

        Args:
            error: what the worker's block raised.
            kill: called at a second Ctrl-C. It is the host's: whoever is asked twice to end has no time for others.
        """
        self.unload()
        await self._live.close(error, kill=kill)

    def unload(self) -> None:
        """Take no more calls, ask all processes to stop, and refuse the spawns that wait. May be called twice."""
        if self.is_closed:
            return
        self.is_closed = True
        self._live.unload()

    def kill(self) -> None:
        """End all processes as unloaded, without a grace period."""
        for process in self:
            process.kill()

    async def wait_empty(self) -> None:
        """Wait until every process has ended; see `LiveProcesses.wait_empty`."""
        await self._live.wait_empty()

    @property
    def queued(self) -> int:
        """How many spawns wait for the process that they replace."""
        return self._live.queued

    @property
    def abandoned(self) -> int:
        """How many processes have outlived their kill."""
        return self._live.abandoned

    # Spawning.

    @trio.lowlevel.enable_ki_protection
    async def spawn(self, options: SpawnOptions) -> SupervisedProcess:
        """Spawn a process and wait until it is ready; see `BackendProcesses.spawn`."""
        await trio.lowlevel.checkpoint()
        self._refuse_closed()
        process = await self._live.begin(self._checker.check(options))
        try:
            refusal = await process.wait_answered()
        except BaseException:
            # Kill, wait shielded, re-raise. The wait is bounded: an unkillable process is abandoned.
            self._live.caller_gone(process)
            with trio.CancelScope(shield=True):
                await process.wait_let_go()
            raise
        try:
            if refusal is not None:
                raise refusal
        finally:
            del refusal  # its traceback has this frame, which would keep it, and the process, from being freed
        return process

    # Everything else that a worker asks.

    async def list(self, wanted: ProcessFilter) -> list[ProcessInfo]:
        """List live processes; see `BackendProcesses.list`."""
        await trio.lowlevel.checkpoint()
        self._refuse_closed()
        if self.user_id is not None:
            wanted = attrs.evolve(wanted, user_id=self.user_id)
        return self._live.find(wanted)

    async def get(self, process_id: str) -> ProcessInfo | None:
        """Look one up; see `BackendProcesses.get`."""
        await trio.lowlevel.checkpoint()
        self._refuse_closed()
        process = self._live.by_id.get(process_id)
        return None if process is None else process.info

    async def usage(self, process_id: str) -> Usage:
        """Look at what one uses now; see `ProcessHandle.usage`."""
        await trio.lowlevel.checkpoint()
        self._refuse_closed()
        process = self._live.by_id.get(process_id)
        if process is None:
            raise _unknown(process_id)
        return process.usage()

    async def stop(self, process_id: str, options: StopOptions) -> None:
        """Stop one and wait until it is gone; see `BackendProcesses.stop`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        process = self._find_to_stop(process_id, options)
        if process is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await process.stop(options)

    def request_stop(self, process_id: str, options: StopOptions, *, is_unwanted: bool = False) -> None:
        """Ask one to stop, and return at once. Does nothing if it has ended or there is none.

        Args:
            process_id: which process.
            options: how.
            is_unwanted: whether its spawn was cancelled, so that a key that it took over is given back.

        Raises:
            ProcessAccessError: it is another user's.
            PayloadError: the reason is over its limit.
            trio.ClosedResourceError: the worker is closed.
        """
        process = self._find_to_stop(process_id, options, is_unwanted=is_unwanted)
        if process is not None:
            if is_unwanted and process.claim is not None:
                process.claim.give_back_key()
                options = attrs.evolve(options, keep_key=True)
            process.request_stop(options)

    def _find_to_stop(
        self, process_id: str, options: StopOptions, *, is_unwanted: bool = False
    ) -> SupervisedProcess | None:
        """Look one up. If it has ended, give up its key: a stop that comes too late for it beats its next start."""
        self._refuse_closed()
        process = self._live.by_id.get(process_id)
        user_id = None if options.user_id is None else options.user_id.strip() or None
        if process is not None:
            self._refuse_other_user(process, user_id)
        elif not options.keep_key:
            self._give_up_key(process_id, user_id, give_back=is_unwanted)
        return process

    async def release_key(self, process_id: str, user_id: str | None) -> None:
        """Give up a kept key; see `BackendProcesses.release_key`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.give_up_key(process_id, user_id)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def give_up_key(self, process_id: str, user_id: str | None) -> None:
        """Give up a kept key, and return at once.

        Raises:
            ProcessAccessError: it is another user's.
            trio.ClosedResourceError: the worker is closed.
        """
        self._refuse_closed()
        self._give_up_key(process_id, None if user_id is None else user_id.strip() or None, give_back=False)

    def _give_up_key(self, process_id: str, user_id: str | None, *, give_back: bool) -> None:
        kept = self._live.kept_for(process_id)
        if kept is not None:
            self._refuse_other_user(kept, user_id)
            self._live.give_up_key(process_id, give_back=give_back)

    async def send(self, process_id: str, payload: object, user_id: str | None) -> None:
        """Send to one; see `BackendProcesses.send`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._refuse_closed()
        process = self._live.by_id.get(process_id)
        if process is None:
            raise _unknown(process_id)
        self._refuse_other_user(process, user_id)
        await process.send(payload)

    def post(self, process_id: str, payload: object, user_id: str | None) -> None:
        """Send to one without waiting, as the worker protocol does; see `ServingInterface.post`.

        What cannot be delivered is logged as well. A process whose outbox overflows is ended as failed.
        """
        process = self._live.by_id.get(process_id)
        if process is None:
            text = "process %s: a message to it was dropped; it has ended, or there never was one"
            _log.info(text, process_id, extra=log_attributes(self.identifier, process_id))
            raise _unknown(process_id)
        try:
            self._refuse_other_user(process, user_id)
            process.post(payload)
        except (ProcessAccessError, PayloadError, trio.BrokenResourceError) as error:
            about = process.record.log_attributes()
            _log.warning("process %s: a message to it was dropped: %s", process_id, error, extra=about)
            raise

    def find_calls(self, process_id: str, user_id: str | None) -> RelayedCalls:
        """Look up a process for a call or a stream; see `ServingInterface.find_calls`."""
        self._refuse_closed()
        process = self._live.by_id.get(process_id)
        if process is None:
            raise _unknown(process_id)
        self._refuse_other_user(process, user_id)
        return process.calls

    def _refuse_closed(self) -> None:
        if self.is_closed:
            raise trio.ClosedResourceError(f"worker {self.identifier!r} is closed")

    def _refuse_other_user(self, process: SupervisedProcess | ProcessInfo, user_id: str | None) -> None:
        if self.user_id is None and user_id is not None and user_id != process.user_id:
            entry = process.entry if isinstance(process, ProcessInfo) else process.record.identity.entry
            raise ProcessAccessError(f"process {process.process_id} ({entry}) belongs to another user than {user_id!r}")


def _unknown(process_id: str) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(f"process {process_id} has ended, or there never was one")
