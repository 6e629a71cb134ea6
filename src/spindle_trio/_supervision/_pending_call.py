"""A call that waits for its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from spindle_trio._protocol._call_answers import Answer, Failure, StreamEnd

if TYPE_CHECKING:
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

    __slots__ = ("_task", "call_id", "is_given_up", "kills", "method", "outcome", "timeout")

    def __init__(self, request: CallRequest) -> None:
        """Begin a call that has not been sent.

        Args:
            request: what was asked for.
        """
        self.method: str = request.method
        self.timeout: float = request.timeout
        self.kills: bool = request.overrun == "kill"
        self.call_id: int = 0
        """Set when it has been sent."""
        self.outcome: Outcome | None = None
        self.is_given_up: bool = False
        """Whether its caller has gone on without an outcome."""
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Wait for the outcome, which must not be there yet."""
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def finish(self, outcome: Outcome) -> None:
        """Note the outcome, and wake the caller."""
        self.outcome = outcome
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)
