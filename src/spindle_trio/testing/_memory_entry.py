"""A process in memory that runs an `async` entry as a task of the same Trio run."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TypeAlias

import trio

from spindle_trio.abc import ABANDON_SECONDS, ExitStatus, LaunchedProcess, LaunchOrder
from spindle_trio.child import ProcessContext
from spindle_trio.child._async_runtime import ChildEnd, run_async_child
from spindle_trio.child._facts import facts_from_init
from spindle_trio.testing._memory_lane import MemoryLane
from spindle_trio.testing._memory_process import KILLED, MemoryProcess
from spindle_trio.testing._shields import take_shields_away

MemoryEntry: TypeAlias = Callable[[ProcessContext], Awaitable[object]]
"""What a `MemoryLauncher` runs: the same ``async def`` functions that entry files export."""

_log = logging.getLogger("spindle_trio.testing")


class EntryProcess(MemoryProcess):
    """An entry that runs in a task of its launch block."""

    __slots__ = ("_entry", "_nursery", "ended_at", "interrupt", "killed_at", "task")

    def __init__(self, order: LaunchOrder, entry: MemoryEntry) -> None:
        """Prepare to run an entry."""
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
            if self._calls is not None:
                self.child_calls.silence()
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
        facts = facts_from_init(json.loads(init))
        del init  # as long as the process, which may be one of ten thousand
        return await run_async_child(
            self._call,
            facts,
            self.child_control,
            self.child_messages,
            self._calls_lane,
            beat=self.beat,
            report=self.write_stderr,
            nursery=nursery,
        )

    def _calls_lane(self) -> MemoryLane:
        lane = self.child_calls
        if self.killed_at < math.inf:
            lane.silence()
        return lane

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


class EntryBlock(AbstractAsyncContextManager[LaunchedProcess]):
    """The life of an entry's task, which is one of the host's where there is a host, and else of a nursery in here."""

    __slots__ = ("_complaints", "_entry", "_live", "_nursery_manager", "_order", "_process")

    def __init__(self, live: set[MemoryProcess], complaints: list[str], order: LaunchOrder, entry: MemoryEntry) -> None:
        """Begin.

        Args:
            live: has the process while it exists.
            complaints: takes what is to be said if the entry survives its kill.
            order: the launch order.
            entry: what to run.
        """
        self._live = live
        self._complaints = complaints
        self._order = order
        self._entry = entry
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None

    async def __aenter__(self) -> LaunchedProcess:
        await trio.lowlevel.checkpoint()  # before anything exists, so that a cancellation leaves nothing
        self._process = EntryProcess(self._order, self._entry)
        start_soon = self._order.start_soon
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
                if not self._process.has_exited():
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
