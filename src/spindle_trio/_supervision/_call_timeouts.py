"""Ends the waits of calls whose own time is over. A cancel scope for each call would cost more than all else of it.

One task sleeps until the earliest deadline for all calls of a process. A call that ends leaves its deadline behind, so
that most calls move nothing: the task finds nobody when it wakes for them, or they are cleared out as they pile up.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from spindle_trio._supervision._pending_call import PendingCall

_MOST_LEFT: Final = 64
"""How many deadlines of calls that have ended may be left behind, besides as many as there are calls."""


class CallTimeouts:
    """The calls of one process that wait with a timeout."""

    __slots__ = ("_calls", "_deadlines", "_nap", "_start_soon")

    def __init__(self, start_soon: Callable[[Callable[[], Awaitable[object]]], None]) -> None:
        """Begin without calls.

        Args:
            start_soon: starts a task that lives as long as the process.
        """
        self._start_soon = start_soon
        self._calls: dict[int, PendingCall] = {}
        self._deadlines: list[tuple[float, int]] = []  # a heap, with the ids
        self._nap: trio.CancelScope | None = None  # in which the task sleeps; made with the task

    def begin(self, call: PendingCall) -> None:
        """Have a call that was sent end in time, as `PendingCall.end_late` has it, unless it ends before."""
        calls, deadlines, deadline = self._calls, self._deadlines, call.deadline
        if len(deadlines) > _MOST_LEFT + 2 * len(calls):
            self._deadlines = deadlines = [entry for entry in deadlines if entry[1] in calls]
            heapify(deadlines)
        calls[call.call_id] = call
        heappush(deadlines, (deadline, call.call_id))
        if self._nap is None:
            self._nap = trio.CancelScope(deadline=deadline)
            self._start_soon(self._keep_time)
        elif deadline < self._nap.deadline:
            self._nap.deadline = deadline

    def end(self, call: PendingCall) -> None:
        """Note that a call does not wait any more."""
        del self._calls[call.call_id]

    @trio.lowlevel.enable_ki_protection
    async def _keep_time(self) -> None:
        while self._nap is not None:
            with self._nap:
                await trio.sleep_forever()
            self._nap = trio.CancelScope(deadline=self._end_late(trio.current_time()))

    def _end_late(self, now: float) -> float:
        """End the calls whose time is over, and tell when the next one's is."""
        deadlines = self._deadlines
        while deadlines:
            deadline, call_id = deadlines[0]
            call = self._calls.get(call_id)
            if call is not None:
                if deadline > now:
                    return deadline
                call.end_late()
            heappop(deadlines)
        return math.inf
