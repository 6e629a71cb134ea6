"""The processes of a pool: when one is started, replaced and let go.

Each process has one task here, which starts it, watches it and stops it: by its spawn, which leaves nothing if it is
cancelled, or by `Member.stop` once it has become ready.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from spindle_trio._errors import PoolBrokenError, ProcessLimitError, SpawnError, StartupCancelledError
from spindle_trio._model import PostMortem, ProcessState
from spindle_trio._nursery_scope import NurseryScope
from spindle_trio._pools._lending import Lending
from spindle_trio._pools._member import Member, Phase
from spindle_trio._pools._statistics import PoolStatistics
from spindle_trio._pools._track_record import TrackRecord
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._model import LifecycleEvent
    from spindle_trio._pools._pool_map import MapRun
    from spindle_trio._pools._settings import PoolSettings
    from spindle_trio._services._excess import ExcessWatch
    from spindle_trio._worker import Worker


@uninterrupted
class Crew:
    """The processes of one pool."""

    def __init__(self, worker: Worker, settings: PoolSettings) -> None:
        """Listen to a worker; `open` has to follow, and `close` that.

        Raises:
            trio.ClosedResourceError: the worker is closed.
        """
        self.settings: PoolSettings = settings
        self._worker = worker
        self._scope = NurseryScope()
        self._members: dict[Member, None] = {}
        self._record = TrackRecord(settings.restart)
        self.lending: Lending = Lending(
            settings,
            self._record,
            refusal=self._refusal,
            start=self._start_for_those_who_wait,
            why_none_is_free=self._why_none_is_free,
        )
        self._maps: dict[MapRun, None] = {}
        self._post_mortems: dict[str, PostMortem] = {}
        self._broken: Callable[[], PoolBrokenError] | None = None
        self._is_closed = False
        self._all_gone = trio.Event()
        self._excess_watch: ExcessWatch | None = None
        if settings.restart_above is not None:
            from spindle_trio._services._excess import ExcessWatch  # most pools have none

            self._excess_watch = ExcessWatch(settings.restart_above, settings.name)
        self._unsubscribe = worker.backend_processes.on_lifecycle(self._note)

    async def open(self) -> None:
        """Begin to start processes."""
        await self._scope.open()
        if self.settings.prestart:
            for _ in range(self.settings.size):
                self._start()

    # ---- for those who call

    def _refusal(self) -> Exception | None:
        """The error that each call gets from now on, if there is one."""
        if self._is_closed:
            return trio.ClosedResourceError(f"{self.settings.name} is closed")
        return None if self._broken is None else self._broken()

    def _why_none_is_free(self) -> str:
        """Say so, with what to do."""
        if self._record.failures_in_a_row:
            count, last = self._record.failures_in_a_row, self._record.last_failure
            return f"{count} of its processes have failed in a row, the last one so: {last}"
        if self._starting() == len(self._members):
            advice = "call process.ready() earlier" if self.settings.serves is None else "open it with prestart=True"
            return f"none of its processes has become ready yet; {advice}, or give its calls more time"
        return "open the pool with more processes, or give its calls more time"

    # ---- the life of a process

    def _start_for_those_who_wait(self) -> None:
        """Start a process, if more wait than are being started or will be in a moment."""
        if len(self._members) < self.settings.size:
            coming = self._starting() + sum(member.is_gone_but_for_its_task for member in self._members)
            if coming < self.lending.waiting:
                self._start()

    def _starting(self) -> int:
        return sum(member.phase is Phase.STARTING for member in self._members)

    def _start(self, *, is_replacement: bool = False) -> None:
        member = Member(is_replacement)
        self._members[member] = None
        self._scope.nursery.start_soon(self._keep, member)

    async def _keep(self, member: Member) -> None:
        """Be the task of a process, from before its start until after its end."""
        try:
            await self._spawn(member)
            if member.ready_at is not None:
                if self._excess_watch is not None:
                    self._scope.nursery.start_soon(self._look, member, self._excess_watch)
                await self._watch(member)
        except trio.Cancelled:
            self.shut()  # somebody has cancelled the whole block
            raise
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            self.shut()  # the worker has gone, and the pool with it
        except Exception as error:  # the spawn is refused for good, or something is wrong here: nobody waits for ever
            self._break(f"its process cannot be started: {type(error).__name__}: {error}", None, error)
        finally:
            if member.ready_at is not None and not member.has_ended:
                await member.stop()  # noqa: ASYNC102  # shielded there; bounded by the grace period and a kill
            self._remove(member)

    async def _spawn(self, member: Member) -> None:
        """Start the process of a member, once the delay is over."""
        with member.scope:
            if trio.current_time() < self._record.starts_at:
                await trio.sleep_until(self._record.starts_at)
            try:
                member.started(await self._worker.backend_processes.spawn(self.settings.entry, **self.settings.spawn))
            except StartupCancelledError as error:
                # Somebody else has stopped it, and it is not gone yet: this returns when it is.
                await self._worker.backend_processes.stop(error.info.process_id)
            except SpawnError as error:
                post_mortem = self._post_mortems.pop(error.info.process_id, None) or PostMortem(str(error))
                self._failed(None, str(error), post_mortem, error)
            except ProcessLimitError as error:
                # Others of this worker take the room. What the pool has has to do; without any, it tries again.
                member.is_to_be_replaced = len(self._members) == 1
                if member.is_to_be_replaced:
                    self._failed(None, str(error), None, error)
        if self._starting() == 0:
            self._post_mortems.clear()
        if member.ready_at is not None:
            self._record.starts += 1
            self._record.restarts += member.is_replacement
            if member.phase is Phase.STARTING:
                self.lending.offer(member)

    def _note(self, event: LifecycleEvent) -> None:
        """Keep the post-mortem of a process that ends before anybody has a handle on it."""
        if event.state.is_terminal and event.post_mortem is not None and self._starting():
            self._post_mortems[event.process_id] = event.post_mortem

    async def _watch(self, member: Member) -> None:
        """Wait until a process has ended, or is to be stopped."""
        while member.phase is not Phase.LEAVING and not member.has_ended:
            with trio.CancelScope(deadline=member.look_at(self.settings)) as member.scope:
                if member.phase is not Phase.SETTLING:
                    await member.handle.wait_ended()
                else:
                    await member.handle.wait_idle()
                    self.lending.settled(member)
            if member.phase is Phase.IDLE and member.is_running:
                is_worn = member.is_worn(self.settings)
                if is_worn or member.was_idle_for_long(self.settings):
                    self.lending.withdraw(member)
                    member.phase, member.is_to_be_replaced = Phase.LEAVING, is_worn
                    self._record.recycled += 1

    async def _look(self, member: Member, excess_watch: ExcessWatch) -> None:
        """Have a process replaced that uses more than it is to, once it has no call. Ends when it has."""
        with suppress(trio.BrokenResourceError):  # the connection is lost, as its task hears
            if await excess_watch.wait_above(member.handle) is not None:
                member.is_above = True
                member.scope.cancel()

    def _remove(self, member: Member) -> None:
        """Forget a process that is gone or was not started, and see to its successor."""
        self.lending.withdraw(member)
        del self._members[member]
        if member.ready_at is not None and member.phase is not Phase.LEAVING:
            self._judge(member)
        if self._is_closed:
            if not self._members:
                self._all_gone.set()
        elif self._broken is None:
            if member.is_to_be_replaced:
                self._start(is_replacement=True)
            elif member.ready_at is not None:  # after a refusal nothing has changed that could help those who wait
                self._start_for_those_who_wait()

    # ---- failures

    def _judge(self, member: Member) -> None:
        """Say what the end of a process means that the pool has not stopped."""
        handle = member.handle
        if handle.state is ProcessState.TIMED_OUT and member.phase is Phase.SETTLING:
            self._record.overruns += 1  # as its caller wanted
        elif handle.state is not ProcessState.STOPPED:  # somebody else's wish, too
            said = handle.info.error or f"it ended by itself ({handle.state})"
            self._failed(member.ready_at, said, handle.post_mortem, None)

    def _failed(
        self, ready_at: float | None, said: str, post_mortem: PostMortem | None, cause: Exception | None
    ) -> None:
        """Count a failure, and give up after the last."""
        if not self._record.failed(ready_at, said):
            count, last = self._record.failures_in_a_row, self._record.last_failure
            self._break(f"{count} failures in a row, the last one: {last}", post_mortem, cause)

    def _break(self, said: str, post_mortem: PostMortem | None, cause: Exception | None) -> None:
        """Give up: nobody waits any longer, and what is idle goes."""
        if self._broken is not None or self._is_closed:
            return

        def make() -> PoolBrokenError:
            error = PoolBrokenError(
                f"{self.settings.name} has given up: {said}; mend what is wrong, and open another pool",
                post_mortem=post_mortem,
            )
            error.__cause__ = cause
            return error.concerning(None, entry=self.settings.entry_name)

        self._broken = make
        self.lending.end()
        for member in self._members:
            if member.phase in (Phase.STARTING, Phase.IDLE):
                member.turn(Phase.LEAVING)

    # ---- maps

    def begin_map(self, run: MapRun) -> None:
        """Let a map begin.

        Raises:
            PoolBrokenError: the pool has given up.
            trio.ClosedResourceError: the pool is closed.
        """
        if (refusal := self._refusal()) is not None:
            raise refusal
        self._maps[run] = None  # now, since its task may not have begun when the pool is shut
        self._scope.nursery.start_soon(self._carry, run)

    async def _carry(self, run: MapRun) -> None:
        try:
            await run.run()
        finally:
            del self._maps[run]

    # ---- the end

    def shut(self) -> None:
        """Refuse all calls from now on, and have all processes stop."""
        if self._is_closed:
            return
        self._is_closed = True
        self._unsubscribe()
        self.lending.end()
        for member in self._members:
            member.turn(Phase.LEAVING)
        for run in self._maps:
            run.end()
        if not self._members:
            self._all_gone.set()

    async def close(self, error: BaseException | None) -> None:
        """Shut it, and wait until all is gone, whatever happens to this task; see `NurseryScope.close`.

        That is bounded: processes are stopped, and killed after their grace periods; calls of maps return at once; and
        what clean-up the payloads of a map have runs in a cancelled scope.

        Args:
            error: what the block raised.
        """
        self.shut()
        await self._scope.close(error, ended=self._all_gone.wait, kill=self.kill)

    def kill(self) -> None:
        """Have all processes that are being stopped killed at once."""
        for member in self._members:
            member.hurry()

    # ---- what it tells

    @property
    def state(self) -> str:
        """In a word."""
        return "closed" if self._is_closed else "open" if self._broken is None else "broken"

    def statistics(self) -> PoolStatistics:
        """Count."""
        phases = [member.phase for member in self._members]
        return PoolStatistics(
            size=self.settings.size,
            starting=phases.count(Phase.STARTING),
            idle=phases.count(Phase.IDLE),
            busy=phases.count(Phase.BUSY) + phases.count(Phase.SETTLING),
            ending=phases.count(Phase.LOST) + phases.count(Phase.LEAVING),
            waiting=self.lending.waiting,
            calls=self._record.calls,
            starts=self._record.starts,
            restarts=self._record.restarts,
            failures=self._record.failures,
            overruns=self._record.overruns,
            recycled=self._record.recycled,
            failures_in_a_row=self._record.failures_in_a_row,
            is_broken=self._broken is not None,
        )
