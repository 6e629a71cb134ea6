"""Tasks that wait for a process of a pool."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._pools._member import Member


@attrs.define(eq=False)
class _Waiter:
    """One task, and what it was woken with."""

    task: trio.lowlevel.Task
    member: Member | None = None
    error: Exception | None = None


@uninterrupted
class Waiters:
    """Tasks that wait, in order. To give a process to one is one step: no cancellation comes between."""

    def __init__(self) -> None:
        self._line: OrderedDict[_Waiter, None] = OrderedDict()  # anybody may leave it at once, however long it is

    def __len__(self) -> int:
        return len(self._line)

    async def wait(self, deadline: float, *, at_head: bool, joined: Callable[[], object]) -> Member | None:
        """Wait for a process, or for an error, which is raised. Nobody who is cancelled here has got a process.

        Args:
            deadline: until when.
            at_head: whether to wait before all others.
            joined: is called when this task stands in line.

        Returns:
            The process; `None` if the time was over.
        """
        waiter = _Waiter(trio.lowlevel.current_task())
        self._line[waiter] = None
        if at_head:
            self._line.move_to_end(waiter, last=False)
        joined()
        leave = partial(self._leave, waiter)
        if deadline == math.inf:
            await trio.lowlevel.wait_task_rescheduled(leave)
        else:
            with trio.CancelScope(deadline=deadline):
                await trio.lowlevel.wait_task_rescheduled(leave)
        if waiter.error is not None:
            raise waiter.error
        return waiter.member

    def _leave(self, waiter: _Waiter, _: object) -> trio.lowlevel.Abort:
        del self._line[waiter]
        return trio.lowlevel.Abort.SUCCEEDED

    def give(self, member: Member) -> bool:
        """Give a process to who has waited longest, if anybody waits."""
        if not self._line:
            return False
        waiter, _ = self._line.popitem(last=False)
        waiter.member = member
        trio.lowlevel.reschedule(waiter.task)
        return True

    def turn_away(self, make: Callable[[], Exception | None]) -> None:
        """Give everybody an error of his own."""
        while self._line:
            waiter, _ = self._line.popitem(last=False)
            waiter.error = make()
            trio.lowlevel.reschedule(waiter.task)
