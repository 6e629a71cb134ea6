"""The task of one service: it starts a process, waits for its end, asks the table, and starts the next."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from spindle_trio._errors import ServiceGaveUpError
from spindle_trio._nursery_scope import NurseryScope
from spindle_trio._services._restart import Ending, GiveUp, Leave, RestartPolicy, decide
from spindle_trio._services._status import State, Status
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._services._unit import End, Unit, UnitSettings
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
        self.block: trio.CancelScope = trio.CancelScope()
        """Around the user's block; cancelled with `error`."""
        self.begun: trio.Event = trio.Event()
        """Set when the first start is over."""
        self.gone: trio.Event = trio.Event()
        """Set when nothing runs, and nothing follows."""
        self.error: Exception | None = None
        """Leaves the block, or refuses it: the error of the first start, of the last, or of the worker."""
        self._policy = policy
        self._unit: Unit = self.status.unit
        self._scope = NurseryScope()
        self._waits = trio.CancelScope()  # in which the task waits now, if it may be woken; cancelled to look again
        self._wanted = 0  # the least generation that somebody has asked for
        self._is_closing = False
        self._reason: str | None = None
        self._grace: float | None = None

    async def open(self) -> None:
        """Begin the first start."""
        await self._scope.open()
        self._scope.nursery.start_soon(self._run)

    # ---- what users ask for

    def ask_stop(self, reason: str | None, grace: float | None, said: str) -> None:
        """Have it stop for good, whatever is pending. May be called again; then only `grace` counts.

        Args:
            reason: shown to the process.
            grace: seconds until it is killed; by default its own.
            said: why it is over, for who waits for it.
        """
        if not self._is_closing:
            self._is_closing = True
            self._reason, self._grace = reason, grace
            self._refuse(said)
            self._waits.cancel()
        if grace is not None:
            self._unit.hurry(grace)

    def kill(self) -> None:
        """Have a process that is being stopped killed at once."""
        self._unit.hurry()

    async def restart(self, reason: str | None) -> None:
        """Put a new generation in the place of the current one, and return when it runs.

        Raises:
            Exception: there will be none.
        """
        wanted = self._unit.generation + 1
        if self._wanted < wanted:
            self._wanted = wanted
            if self.status.state in {"running", "waiting"} and not self._is_closing:
                self._reason = reason
                self._waits.cancel()
        await self.status.wait_running(wanted)

    # ---- the task

    async def _run(self) -> None:
        end: End | None = None
        state: State = "stopped"
        try:
            end = await self._keep()
            if isinstance(self.error, ServiceGaveUpError):
                state = "gave_up"
        except trio.Cancelled:
            self._refuse("its block is cancelled")
            raise
        except Exception as error:  # the worker has gone, or something is wrong here: nobody waits for ever
            self._crash(error)
        finally:
            self._is_closing = True
            await self._finish()  # noqa: ASYNC102  # shielded there; bounded by the grace period and a kill
            said = str(self.error) if self.error is not None else "it was stopped"
            self.status.over(state, end=end, said=said if end is None else end.said)
            self.begun.set()
            self.gone.set()

    async def _keep(self) -> End | None:
        """Keep it until nothing is to follow. Returns the last end, if the process has not to be stopped."""
        while not self._is_closing:
            end = await self._live()
            if end is None:
                break
            if not self.begun.is_set():
                self._fail(end.error(self.status.name), trio.ClosedResourceError)
                return end
            at = self._judge(end)
            if at is None:
                return end
            with trio.CancelScope() as self._waits:
                await trio.sleep_until(at)
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
        self.begun.set()
        with trio.CancelScope(deadline=self._unit.ready_at + self._policy.max_lifetime) as self._waits:
            if not self._is_restart_wanted:
                return await self._unit.watch()
        if self._is_closing:
            return None
        reason = self._reason if self._is_restart_wanted else f"its {self._policy.max_lifetime:g} seconds are over"
        self.status.recycling()
        return await self._unit.stop(reason, how=Ending.RECYCLED, keep_key=True)

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
            self._give_up(end, failures)
            return None
        at = end.at if self._is_restart_wanted else decision.at
        self.status.waiting(at)
        return at

    def _give_up(self, end: End, failures: int) -> None:
        settings = self._unit.settings

        def make() -> ServiceGaveUpError:
            error = ServiceGaveUpError(
                f"{settings.name} has given up: {failures} failures in a row, the last one of generation "
                f"{self._unit.generation}: {end.said}; mend what is wrong, and open it again",
                post_mortem=end.post_mortem,
                attempts=failures,
                entry=settings.entry,
                key=settings.key,
            )
            error.__cause__ = end.cause
            return error

        self._fail(make(), make)

    def _crash(self, error: Exception) -> None:
        """End with an error that is no end of a process."""
        kind = trio.BrokenResourceError if isinstance(error, trio.BrokenResourceError) else trio.ClosedResourceError
        self._fail(error, lambda: kind(f"{self.status.name} is over: {type(error).__name__}: {error}"))

    def _fail(self, error: Exception, make: Callable[[], Exception]) -> None:
        """End the block with an error, and everybody who waits with one like it."""
        self.error = error
        self.status.refuse(make)
        self.block.cancel()

    def _refuse(self, said: str) -> None:
        self.status.refuse(lambda: trio.ClosedResourceError(f"{self.status.name} is stopped: {said}"))

    async def _finish(self) -> None:
        """Stop the process, if it lives, and give up its key."""
        if self._unit.is_live:
            with suppress(trio.BrokenResourceError):  # the host ends it, unseen from here
                end = await self._unit.stop(self._reason, how=Ending.STOPPED, grace=self._grace)
                self.status.ended(end, self.status.failures)
        await self._unit.close()

    # ---- the end

    async def close(self, error: BaseException | None) -> None:
        """Stop it, and return when it is gone, whatever happens to this task; see `NurseryScope.close`.

        Args:
            error: what the block raised.
        """
        self.ask_stop("its service is closed", None, "its block has been left")
        await self._scope.close(error, ended=self.gone.wait, kill=self.kill)
