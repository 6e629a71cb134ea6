"""A call that waits for its answer."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from spindle_trio._protocol._call_answers import Answer, Failure, StreamEnd

if TYPE_CHECKING:
    from spindle_trio._linux._spinning import Spinning
    from spindle_trio._model import CallRequest


@attrs.frozen
class Lost:
    """The process has ended without a final frame for the call."""

    handed_over: bool
    """Whether it may have got the call."""


Outcome: TypeAlias = Answer | StreamEnd | Failure | Lost
"""What ends a call."""


class PendingCall:
    """One call and the task that waits for its answer."""

    __slots__ = ("_task", "call_id", "deadline", "is_given_up", "is_late", "kills", "method", "outcome", "timeout")

    def __init__(self, request: CallRequest) -> None:
        """Begin a call that has not been sent.

        Args:
            request: what was asked for.
        """
        self.method: str = request.method
        self.timeout: float = request.timeout
        self.deadline: float = math.inf if request.timeout == math.inf else trio.current_time() + request.timeout
        """When its own time is over, on Trio's clock."""
        self.kills: bool = request.overrun == "kill"
        self.call_id: int = 0
        """Set when it has been sent."""
        self.outcome: Outcome | None = None
        self.is_given_up: bool = False
        """Whether its caller has gone on without an outcome."""
        self.is_late: bool = False
        """Whether its own time was over before its outcome came."""
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Wait until there is an outcome, or the time is over; neither may be so yet."""
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    async def wait_briefly(self, spinning: Spinning) -> None:
        """Wait as `wait` does, for an outcome that may come quickly."""
        spinning.note_sent()
        spin, began = spinning.begin(), perf_counter()
        while spin and self.outcome is None and not self.is_late and perf_counter() - began < spin:  # noqa: ASYNC110
            await trio.lowlevel.checkpoint()  # turns the loop, which takes in what has arrived
        if self.outcome is None and not self.is_late:
            await self.wait()
        spinning.end(perf_counter() - began)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def finish(self, outcome: Outcome) -> None:
        """Note the outcome, and wake the caller."""
        self.outcome = outcome
        self._wake()

    def end_late(self) -> None:
        """Wake the caller, since the time is over."""
        self.is_late = True
        self._wake()

    def _wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)
