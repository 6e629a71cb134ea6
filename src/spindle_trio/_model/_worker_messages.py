"""The messages between a worker and its host: requests, answers and notices."""

from __future__ import annotations

import math
from typing import TypeAlias

import attrs

from spindle_trio._model._calls import Overrun
from spindle_trio._model._field_docs import show_fields
from spindle_trio._model._options import ProcessFilter, SpawnOptions, StopOptions
from spindle_trio._model._post_mortem import PostMortem
from spindle_trio._model._values import JsonValue, LifecycleEvent, ProcessInfo


@show_fields
@attrs.frozen
class ProcessMessage:
    """One payload that a process has sent, with its sender; also travels in the worker protocol."""

    process_id: str
    """The id of the process that sent it."""
    payload: JsonValue
    """The payload."""
    user_id: str | None = None
    """The owner of that process."""


@show_fields
@attrs.frozen
class ProcessSpawn:
    """A worker asks for a process (`backend_process_spawn`); answered as of `ready`, or with an error."""

    request_id: str
    """Comes back in the answer."""
    options: SpawnOptions
    """What to spawn."""


@show_fields
@attrs.frozen
class ProcessList:
    """A worker asks which of its processes are live (`backend_process_list`)."""

    request_id: str
    """Comes back in the answer."""
    filter: ProcessFilter = ProcessFilter()
    """Which of them."""


@show_fields
@attrs.frozen
class ProcessGet:
    """A worker asks for one snapshot (`backend_process_get`)."""

    request_id: str
    """Comes back in the answer."""
    process_id: str
    """Which process."""


@show_fields
@attrs.frozen
class ProcessStop:
    """A worker asks that a process be stopped (`backend_process_stop`); answered at once, as a request."""

    request_id: str
    """Comes back in the answer."""
    process_id: str
    """Which process."""
    options: StopOptions = StopOptions()
    """How."""
    unwanted: bool = False
    """Whether its spawn was cancelled, so that a key that it took over is given back."""


@show_fields
@attrs.frozen
class ProcessReleaseKey:
    """A worker gives up the key that is kept of an ended process (`backend_process_release_key`); answered at once."""

    request_id: str
    """Comes back in the answer."""
    process_id: str
    """The process that had the key."""
    user_id: str | None = None
    """The expected owner of the process; trimmed."""


@show_fields
@attrs.frozen
class ProcessUsage:
    """A worker asks what a process uses now (`backend_process_usage`)."""

    request_id: str
    """Comes back in the answer."""
    process_id: str
    """Which process."""


@show_fields
@attrs.frozen
class ProcessSend:
    """A worker sends a payload to a process (`backend_process_send`); answered by `ProcessSendFailed` or not at all."""

    process_id: str
    """Which process."""
    payload: JsonValue
    """The payload."""
    user_id: str | None = None
    """The expected owner of the process."""


@show_fields
@attrs.frozen
class ProcessCall:
    """A worker calls a handler of a process, or begins a stream (`backend_process_call`); answered at its end."""

    request_id: str
    """Comes back in the answer, and in each item of a stream."""
    process_id: str
    """Which process."""
    method: str
    """The name of the handler."""
    payload: JsonValue = None
    """The handler's argument."""
    timeout: float = math.inf
    """Seconds that are left for it; `math.inf` for any."""
    overrun: Overrun = "leave"
    """What becomes of a process whose handler goes on after that."""
    user_id: str | None = None
    """The expected owner of the process."""
    window: int | None = None
    """For a stream: how many items may be under way. `None` for a call with one answer."""


@show_fields
@attrs.frozen
class ProcessCallCancel:
    """A worker cancels a call or a stream (`backend_process_call_cancel`). The call itself is still answered, once."""

    request_id: str
    """The id of the call."""


@show_fields
@attrs.frozen
class ProcessCallCredit:
    """A worker lets a stream send more items (`backend_process_call_credit`); not answered."""

    request_id: str
    """The id of the call."""
    items: int
    """How many more."""


@show_fields
@attrs.frozen
class ProcessCallIdle:
    """A worker asks to hear when a process has ended all calls (`backend_process_call_idle`); answered then.

    Those that were cancelled are among them: their handlers may go on after their answers.
    """

    request_id: str
    """Comes back in the answer."""
    process_id: str
    """Which process."""


@show_fields
@attrs.frozen
class ProcessCallItem:
    """The host passes on the next item of a stream (`backend_process_call_item`)."""

    request_id: str
    """The id of the call."""
    value: JsonValue
    """The item."""


@show_fields
@attrs.frozen
class ProcessLifecycle:
    """The host tells its worker of a transition (`backend_process_lifecycle`)."""

    event: LifecycleEvent
    """The transition."""
    messages: int = 0
    """With a terminal event: how many messages of this process are still to follow on this connection."""


@show_fields
@attrs.frozen
class ProcessSendFailed:
    """The host tells its worker that a payload did not reach a process (`backend_process_send_failed`).

    A worker that does not know this notice ignores it.
    """

    process_id: str
    """The id of the process that it was for."""
    error: str
    """Why it was not delivered."""
    error_type: str | None = None
    """The name of the exception that a send in the host's own program would have raised."""
    size: int | None = None
    """The payload's size as JSON in bytes, if it was too large."""
    limit: int | None = None
    """How many bytes are allowed, if it was too large."""


@show_fields
@attrs.frozen
class CallFailure:
    """What the handler of a call raised, within a `Response`."""

    error_type: str
    """The name of the exception's class."""
    text: str
    """The exception's message."""
    traceback: str | None = None
    """Its traceback in the process."""
    code: int | None = None
    """The code of a JSON-RPC server's error."""
    data: JsonValue = None
    """What such an error has beside its code and its message."""


@show_fields
@attrs.frozen
class Response:
    """The host's one answer to one request. `error` is `None` if it succeeded."""

    request_id: str
    """The id of the request."""
    result: JsonValue = None
    """The answer in its wire form; with an error, the result of a process that completed without becoming ready."""
    error: str | None = None
    """Why the request failed."""
    error_type: str | None = None
    """The name of the exception's class, so that the other end can raise the same."""
    info: ProcessInfo | None = None
    """The process that the error is about."""
    limit: int | None = None
    """How many live processes a worker may have, if that was exceeded."""
    failure: CallFailure | None = None
    """What the handler of the call raised."""
    known: tuple[str, ...] | None = None
    """The names of all handlers, if the call's was none of them."""
    handed_over: bool | None = None
    """Whether the process that was lost may have begun the call."""
    post_mortem: PostMortem | None = None
    """Explains the end of the process that was lost."""


WorkerToHost: TypeAlias = (
    ProcessSpawn
    | ProcessList
    | ProcessGet
    | ProcessStop
    | ProcessReleaseKey
    | ProcessUsage
    | ProcessSend
    | ProcessCall
    | ProcessCallCancel
    | ProcessCallCredit
    | ProcessCallIdle
)
HostToWorker: TypeAlias = ProcessLifecycle | ProcessMessage | ProcessSendFailed | ProcessCallItem | Response
