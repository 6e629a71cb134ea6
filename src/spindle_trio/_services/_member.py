"""One service of a group: what is to happen to it, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from spindle_trio._services._end import End
from spindle_trio._services._restart import Ending, RestartPolicy
from spindle_trio._services._service import Service
from spindle_trio._services._status import ServiceState, Status
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._services._settings import UnitSettings
    from spindle_trio._services._unit import Unit
    from spindle_trio._worker import Worker


class Phase(Enum):
    """Where a member is."""

    DOWN = "waits for its start"
    STARTING = "is being started"
    UP = "runs"


@attrs.frozen
class PutOut:
    """Why a process is being stopped, and another one started."""

    reason: str | None
    """Shown to the process."""
    is_own: bool
    """Whether it was asked of this service, and not of another one that takes this one with it."""


class MemberOwner(Protocol):
    """The group of a member."""

    def may_recycle(self, member: Member) -> bool:
        """Whether it is the turn of a member whose lifetime is over. If not, its line is woken when it is."""

    def removed(self, member: Member) -> None:
        """Forget a member: it is over."""


@uninterrupted
class Member:
    """One service of a group. Its line starts and stops it; others leave word here what is to be done."""

    def __init__(
        self,
        worker: Worker,
        settings: UnitSettings,
        policy: RestartPolicy,
        *,
        name: str,
        owner: MemberOwner,
    ) -> None:
        """Listen to a worker; `finish` has to follow.

        Args:
            worker: starts the processes.
            settings: what each is started with.
            policy: says after which ends it is started again, and how its group counts.
            name: its name in the group.
            owner: the group.

        Raises:
            trio.ClosedResourceError: the worker is closed.
        """
        self.name: str = name
        self.policy: RestartPolicy = policy
        self.status: Status = Status(worker, settings)
        self.service: Service = Service(self.status, self)
        self.unit: Unit = self.status.unit
        self.phase: Phase = Phase.DOWN
        self.begun: trio.Event = trio.Event()
        """The first start is over."""
        self.error: Exception | None = None
        """What the first start has to raise."""
        self.gone: trio.Event = trio.Event()
        """Nothing runs, and nothing follows."""
        self.end: End | None = None
        """How its process has ended, until the line has seen it."""
        self.starts_at: float = -math.inf
        """Its next start begins no sooner, in Trio's time."""
        self.put_out: PutOut | None = None
        """Its process is to be stopped, and another one started."""
        self.is_leaving: bool = False
        """It is to be stopped for good."""
        self.is_hurried: bool = False
        """Somebody has asked for a restart, and so its next start, and those before it, are to wait for no delay."""
        self.is_recovering: bool = False
        """It is being started again because of a failure: its own, or one that takes it along."""
        self.wake: Callable[[], object] = lambda: None
        """Has its line look at it."""
        self.watch: trio.CancelScope | None = None
        """Around the wait for the end of its process."""
        self._wanted = 0  # the least generation that somebody has asked for
        self._reason: str | None = None
        self._last: End | None = None  # after which nothing follows
        self._state: ServiceState = "stopped"
        self._why = ""
        self._refusal: Callable[[], Exception] = trio.ClosedResourceError
        self._is_finishing = False
        self._owner = owner

    # ---- what users ask for

    async def stop(self, reason: str | None, grace: float | None) -> None:
        """Stop it for good, and return when it is gone; see `Service.stop`."""
        self.leave(reason, reason or "stop() was called")
        if grace is not None:
            self.unit.hurry(grace)
        await self.gone.wait()

    async def restart(self, reason: str | None) -> None:
        """Put a new generation in the place of the current one, and return when it runs; see `Service.restart`."""
        wanted = self.unit.generation + 1
        if self._wanted < wanted and not self.is_leaving:
            self._wanted = wanted
            self._reason = reason
            self.is_hurried = True
            self.wake()
        await self.status.wait_running(wanted)

    @property
    def is_restart_wanted(self) -> bool:
        """Whether somebody has asked for a generation that has not begun."""
        return self._wanted > self.unit.generation

    @property
    def is_in_use(self) -> bool:
        """Whether it has run, and may run again."""
        return self.begun.is_set() and not self.is_leaving

    # ---- its end

    def leave(
        self,
        reason: str | None,
        said: str,
        *,
        end: End | None = None,
        state: ServiceState = "stopped",
        refusal: Callable[[], Exception] | None = None,
    ) -> None:
        """Have it stop for good. Only the first time counts.

        Args:
            reason: shown to the process.
            said: why, in a line.
            end: after which nothing follows.
            state: what it is then.
            refusal: makes the error for those who wait for it.
        """
        if self.is_leaving:
            return
        self.is_leaving = True
        self._reason, self._why, self._last, self._state = reason, said, end, state
        self._refusal = refusal or partial(trio.ClosedResourceError, f"{self.status.name} is stopped: {said}")
        self.status.refuse(self._refusal)
        self.wake()

    async def finish(self) -> None:
        """Stop its process, if it lives, and give up its key. Shielded; bounded by the grace period and a kill."""
        if self._is_finishing:
            await self.gone.wait()
            return
        self._is_finishing = True
        try:
            with trio.CancelScope(shield=True):
                if self.phase is Phase.UP or self.unit.is_live:
                    with suppress(trio.BrokenResourceError):  # the host ends it, unseen from here
                        end = await self._stopped(partial(self.unit.stop, self._reason, how=Ending.STOPPED))
                        self.status.ended(end, self.status.failures)
                await self.unit.close()
        finally:
            self.status.over(self._state, end=self._last, said=self._why)
            if not self.begun.is_set() and self.error is None:
                self.error = self._refusal()
            self._owner.removed(self)
            self.begun.set()
            self.gone.set()

    async def put_out_now(self) -> End:
        """Stop its process, since another one is to follow, and return how it ended."""
        assert self.put_out is not None, "it is to be put out"
        reason = self.put_out.reason
        if reason != self.unit.excess:
            self.unit.excess = None  # it goes for another reason
        return await self._stopped(partial(self.unit.recycle, reason, self.policy.stable_after))

    async def _stopped(self, stop: Callable[[], Awaitable[End]]) -> End:
        """Stop its process, and return how it ended, which may have been before."""
        if self.watch is not None:
            self.watch.cancel()
            self.watch = None
        end, self.end = self.end, None
        if end is None:
            end = await stop()
        self.phase = Phase.DOWN
        return end

    def recycling(self) -> PutOut | None:
        """Say why its process is to be put out, if that was asked of this service and is not under way."""
        if self.phase is not Phase.UP or self.put_out is not None or self.end is not None:
            return None
        if self.is_restart_wanted:
            return PutOut(self._reason, is_own=True)
        is_over = self.unit.excess is not None or (self.watch is not None and self.watch.cancelled_caught)
        if is_over and self._owner.may_recycle(self):
            return PutOut(self.unit.excess or f"its {self.policy.max_lifetime:g} seconds are over", is_own=True)
        return None
