"""Requests of the connecting end that wait for their answers, and the errors in those answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._errors import CallError, PayloadError, ProcessLostError, SpawnError
from spindle_trio._model import (
    JsonValue,
    ProcessSendFailed,
    Response,
)
from spindle_trio.wire import exception_from, lost_from

if TYPE_CHECKING:
    from spindle_trio._model._command import Command
    from spindle_trio._worker_protocol._remote_process import RemoteProcess


@attrs.define(eq=False)
class Pending:
    """A request that waits for its answer."""

    done: trio.Event = attrs.field(factory=trio.Event, init=False)
    is_abandoned: bool = attrs.field(default=False, init=False)
    result: JsonValue = attrs.field(default=None, init=False)
    error: Exception | None = attrs.field(default=None, init=False)

    def settle(self, error: Exception | None = None) -> None:
        """End the wait, with `result` or with an error."""
        self.error = error
        self.done.set()

    def take(self) -> JsonValue:
        """Return the result or raise the error; once, after the wait."""
        try:
            if self.error is not None:
                raise self.error
        finally:
            self.error = None  # its traceback has this frame, and the caller's
        return self.result

    def error_in(self, response: Response) -> Exception:
        """Build what an error answer says."""
        return answered_error(response)


@attrs.define(eq=False)
class PendingSpawn(Pending):
    """A spawn that waits for its answer, and the process that the answer names."""

    uses_kept_keys: bool
    """Whether it keeps its key for a successor, or takes over a key that was kept."""
    command: Command | None = None
    """What it is to run instead of an entry."""
    process: RemoteProcess | None = attrs.field(default=None, init=False)

    @property
    def unwanted_id(self) -> str | None:
        """The process that nobody wants if the spawn is cancelled now; also an ended one whose key is kept."""
        if self.process is not None:
            return self.process.process_id
        return self.error.info.process_id if self.uses_kept_keys and isinstance(self.error, SpawnError) else None


@attrs.define(eq=False)
class PendingCall(Pending):
    """A call that waits for its answer."""

    process: RemoteProcess
    method: str
    deadline: float
    """When its time is over, by this end's clock."""
    is_queued: bool = attrs.field(default=False, init=False)
    is_sent: bool = attrs.field(default=False, init=False)

    def settle(self, error: Exception | None = None) -> None:
        """End the wait; an answer that nobody waits for any more is counted."""
        if isinstance(error, CallError):
            error.concerning(self.method, entry=self.process.info.entry, process_id=self.process.process_id)
        super().settle(error)
        if self.is_sent and self.is_abandoned and error is None:
            self.process.late_answers += 1

    def error_in(self, response: Response) -> Exception:
        """Build what an error answer says; of a process that the host has forgotten this end may know more."""
        if response.error_type == ProcessLostError.__name__:
            return lost_from(response, self.process.info, self.process.post_mortem)
        return super().error_in(response)


def send_error_from(failure: ProcessSendFailed) -> Exception:
    """Build what the next send raises: the same class as a send in the host's own program would have raised."""
    text = f"an earlier message to process {failure.process_id} was not delivered: {failure.error}"
    if failure.error_type == PayloadError.__name__:
        return PayloadError(text, size=failure.size, limit=failure.limit)
    return answered_error(Response("", error=text, error_type=failure.error_type))


def answered_error(response: Response) -> Exception:
    """As `exception_from`; and what a host says whose worker is being closed already is said in Trio's words."""
    match response.error_type:
        case trio.ClosedResourceError.__name__:
            return trio.ClosedResourceError(response.error)
        case trio.BrokenResourceError.__name__:
            return trio.BrokenResourceError(response.error)
        case _:
            return exception_from(response)
