"""The task of one service: it starts a process, waits for its end, asks the table, and starts the next."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from spindle_trio._errors import ServiceGaveUpError
from spindle_trio._nursery_scope import NurseryScope
from spindle_trio._services._block import Block
from spindle_trio._services._restart import Ending, GiveUp, Leave, RestartPolicy, decide
from spindle_trio._services._status import ServiceState, Status
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._services._end import End
    from spindle_trio._services._settings import UnitSettings
    from spindle_trio._services._unit import Unit
    from spindle_trio._worker import Worker


@uninterrupted
class Keeper:
    """Keeps one service."""

    def __init__(self, worker: Worker, settings: UnitSettings, policy: RestartPolicy) -> None:
        """Listen to a worker; `open` has to follow, and `close` that.

        Args:
            worker: starts the processes.
            settings: what each is started with.
            policy: says when the next one is started.

        Raises:
            trio.ClosedResourceError: the worker is closed.
        """
        self.status: Status = Status(worker, settings)
        self._block = Block()
        self._begun = trio.Event()  # the first start is over
        self._entered = trio.Event()  # who opens it knows: he hears of all that follows
        self._gone = trio.Event()  # nothing runs, and nothing follows
        self._policy = policy
        self._unit: Unit = self.status.unit
        self._scope = NurseryScope()
        self._waits = trio.CancelScope()  # in which the task waits now, if it may be woken; cancelled to look again
        self._wanted = 0  # the least generation that somebody has asked for
        self._is_closing = False
        self._why = "it was stopped"
        self._reason: str | None = None

    async def open(self) -> None:
        """Start it for the first time.

        Raises:
            Exception: what `spawn` or `on_start` raised. Nothing is left then; nor if this is cancelled.
        """
        await self._scope.open()
        self._scope.nursery.start_soon(self._run)
        try:
            await self._begun.wait()
        except BaseException as error:
            self._entered.set()
            await self.close(error)  # noqa: ASYNC102  # shielded and bounded there
            raise
        self._entered.set()
        if self._block.error is not None:
            await self.close(None)
            self._block.raise_error()
        self._block.enter()

    # ---- what users ask for

    async def stop(self, reason: str | None, grace: float | None) -> None:
        """Stop it for good, whatever is pending, and return when it is gone.

        Args:
            reason: shown to the process.
            grace: seconds until it is killed; by default its own.
        """
        self._ask_stop(reason, reason or "stop() was called")
        if grace is not None:
            self._unit.hurry(grace)
        await self._gone.wait()

    async def restart(self, reason: str | None) -> None:
        """Put a new generation in the place of the current one, and return when it runs.

        Raises:
            Exception: there will be none.
        """
        wanted = self._unit.generation + 1
        if self._wanted < wanted and not self._is_closing:
            self._wanted = wanted
            self._reason = reason
            if self.status.state in {"running", "waiting"}:
                self._waits.cancel()
        await self.status.wait_running(wanted)

    # ---- the task

    async def _run(self) -> None:
        """Keep it from the first start to the end. Not cancelled from outside: the block may still need it."""
        end: End | None = None
        with trio.CancelScope(shield=True):
            try:
                end = await self._keep()
            except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
                if not self._is_closing:  # the worker has gone, and is still needed
                    self._crash(error)
            except Exception as error:  # something is wrong here: nobody waits for ever
                self._crash(error)
            finally:
                self._is_closing = True
                await self._finish()  # noqa: ASYNC102  # shielded; bounded by the grace period and a kill
                state: ServiceState = "gave_up" if isinstance(self._block.error, ServiceGaveUpError) else "stopped"
                self.status.over(state, end=end, said=self._why)
                self._begun.set()
                self._gone.set()

    async def _keep(self) -> End | None:
        """Keep it until nothing is to follow. Returns the last end, unless it has been told to stop."""
        while not self._is_closing:
            end = await self._live()
            if end is None:
                break
            if not self._begun.is_set():
                self._fail(end.error(self.status.name), end.said, trio.ClosedResourceError)
                return end
            at = self._judge(end)
            if at is None:
                return end
            with trio.CancelScope(deadline=at) as self._waits:
                await self._unit.wait_lost()
        return None

    async def _live(self) -> End | None:
        """Start a generation, and wait for its end. `None` if it is to be stopped for good."""
        end: End | None = None
        self.status.starting()
        with trio.CancelScope() as self._waits:
            end = await self._unit.start()
        return end if self._is_closing or end is not None else await self._watch()

    async def _watch(self) -> End | None:
        """Wait until the process has ended, or its time is over. `None` if it is to be stopped for good."""
        self.status.running()
        if not self._begun.is_set():
            self._begun.set()
            await self._entered.wait()
        with trio.CancelScope(deadline=self._unit.ready_at + self._policy.max_lifetime) as self._waits:
            if not self._is_disturbed and (end := await self._unit.watch()) is not None:
                return end
        if self._is_closing:
            return None
        reason: str | None = self._unit.excess or f"its {self._policy.max_lifetime:g} seconds are over"
        if self._is_restart_wanted:
            reason, self._unit.excess = self._reason, None
        self.status.recycling()
        return await self._unit.recycle(reason, self._policy.stable_after)

    @property
    def _is_disturbed(self) -> bool:
        """Whether its process is to be stopped already; who has said so could not wake it."""
        return self._is_closing or self._is_restart_wanted

    @property
    def _is_restart_wanted(self) -> bool:
        return self._wanted > self._unit.generation

    def _judge(self, end: End) -> float | None:
        """Decide what follows an end. Returns when the next start begins; `None` for never."""
        failures, decision = decide(
            self._policy,
            self.status.failures,
            end.how,
            ready_at=end.ready_at,
            now=end.at,
            roll=random.random(),  # noqa: S311  # no secret
        )
        self.status.ended(end, failures)
        if self._is_closing:
            return None
        if isinstance(decision, Leave):
            self._refuse(end.said)
            return None
        if isinstance(decision, GiveUp):
            self._give_up(end)
            return None
        at = end.at if self._is_restart_wanted else decision.at
        self.status.waiting(at, end.at)
        return at

    async def _finish(self) -> None:
        """Stop the process, if it lives, and give up its key."""
        if self._unit.is_live:
            with suppress(trio.BrokenResourceError):  # the host ends it, unseen from here
                end = await self._unit.stop(self._reason, how=Ending.STOPPED)
                self.status.ended(end, self.status.failures)
        await self._unit.close()

    # ---- why it is over

    def _ask_stop(self, reason: str | None, said: str) -> None:
        """Have it stop for good. Only the first time counts."""
        if not self._is_closing:
            self._is_closing = True
            self._reason = reason
            self._refuse(said)
            self._waits.cancel()

    def _give_up(self, end: End) -> None:
        make = partial(end.gave_up, self._unit.settings, self._unit.generation, self.status.failures, in_group=False)
        self._fail(make(), end.said, make)

    def _crash(self, error: Exception) -> None:
        """End with an error that is no end of a process."""
        kind = trio.BrokenResourceError if isinstance(error, trio.BrokenResourceError) else trio.ClosedResourceError
        said = f"{type(error).__name__}: {error}"
        self._fail(error, said, partial(kind, f"{self.status.name} is over: {said}"))

    def _fail(self, error: Exception, said: str, make: Callable[[], Exception]) -> None:
        """End the block with an error, and everybody who waits with one like it."""
        self._why = said
        self.status.refuse(make)
        self._block.fail(error)

    def _refuse(self, said: str) -> None:
        self._why = said
        self.status.refuse(partial(trio.ClosedResourceError, f"{self.status.name} is stopped: {said}"))

    # ---- the block

    async def leave(self, error: BaseException | None) -> None:
        """Leave the block: stop the service, and return when it is gone, whatever happens to this task.

        Args:
            error: what the block raised.

        Raises:
            Exception: why the block was cancelled from here, if nothing else was raised in it.
            BaseException: what is left of a group without that cancellation.
        """
        await self._block.leave(error, self.close)

    async def close(self, error: BaseException | None) -> None:
        """Stop it, and return when it is gone, whatever happens to this task; see `NurseryScope.close`.

        Args:
            error: what the block raised.
        """
        self._ask_stop("its service is closed", "its block has been left")
        await self._scope.close(error, ended=self._gone.wait, kill=self._unit.hurry)
