"""Which process a call gets: the one used last of those that are idle, or else the first that comes free.

Who holds a process makes the call himself; to give it back never waits. A process is handed to who waits in one step,
so that no cancellation can lose it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from spindle_trio._errors import CallTimeoutError
from spindle_trio._pools._member import Member, Phase
from spindle_trio._pools._waiters import Waiters
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._pools._settings import PoolSettings
    from spindle_trio._pools._track_record import TrackRecord


@uninterrupted
class Lending:
    """Lends each process of a pool to one call at a time."""

    def __init__(
        self,
        settings: PoolSettings,
        record: TrackRecord,
        *,
        refusal: Callable[[], Exception | None],
        start: Callable[[], object],
        why_none_is_free: Callable[[], str],
    ) -> None:
        """Begin with no process.

        Args:
            settings: say when a process has had its calls.
            record: counts.
            refusal: makes the error that each call gets from now on, if there is one.
            start: is called when one more waits.
            why_none_is_free: says so, with what to do.
        """
        self._settings = settings
        self._record = record
        self._refusal = refusal
        self._start = start
        self._why_none_is_free = why_none_is_free
        self._idle: dict[Member, None] = {}  # who was used last is last
        self._waiters = Waiters()

    @property
    def waiting(self) -> int:
        """How many wait for a process."""
        return len(self._waiters)

    async def lease(self, method: str, deadline: float, *, at_head: bool = False) -> Member:
        """Wait for an idle process, and have it alone until it is given back. No checkpoint if there is one.

        Args:
            method: what is to be called, for an error.
            deadline: until when to wait.
            at_head: whether to wait before all others.

        Raises:
            CallTimeoutError: the time was over.
            PoolBrokenError: the pool has given up.
            trio.ClosedResourceError: the pool is closed.
        """
        if (refusal := self._refusal()) is not None:
            raise refusal
        began = trio.current_time()
        found: Member | None
        if self._idle:
            found, _ = self._idle.popitem()
            self._lend(found)
        else:
            found = await self._waiters.wait(deadline, at_head=at_head, joined=self._start)
        if found is not None:
            if trio.current_time() < deadline:
                return found
            self._unlend(found)  # it came in the last moment
        error = CallTimeoutError(
            f"the call of {method!r} was not begun in time: it waited {trio.current_time() - began:.3g} s for a "
            f"process of {self._settings.name}; {self._why_none_is_free()}"
        )
        raise error.concerning(method, entry=self._settings.entry_name)

    def answered(self, member: Member) -> None:
        """Take back a process that has ended its call."""
        self._record.answered()
        if member.phase is Phase.BUSY:
            self.offer(member)

    def unanswered(self, member: Member) -> None:
        """Take back a process whose handler may go on; it is idle when that has given up."""
        if member.phase is Phase.BUSY:
            member.turn(Phase.SETTLING)

    def settled(self, member: Member) -> None:
        """Take back a process whose handler has given up, unless it has to leave or has ended meanwhile."""
        if member.phase is Phase.SETTLING and not member.has_ended:
            member.phase = Phase.BUSY
            self.answered(member)

    def lost(self, member: Member) -> None:
        """Take back a process that has ended, or takes no more calls."""
        if member.phase is Phase.BUSY:
            member.phase = Phase.LOST

    def offer(self, member: Member) -> None:
        """Give a process to who has waited longest, or have it wait for somebody."""
        if not member.is_running:
            member.phase = Phase.LOST
        elif self._refusal() is not None:
            member.turn(Phase.LEAVING)
        elif member.is_worn(self._settings):
            self._record.recycled += 1
            member.turn(Phase.LEAVING)
        elif self._waiters.give(member):
            self._lend(member)
        else:
            member.phase, member.idle_since = Phase.IDLE, trio.current_time()
            self._idle[member] = None

    def withdraw(self, member: Member) -> None:
        """Lend a process to nobody any more."""
        self._idle.pop(member, None)

    def end(self) -> None:
        """Lend nothing any more: everybody who waits gets the refusal."""
        self._waiters.turn_away(self._refusal)
        self._idle.clear()

    def _lend(self, member: Member) -> None:
        member.phase = Phase.BUSY
        member.calls += 1
        self._record.calls += 1

    def _unlend(self, member: Member) -> None:
        """Take back a process that was not called."""
        member.calls -= 1
        self._record.calls -= 1
        if member.phase is Phase.BUSY:
            self.offer(member)
