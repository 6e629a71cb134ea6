"""Polls the heartbeats of many processes together, so that no watchdog of a beating process has to wake up.

A watchdog sleeps until the latest heartbeat that it knows of is too old, and then looks for a newer one. For one
process that costs next to nothing. For a thousand, some task wakes up every few milliseconds, with cold caches, and
finds all well. So one task for all processes of a worker polls them at least twice within each heartbeat timeout and
extends their watchdogs' deadlines: polled together, each costs a few microseconds. The poller never judges. A silent
process is still found by its own watchdog, on time.

The poller is also the best detector of stalls. A watchdog knows only its own deadline; a late round proves that nothing
ran for at least that long. That time extends every deadline before any process is judged (`note_stall`).
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import attrs
import trio

from spindle_trio._stalls import stood_still_since

LOOKS_IN_A_ROW: Final = 100
"""How many processes are looked at before other tasks have their turn: about half a millisecond."""

SHORTEST_TIMEOUT: Final = 1.0
"""In seconds. A watchdog with a shorter timeout would not sleep for long enough to be worth putting off."""


class Watched(Protocol):
    """A process that has a watchdog."""

    def put_off_watchdog(self) -> None:
        """Look for a newer heartbeat, and if there is one, let the watchdog sleep on until that is too old."""

    def extend_by_stall(self, since: float) -> None:
        """Leave the time since a moment out of its deadlines: this program stood still."""


@attrs.define(eq=False)
class _Group:
    """The processes whose heartbeat timeouts are between one power of two and the next: a few dozen groups at most."""

    period: float
    """Seconds between two rounds: half of the shortest of these timeouts."""
    next_round: float
    members: dict[Watched, None] = attrs.field(factory=dict)


class HeartbeatPoller:
    """Goes round the processes of a worker."""

    def __init__(self) -> None:
        """Begin with none."""
        self._groups: dict[int, _Group] = {}  # by the exponents of their heartbeat timeouts
        self._is_closed = False
        self._sleep = trio.CancelScope()
        self._sleeps_until = math.inf
        self._awake_at = -math.inf  # when it was last known that this program runs

    def add(self, watched: Watched, timeout: float) -> None:
        """Go by a process from now on.

        Args:
            watched: the process.
            timeout: its heartbeat timeout in seconds.
        """
        if not SHORTEST_TIMEOUT <= timeout < math.inf:
            return
        exponent = math.frexp(timeout)[1]
        group = self._groups.get(exponent)
        if group is None:
            now, period = trio.current_time(), math.ldexp(0.25, exponent)
            if not self._groups:
                self._awake_at = now
            group = self._groups[exponent] = _Group(period, now + period)
            if group.next_round < self._sleeps_until:
                self._sleeps_until = group.next_round
                self._sleep.cancel()
        group.members[watched] = None

    def remove(self, watched: Watched, timeout: float) -> None:
        """Go by a process no more. Does nothing if that has not been done."""
        exponent = math.frexp(timeout)[1]
        group = self._groups.get(exponent)
        if group is not None:
            group.members.pop(watched, None)
            if not group.members:
                del self._groups[exponent]

    def note_stall(self) -> None:
        """If this program has woken up late, extend the deadlines of all processes by its stall.

        A watchdog asks for this before it judges, since it may be woken before this task is.
        """
        now = trio.current_time()
        since = stood_still_since(self._sleeps_until, self._awake_at, now)
        self._awake_at = now
        if since < now:
            self._sleeps_until = now
            for group in self._groups.values():
                for watched in group.members:
                    watched.extend_by_stall(since)

    def close(self) -> None:
        """Have `run` return: no process is left."""
        self._is_closed = True
        self._sleep.cancel()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Go round until `close`. Shielded: processes outlive the cancellation of the block that they are in."""
        with trio.CancelScope(shield=True):
            while not self._is_closed:
                with trio.CancelScope(deadline=self._sleeps_until) as self._sleep:
                    await trio.sleep_forever()
                self.note_stall()
                for group in list(self._groups.values()):
                    now = trio.current_time()
                    if group.next_round <= now:
                        group.next_round = now + group.period
                        await self._go_round(list(group.members))
                self._sleeps_until = min((group.next_round for group in self._groups.values()), default=math.inf)

    async def _go_round(self, members: list[Watched]) -> None:
        for begin in range(0, len(members), LOOKS_IN_A_ROW):
            for watched in members[begin : begin + LOOKS_IN_A_ROW]:
                watched.put_off_watchdog()
            await trio.lowlevel.checkpoint()
