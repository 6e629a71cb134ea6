"""The messages between a worker and its host: requests, answers and notices."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from spindle_trio._model._field_docs import show_fields
from spindle_trio._model._options import ProcessFilter, SpawnOptions, StopOptions
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


WorkerToHost: TypeAlias = ProcessSpawn | ProcessList | ProcessGet | ProcessStop | ProcessSend
HostToWorker: TypeAlias = ProcessLifecycle | ProcessMessage | ProcessSendFailed | Response
