"""Requests of the connecting end that wait for their answers, and the errors in those answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._errors import PayloadError
from spindle_trio._model import (
    JsonValue,
    ProcessSendFailed,
    Response,
)
from spindle_trio.wire import exception_from

if TYPE_CHECKING:
    from spindle_trio._worker_protocol._remote_process import RemoteProcess


@attrs.define(eq=False)
class Pending:
    """A request that waits for its answer."""

    done: trio.Event = attrs.field(factory=trio.Event, init=False)
    is_abandoned: bool = attrs.field(default=False, init=False)
    result: JsonValue = attrs.field(default=None, init=False)
    error: Exception | None = attrs.field(default=None, init=False)


@attrs.define(eq=False)
class PendingSpawn(Pending):
    """A spawn that waits for its answer, and the process that the answer names."""

    process: RemoteProcess | None = attrs.field(default=None, init=False)


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
