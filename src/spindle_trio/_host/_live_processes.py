"""One worker's live processes: their keys, their tasks, and their subscribers.

`LiveProcesses` claims the key, waits for the process to replace, and only then begins. Everything from the claim to the
start of the task happens in one step. So if two spawns ask for one key in the same tick, exactly one wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import trio

from spindle_trio._host._claims import Claim
from spindle_trio._host._recent_ends import RecentEnds
from spindle_trio._host._registry import Registry
from spindle_trio._host._settings import HostSettings
from spindle_trio._host._spawn_request import SpawnRequest
from spindle_trio._messages._broadcast import Broadcast
from spindle_trio._messages._hub import MessageHub
from spindle_trio._model import LifecycleEvent, ProcessFilter, ProcessInfo, ProcessState
from spindle_trio._model._log_attributes import log_attributes
from spindle_trio._nursery_scope import NurseryScope
from spindle_trio._supervision._heartbeat_poller import HeartbeatPoller
from spindle_trio._supervision._lifecycle import Lifecycle, Transition
from spindle_trio._supervision._process_record import ProcessConfig, ProcessRecord
from spindle_trio._supervision._snapshots import write_event
from spindle_trio._supervision._startup_monitor import StartupMonitor
from spindle_trio._supervision._supervised_process import Reports, SupervisedProcess
from spindle_trio._supervision._supervisor import Supervisor
from spindle_trio.abc import LaunchedProcess, Launcher, LaunchOrder

_Launch: TypeAlias = AbstractAsyncContextManager[LaunchedProcess] | Exception
"""A launch that is to be entered, or what the launcher has raised instead."""


class LiveProcesses:
    """One worker's live processes, each a task of one nursery, and the spawns that wait for one of them."""

    def __init__(
        self,
        settings: HostSettings,
        config: ProcessConfig,
        root: Path,
        recent: RecentEnds,
        refuse_closed: Callable[[], None],
    ) -> None:
        """Begin with none.

        Args:
            settings: the host's.
            config: the configuration of all processes.
            root: the folder of their entries.
            recent: keeps the processes that have ended.
            refuse_closed: raises once the worker takes no more calls.
        """
        self.by_id: dict[str, SupervisedProcess] = {}
        self.lifecycle: Broadcast[LifecycleEvent] = Broadcast(
            "lifecycle events", settings.limits.lifecycle_events, partial(log_attributes, config.worker)
        )
        """Their transitions."""
        self.hub: MessageHub = MessageHub(self._log_attributes)
        """Their messages."""
        self._settings = settings
        self._config = config
        self._root = root
        self._recent = recent
        self._refuse_closed = refuse_closed
        self._registry = Registry(settings.max_processes)
        self._abandoned: set[SupervisedProcess] = set()
        self._queued: dict[Claim, trio.Event] = {}
        self._tasks = 0
        self._startup_monitor = StartupMonitor()
        self._rounds = HeartbeatPoller()
        self._reports = Reports(self._publish, self._forget, self._startup_monitor.remove, self._rounds.note_stall)
        self._empty = trio.lowlevel.ParkingLot()
        self._scope = NurseryScope()

    def __len__(self) -> int:
        return len(self.by_id)

    def __iter__(self) -> Iterator[SupervisedProcess]:
        return iter(list(self.by_id.values()))

    @property
    def queued(self) -> int:
        """How many spawns wait for the process that they replace."""
        return self._registry.queued

    @property
    def abandoned(self) -> int:
        """How many processes have outlived their kill."""
        return len(self._abandoned)

    def find(self, wanted: ProcessFilter) -> list[ProcessInfo]:
        """List the snapshots of the matching processes, oldest first."""
        return self._registry.find(wanted)

    async def open(self) -> None:
        """Open the nursery."""
        await self._scope.open()
        self._scope.nursery.start_soon(self._startup_monitor.run)
        self._scope.nursery.start_soon(self._rounds.run)

    async def close(self, error: BaseException | None, *, kill: Callable[[], None]) -> None:
        """Return when none is left; see `NurseryScope.close`."""
        await self._scope.close(error, ended=self.wait_empty, kill=kill)

    def unload(self) -> None:
        """Ask all to stop, and refuse the spawns that wait."""
        for process in self:
            process.unload(self._settings.grace_period)
        for event in self._queued.values():
            event.set()

    async def wait_empty(self) -> None:
        """Wait until every process has ended and every waiting spawn has left; then end the subscriptions."""
        while self.by_id or self._queued:
            await self._empty.park()
        for process in list(self._abandoned):
            process.give_up()
        while self._tasks:
            await self._empty.park()
        self._startup_monitor.close()
        self._rounds.close()
        self.lifecycle.close()
        self.hub.close()

    # From the claim to the end.

    async def begin(self, request: SpawnRequest) -> SupervisedProcess:
        """Claim the key, wait for the process that has it, and start the task of the new one."""
        options = request.options
        claim = self._registry.claim(
            request.user_id,
            request.kind,
            request.key,
            replace=options.replace_existing,
            on_turn=_nothing,
            replace_grace=_first_given(options.replace_grace, self._settings.replace_grace),
            keep=options.keep_key,
            successor_of=options.successor_of,
        )
        if claim.is_waiting:
            turn = self._queued[claim] = trio.Event()
            claim.on_turn = turn.set
            predecessor = self._holding(claim)
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
        settings, options, resource_limits = self._settings, request.options, request.resource_limits
        try:
            process_id = settings.new_process_id()
        except BaseException:
            self._release(claim)()  # that function is the caller's: whatever it raises, the key must not stay taken
            raise
        life = Lifecycle(
            startup_timeout=options.startup_timeout,
            heartbeat_timeout=options.heartbeat_timeout,
            grace_period=settings.grace_period if options.grace_period is None else options.grace_period,
            run_seconds=math.inf if resource_limits is None else resource_limits.run_seconds,
            now=trio.current_time(),
        )
        record = ProcessRecord(request.identity(process_id), self._config, life, request.command)
        init = request.encode_init(process_id, settings.limits)
        process = SupervisedProcess(record, init=init, hub=self.hub, reports=self._reports)
        process.claim = claim
        self._registry.add(claim, process)
        self.by_id[process.process_id] = process
        order = LaunchOrder(
            process_id=process.process_id,
            entry=request.entry,
            root=self._root,
            environment=settings.environment
            if not options.environment
            else {**settings.environment, **options.environment},
            limits=settings.limits,
            start_soon=self._scope.start_soon,
            log_attributes=partial(log_attributes, self._config.worker, record.identity),
            folder=request.folder,
            arguments=options.arguments,
            resource_limits=resource_limits,
            sandbox=request.sandbox,
            command=request.command,
            grace_period=None if request.command is None else life.grace_period,
        )
        # Here, and not in the task: the process can work on its order while this program makes the rest.
        block = _begin_launch(settings.launcher, order)
        self._tasks += 1
        self._scope.nursery.start_soon(
            self._own, process, block, name=f"spindle_trio process {process.process_id} ({request.entry.entry})"
        )
        del block  # the traceback of an error would have this frame
        self._startup_monitor.add(process.deadlines)
        process.begin()
        # Other replacements queued up while this one waited. The shortest grace period counts, so each is given once.
        for grace in {successor.replace_grace for successor in self._registry.successors(claim)}:
            process.replace(grace)
        return process

    def caller_gone(self, process: SupervisedProcess) -> None:
        """Kill a process, since the caller of its spawn was cancelled. Its key is not kept for it."""
        process.caller_gone()
        self._registry.give_up(process.process_id, give_back=True)  # it may have ended by itself in this very moment

    def kept_for(self, process_id: str) -> ProcessInfo | None:
        """Return the last snapshot of an ended process whose key is kept, or may come back to it; else `None`."""
        return self._registry.kept_for(process_id)

    def give_up_key(self, process_id: str, *, give_back: bool = False) -> None:
        """Keep the key of an ended process no longer; see `Registry.give_up`."""
        self._registry.give_up(process_id, give_back=give_back)

    @trio.lowlevel.enable_ki_protection
    async def _own(self, process: SupervisedProcess, block: _Launch) -> None:
        """Be the task of one process."""
        life = Supervisor(process).run(block)
        del block  # an error's traceback has the frame that awaits this one, too: from Python 3.13 on
        try:
            await life
        except BaseException:
            # A bug of ours or of the launcher; it leaves the worker's block as a group. No caller may wait for ever.
            if self.by_id.get(process.process_id) is process:
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

    def _holding(self, claim: Claim) -> SupervisedProcess | None:
        holder = self._registry.holder_of(claim)
        return None if holder is None else self.by_id[holder.process_id]

    def _forget(self, process: SupervisedProcess) -> Callable[[], None]:
        """Free what an ended process held. Returns a function to call once its end has been announced."""
        del self.by_id[process.process_id]
        self._rounds.remove(process.deadlines, process.deadlines.heartbeat_timeout)
        if process.is_abandoned:
            self._abandoned.add(process)
        claim, process.claim = process.claim, None
        assert claim is not None, "no process is started without a claim"
        pass_turn = self._release(claim)

        def announced() -> None:
            pass_turn()
            self._wake_if_empty()

        return announced

    def _release(self, claim: Claim) -> Callable[[], None]:
        successor = self._registry.release(claim)
        return _nothing if successor is None else successor.on_turn

    def _wake_if_empty(self) -> None:
        """Let `wait_empty` look again."""
        if not (self.by_id or self._queued):
            self._empty.unpark_all()

    def _log_attributes(self, process_id: str) -> dict[str, str | None]:
        process = self.by_id.get(process_id)
        return log_attributes(self._config.worker, process_id if process is None else process.record.identity)


def _begin_launch(launcher: Launcher, order: LaunchOrder) -> _Launch:
    try:
        return launcher.launch(order)
    except Exception as error:
        return error


def _first_given(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _nothing() -> None:
    pass
