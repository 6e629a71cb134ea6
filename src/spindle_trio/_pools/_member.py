"""One process of a pool."""

from __future__ import annotations

import math
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._model import ProcessState
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._pools._settings import PoolSettings
    from spindle_trio._process_handle import ProcessHandle


class Phase(Enum):
    """What a member is doing."""

    STARTING = auto()
    IDLE = auto()
    BUSY = auto()
    """Somebody holds it for a call or a stream."""
    SETTLING = auto()
    """That one has gone on; the handler may not have given up yet."""
    LOST = auto()
    """It has ended, or takes no more calls and will end."""
    LEAVING = auto()
    """The pool stops it."""


@uninterrupted
@attrs.define(eq=False)
class Member:
    """One process of a pool: what it is doing, and the scope in which its task waits."""

    is_replacement: bool
    """Whether it takes the place of one that has ended."""
    phase: Phase = Phase.STARTING
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """In which its task waits now; cancelling it has the task look again."""
    ready_at: float | None = None
    idle_since: float = 0.0
    calls: int = 0
    is_above: bool = False
    """Whether it uses more than it is to."""
    is_to_be_replaced: bool = True
    """Whether another one is started at its end, also if nobody waits."""
    _handle: ProcessHandle | None = None
    _patience: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @property
    def handle(self) -> ProcessHandle:
        """The process; it has become ready."""
        assert self._handle is not None, "the process has been started"
        return self._handle

    @property
    def has_ended(self) -> bool:
        """Whether its process was there and is gone."""
        return self._handle is not None and self._handle.state.is_terminal

    @property
    def is_gone_but_for_its_task(self) -> bool:
        """Whether its process was lost and is gone, or will be in a moment. Then another one takes its place."""
        return self.phase is Phase.LOST and self.handle.state is not ProcessState.STOPPING

    @property
    def is_running(self) -> bool:
        """Whether its process takes calls, as far as is known."""
        return self.handle.state is ProcessState.RUNNING

    def started(self, handle: ProcessHandle) -> None:
        """Take the process, which has become ready."""
        self._handle = handle
        self.ready_at = trio.current_time()

    def turn(self, phase: Phase) -> None:
        """Change what it is doing, and have its task look."""
        self.phase = phase
        self.scope.cancel()

    def is_worn(self, settings: PoolSettings) -> bool:
        """Whether it has had its calls, its time is over, or it uses more than it is to."""
        assert self.ready_at is not None, "the process has been started"
        return (
            self.is_above
            or self.calls >= settings.max_calls
            or trio.current_time() >= self.ready_at + settings.max_lifetime
        )

    def was_idle_for_long(self, settings: PoolSettings) -> bool:
        """Whether it has had no call for as long as it may."""
        return self.phase is Phase.IDLE and trio.current_time() >= self.idle_since + settings.max_idle

    def look_at(self, settings: PoolSettings) -> float:
        """When its task has to look again: perhaps too early, where it has a call meanwhile, but never too late."""
        if settings.max_idle == settings.max_lifetime == math.inf:
            return math.inf
        assert self.ready_at is not None, "the process has been started"
        now = trio.current_time()
        over_at = self.ready_at + settings.max_lifetime
        if self.phase is Phase.IDLE:
            return min(over_at, self.idle_since + settings.max_idle)
        return min(over_at if over_at > now else math.inf, now + settings.max_idle)

    async def stop(self) -> None:
        """Stop the process as gracefully as its grace period allows, and return when it is gone."""
        with trio.CancelScope(shield=True):
            try:
                with self._patience:
                    await self.handle.stop("the pool lets it go")
                if self._patience.cancelled_caught:
                    await self.handle.kill()
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                # The host is ending it, or has. Over a lost connection nobody will hear of that.
                with suppress(trio.BrokenResourceError):
                    await self.handle.wait_ended()

    def hurry(self) -> None:
        """Have a stop that is under way, or comes, kill it at once."""
        self._patience.cancel()
