"""One worker's processes: who may spawn, which process replaces which, who is told.

A `WorkerScope` is one worker's side of the host: its registry, its subscribers and its nursery, in which each process
is a task. It decides, and each `Supervisor` acts.

The order of a spawn is: check the options and the entry, claim the key, wait for the process that is to be replaced,
and only then begin. Everything from the claim to the start of the task happens in one step. So if two spawns
ask for one key in the same tick, exactly one wins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import trio

from spindle_trio._errors import PayloadError, ProcessAccessError
from spindle_trio._host._recent_ends import RecentEnds
from spindle_trio._host._registry import Claim, Registry
from spindle_trio._host._settings import HostSettings
from spindle_trio._host._spawn_request import SpawnChecker, SpawnRequest
from spindle_trio._messages._broadcast import Broadcast
from spindle_trio._messages._hub import MessageHub
from spindle_trio._model import (
    LifecycleEvent,
    Limits,
    ProcessFilter,
    ProcessInfo,
    ProcessState,
    SpawnOptions,
    StopOptions,
)
from spindle_trio._model._log_attributes import log_attributes
from spindle_trio._nursery_scope import NurseryScope
from spindle_trio._protocol._json_codec import BodyReader
from spindle_trio._protocol._payload import bounds_of
from spindle_trio._supervision._heartbeat_poller import HeartbeatPoller
from spindle_trio._supervision._lifecycle import Lifecycle, Transition
from spindle_trio._supervision._process_record import ProcessConfig, ProcessRecord
from spindle_trio._supervision._snapshots import write_event
from spindle_trio._supervision._startup_monitor import StartupMonitor
from spindle_trio._supervision._supervised_process import Reports, SupervisedProcess
from spindle_trio._supervision._supervisor import Supervisor
from spindle_trio.abc import Launcher, LaunchOrder

_log = logging.getLogger("spindle_trio.host")


class WorkerScope:
    """One worker's processes. Implements `WorkerInterface`."""

    def __init__(
        self, settings: HostSettings, identifier: str, root: Path, user_id: str | None, recent: RecentEnds
    ) -> None:
        """Prepare a worker with no processes.

        Args:
            settings: the host's.
            identifier: the worker's name.
            root: below which its entries lie.
            user_id: whose worker it is; `None` for an operator-scoped one.
            recent: takes what is kept of ended processes.
        """
        self._recent = recent
        self.identifier = identifier
        self.root = root
        self.user_id = user_id
        self.limits: Limits = settings.limits
        self.lifecycle: Broadcast[LifecycleEvent] = Broadcast(
            "lifecycle events", settings.limits.lifecycle_events, partial(log_attributes, identifier)
        )
        self.hub: MessageHub = MessageHub(self._log_attributes)
        self.is_closed: bool = False
        self._settings = settings
        bounds = bounds_of(settings.limits)
        self._config = ProcessConfig(settings.limits, bounds, BodyReader(bounds), settings.wall_time, identifier)
        self._checker = SpawnChecker(self, settings.launcher, self._config)
        self._registry = Registry(settings.max_processes)
        self._processes: dict[str, SupervisedProcess] = {}
        self._abandoned: set[SupervisedProcess] = set()
        self._queued: dict[Claim, trio.Event] = {}
        self._tasks = 0
        self._startup_monitor = StartupMonitor()
        self._rounds = HeartbeatPoller()
        self._reports = Reports(self._publish, self._forget, self._startup_monitor.remove, self._rounds.note_stall)
        self._empty = trio.lowlevel.ParkingLot()
        self._scope = NurseryScope()

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<WorkerScope {state} {self.identifier} user={self.user_id!r} processes={len(self._processes)}>"

    def __iter__(self) -> Iterator[SupervisedProcess]:
        return iter(list(self._processes.values()))

    async def open(self) -> None:
        """Open the nursery of this worker's processes."""
        await self._scope.open()
        self._scope.nursery.start_soon(self._startup_monitor.run)
        self._scope.nursery.start_soon(self._rounds.run)

    async def close(self, error: BaseException | None, *, kill: Callable[[], None]) -> None:
        """End all processes as unloaded, and return when none is left; see `NurseryScope.close`.

        Args:
            error: what the worker's block raised.
            kill: called at a second Ctrl-C. It is the host's: whoever is asked twice to end has no time for others.
        """
        self.unload()
        await self._scope.close(error, ended=self._wait_empty, kill=kill)

    def unload(self) -> None:
        """Take no more calls, ask all processes to stop, and refuse the spawns that wait. May be called twice."""
        if self.is_closed:
            return
        self.is_closed = True
        for process in self:
            process.unload(self._settings.grace_period)
        for event in self._queued.values():
            event.set()

    def kill(self) -> None:
        """End all processes as unloaded, without a grace period."""
        for process in self:
            process.kill()

    async def _wait_empty(self) -> None:
        """Wait until every process has ended and every waiting spawn has left; then end the subscriptions."""
        while self._processes or self._queued:
            await self._empty.park()
        for process in list(self._abandoned):
            process.give_up()
        while self._tasks:
            await self._empty.park()
        self._startup_monitor.close()
        self._rounds.close()
        self.lifecycle.close()
        self.hub.close()

    @property
    def queued(self) -> int:
        """How many spawns wait for the process that they replace."""
        return self._registry.queued

    @property
    def abandoned(self) -> int:
        """How many processes have outlived their kill."""
        return len(self._abandoned)

    # Spawning.

    @trio.lowlevel.enable_ki_protection
    async def spawn(self, options: SpawnOptions) -> SupervisedProcess:
        """Spawn a process and wait until it is ready; see `BackendProcesses.spawn`."""
        await trio.lowlevel.checkpoint()
        self._refuse_closed()
        process = await self._begin(self._checker.check(options))
        try:
            refusal = await process.wait_answered()
        except BaseException:
            # Kill, wait shielded, re-raise. The wait is bounded: an unkillable process is abandoned.
            process.caller_gone()
            with trio.CancelScope(shield=True):
                await process.wait_let_go()
            raise
        if refusal is not None:
            raise refusal
        return process

    async def _begin(self, request: SpawnRequest) -> SupervisedProcess:
        """Claim the key, wait for the process that has it, and start the task of the new one."""
        claim = self._registry.claim(
            request.user_id,
            request.kind,
            request.key,
            replace=request.options.replace_existing,
            on_turn=_nothing,
            replace_grace=_first_given(request.options.replace_grace, self._settings.replace_grace),
        )
        if claim.is_waiting:
            turn = self._queued[claim] = trio.Event()
            claim.on_turn = turn.set
            predecessor = self._processes_holding(claim)
            if predecessor is not None:
                predecessor.replace(claim.replace_grace)
            try:
                await turn.wait()
                self._refuse_closed()
            except BaseException:
                self._release(claim)()
                raise
            finally:
                del self._queued[claim]
                self._wake_if_empty()
        return self._start(request, claim)

    def _start(self, request: SpawnRequest, claim: Claim) -> SupervisedProcess:
        settings, options = self._settings, request.options
        try:
            process_id = settings.new_process_id()
        except BaseException:
            self._release(claim)()  # that function is the caller's: whatever it raises, the key must not stay taken
            raise
        life = Lifecycle(
            startup_timeout=options.startup_timeout,
            heartbeat_timeout=options.heartbeat_timeout,
            grace_period=settings.grace_period if options.grace_period is None else options.grace_period,
            now=trio.current_time(),
        )
        record = ProcessRecord(request.identity(process_id), self._config, life)
        init = request.encode_init(process_id, settings.limits)
        process = SupervisedProcess(record, init=init, hub=self.hub, reports=self._reports)
        process.claim = claim
        self._registry.add(claim, process)
        self._processes[process.process_id] = process
        self._tasks += 1
        self._scope.nursery.start_soon(
            self._own,
            process,
            settings.launcher,
            LaunchOrder(
                process_id=process.process_id,
                entry=request.entry,
                root=self.root,
                environment=settings.environment
                if not options.environment
                else {**settings.environment, **options.environment},
                limits=settings.limits,
                start_soon=self._scope.start_soon,
                log_attributes=record.log_attributes,
                folder=request.folder,
                arguments=options.arguments,
            ),
            name=f"spindle_trio process {process.process_id} ({request.entry.entry})",
        )
        self._startup_monitor.add(process.deadlines)
        process.begin()
        # Other replacements queued up while this one waited. The shortest grace period counts, so each is given once.
        for grace in {successor.replace_grace for successor in self._registry.successors(claim)}:
            process.replace(grace)
        return process

    @trio.lowlevel.enable_ki_protection
    async def _own(self, process: SupervisedProcess, launcher: Launcher, order: LaunchOrder) -> None:
        """Be the task of one process."""
        try:
            await Supervisor(process).run(launcher, order)
        except BaseException:
            # A bug of ours or of the launcher's, which leaves the worker's block as a group. Nobody may wait for ever.
            if self._processes.get(process.process_id) is process:
                self._forget(process)()
                process.crashed()
            raise
        finally:
            self._abandoned.discard(process)
            self._tasks -= 1
            self._wake_if_empty()

    def _publish(self, process: SupervisedProcess, transition: Transition) -> None:
        if transition.state is ProcessState.RUNNING and not process.record.is_in_this_run:
            self._rounds.add(process.deadlines, process.deadlines.heartbeat_timeout)
        if transition.state.is_terminal:
            self._recent.add(process.record)
        if self.lifecycle:
            self.lifecycle.publish(write_event(process.record, transition), process.process_id)

    def _processes_holding(self, claim: Claim) -> SupervisedProcess | None:
        holder = self._registry.holder_of(claim)
        return None if holder is None else self._processes[holder.process_id]

    def _forget(self, process: SupervisedProcess) -> Callable[[], None]:
        """Free what an ended process held. Returns what to do once its end has been announced."""
        del self._processes[process.process_id]
        self._rounds.remove(process.deadlines, process.deadlines.heartbeat_timeout)
        if process.is_abandoned:
            self._abandoned.add(process)
        assert process.claim is not None, "no process is started without a claim"
        pass_turn = self._release(process.claim)

        def announced() -> None:
            pass_turn()
            self._wake_if_empty()

        return announced

    def _release(self, claim: Claim) -> Callable[[], None]:
        successor = self._registry.release(claim)
        return _nothing if successor is None else successor.on_turn

    def _wake_if_empty(self) -> None:
        """Let `_wait_empty` look again."""
        if not (self._processes or self._queued):
            self._empty.unpark_all()

    # Everything else that a worker asks.

    async def list(self, wanted: ProcessFilter) -> list[ProcessInfo]:
        """List live processes; see `BackendProcesses.list`."""
        await trio.lowlevel.checkpoint()
        self._refuse_closed()
        if self.user_id is not None:
            wanted = attrs.evolve(wanted, user_id=self.user_id)
        return self._registry.find(wanted)

    async def get(self, process_id: str) -> ProcessInfo | None:
        """Look one up; see `BackendProcesses.get`."""
        await trio.lowlevel.checkpoint()
        self._refuse_closed()
        process = self._processes.get(process_id)
        return None if process is None else process.info

    async def stop(self, process_id: str, options: StopOptions) -> None:
        """Stop one and wait until it is gone; see `BackendProcesses.stop`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        process = self._find_to_stop(process_id, options)
        if process is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await process.stop(options)

    def request_stop(self, process_id: str, options: StopOptions) -> None:
        """Ask one to stop, and return at once. Does nothing if it has ended or there is none.

        Raises:
            ProcessAccessError: it is another user's.
            PayloadError: the reason is over its limit.
            trio.ClosedResourceError: the worker is closed.
        """
        process = self._find_to_stop(process_id, options)
        if process is not None:
            process.request_stop(options)

    def _find_to_stop(self, process_id: str, options: StopOptions) -> SupervisedProcess | None:
        self._refuse_closed()
        process = self._processes.get(process_id)
        if process is not None:
            self._refuse_other_user(process, None if options.user_id is None else options.user_id.strip() or None)
        return process

    async def send(self, process_id: str, payload: object, user_id: str | None) -> None:
        """Send to one; see `BackendProcesses.send`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._refuse_closed()
        process = self._processes.get(process_id)
        if process is None:
            raise _unknown(process_id)
        self._refuse_other_user(process, user_id)
        await process.send(payload)

    def post(self, process_id: str, payload: object, user_id: str | None) -> None:
        """Send to one without waiting, as the worker protocol does; see `ServingInterface.post`.

        What cannot be delivered is logged as well. A process whose outbox overflows is ended as failed.
        """
        process = self._processes.get(process_id)
        if process is None:
            text = "process %s: a message to it was dropped; it has ended, or there never was one"
            _log.info(text, process_id, extra=self._log_attributes(process_id))
            raise _unknown(process_id)
        try:
            self._refuse_other_user(process, user_id)
            process.post(payload)
        except (ProcessAccessError, PayloadError, trio.BrokenResourceError) as error:
            about = process.record.log_attributes()
            _log.warning("process %s: a message to it was dropped: %s", process_id, error, extra=about)
            raise

    def _log_attributes(self, process_id: str) -> dict[str, str | None]:
        process = self._processes.get(process_id)
        return log_attributes(self.identifier, process_id if process is None else process.record.identity)

    def _refuse_closed(self) -> None:
        if self.is_closed:
            raise trio.ClosedResourceError(f"worker {self.identifier!r} is closed")

    def _refuse_other_user(self, process: SupervisedProcess, user_id: str | None) -> None:
        if self.user_id is None and user_id is not None and user_id != process.user_id:
            raise ProcessAccessError(
                f"process {process.process_id} ({process.record.identity.entry}) belongs to another user"
                f" than {user_id!r}"
            )


def _first_given(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _unknown(process_id: str) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(f"process {process_id} has ended, or there never was one")


def _nothing() -> None:
    pass
