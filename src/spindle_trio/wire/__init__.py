"""The wire form of the worker protocol: JSON objects with camelCase names, made and read by one cattrs converter.

`to_json` and `from_json` serve every value that travels; `parse_request` and `parse_notice` read the two unions, told
apart by their field `type`. What is absent in Python (`None` as the default, an omitted payload) is absent here
too, never null. Times are ISO-8601 in UTC with three decimals and ``Z``, durations integer milliseconds.

A field of a wrong type is refused with its path, as in ``options.kind: expected a string, got a number``; unknown
fields are ignored, so that either end may be the newer one. Payloads, results and metadata pass unchanged, except for
times and bytes from a process: these travel as texts, beside a field with their places. Each receiver checks whether
payloads are JSON-safe, against its own limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from cattrs import BaseValidationError

from spindle_trio._errors import PeerProtocolError
from spindle_trio._model import (
    CallFailure,
    HostToWorker,
    JsonValue,
    LifecycleEvent,
    PostMortem,
    ProcessFilter,
    ProcessInfo,
    SpawnOptions,
    StopOptions,
    WorkerToHost,
    to_plain,
)
from spindle_trio.wire._converter import CONVERTER, NOTICE_TAGS, REQUEST_TAGS, TAG_OF, problems_in
from spindle_trio.wire._error_answers import error_response, exception_from, lost_from, send_failure
from spindle_trio.wire._fields import JsonObject, WrongTypeError, is_encodable, name_of

if TYPE_CHECKING:
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio._model._usage import Usage

__all__ = [
    "JsonObject",
    "WireValue",
    "error_response",
    "exception_from",
    "from_json",
    "lost_from",
    "parse_notice",
    "parse_request",
    "plain_payload",
    "request_id_of",
    "send_failure",
    "to_json",
]

_AlwaysLoaded: TypeAlias = (
    WorkerToHost
    | HostToWorker
    | SpawnOptions
    | ProcessFilter
    | StopOptions
    | ProcessInfo
    | LifecycleEvent
    | PostMortem
    | CallFailure
)
WireValue: TypeAlias = "_AlwaysLoaded | ResourceLimits | Usage"
"""Every value that has a wire form."""

T = TypeVar("T", bound="WireValue")


def to_json(value: WireValue) -> JsonObject:
    """Write a value in its wire form, with its `type` if it belongs to one of the two unions.

    Payload, result and the values in metadata are not copied.

    Raises:
        ValueError: one of its times is naive.
    """
    written: JsonObject = CONVERTER.unstructure(value)
    tag = TAG_OF.get(type(value))
    return written if tag is None else {"type": tag, **written}


def plain_payload(payload: JsonValue) -> JsonValue:
    """Write a payload or result as JSON, with texts for its times (ISO-8601) and bytes (base64).

    Only JavaScript entries send those. A payload without them is returned as it is.
    """
    return to_plain(payload)[0]


def from_json(data: object, kind: type[T]) -> T:
    """Read a value from its wire form.

    Args:
        data: the received value.
        kind: the expected class.

    Raises:
        PeerProtocolError: a field is missing or of a wrong type; names each with its path.
    """
    try:
        return CONVERTER.structure(data, kind)
    except (BaseValidationError, WrongTypeError) as error:
        raise PeerProtocolError("; ".join(problems_in(error))) from None


def parse_request(data: object) -> WorkerToHost:
    """Read a request of a worker to its host.

    Raises:
        PeerProtocolError: it is not an object, of an unknown `type`, or a field is missing or of a wrong type.
    """
    return from_json(data, _class_for(data, REQUEST_TAGS))


def parse_notice(data: object) -> HostToWorker:
    """Read an answer, event or message of a host to its worker.

    Raises:
        PeerProtocolError: it is not an object, of an unknown `type`, or a field is missing or of a wrong type.
    """
    return from_json(data, _class_for(data, NOTICE_TAGS))


def request_id_of(data: object) -> str | None:
    """Find the id of a request that may be malformed otherwise; `None` if there is none to answer to.

    Cancellations and credit have the id of their call: an answer would end it.
    """
    if not isinstance(data, dict) or data.get("type") in ("backend_process_call_cancel", "backend_process_call_credit"):
        return None
    request_id = data.get("requestId")
    return request_id if isinstance(request_id, str) and is_encodable(request_id) else None


def _class_for(data: object, tags: Mapping[str, type[T]]) -> type[T]:
    if not isinstance(data, dict):
        raise PeerProtocolError(f"expected an object, got {name_of(data)}")
    if "type" not in data:
        raise PeerProtocolError("type: missing")
    tag = data["type"]
    if not isinstance(tag, str):
        raise PeerProtocolError(f"type: expected a string, got {name_of(tag)}")
    if tag not in tags:
        raise PeerProtocolError(f"type: {tag[:60]!a} is unknown")
    return tags[tag]
