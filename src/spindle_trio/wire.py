"""The wire form of the worker protocol: JSON objects with camelCase names, made and read by one cattrs converter.

`to_json` and `from_json` serve every value that travels; `parse_request` and `parse_notice` read the two unions, told
apart by their field `type`. What is absent in Python (`None` as the default, an omitted payload) is absent here
too, never null. Times are ISO-8601 in UTC with three decimals and ``Z``, durations integer milliseconds.

A field of a wrong type is refused with its path, as in ``options.kind: expected a string, got a number``; fields that
nobody knows are ignored, so that either end may be the newer one. Payloads, results and metadata pass as they are:
whether they are JSON-safe is looked at by whoever takes them in, against its own limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import Final, TypeAlias, TypeVar, get_args

import attrs
from cattrs import BaseValidationError, ClassValidationError, Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from spindle_trio._errors import (
    DuplicateKeyError,
    EntryError,
    LaunchError,
    LocalProtocolError,
    PayloadError,
    PeerProtocolError,
    ProcessAccessError,
    ProcessLimitError,
    SpawnError,
    SpawnRefusedError,
    SpindleError,
    StartupCancelledError,
    StartupFailedError,
    StartupTimeoutError,
    UserRequiredError,
)
from spindle_trio._model import (
    DEFAULT_TIMEOUT,
    ExitReason,
    HostToWorker,
    JsonValue,
    LifecycleEvent,
    PostMortem,
    ProcessFilter,
    ProcessGet,
    ProcessInfo,
    ProcessLifecycle,
    ProcessList,
    ProcessMessage,
    ProcessSend,
    ProcessSpawn,
    ProcessState,
    ProcessStop,
    Response,
    SpawnOptions,
    StopOptions,
    WorkerToHost,
)

__all__ = [
    "JsonObject",
    "WireValue",
    "error_response",
    "exception_from",
    "from_json",
    "parse_notice",
    "parse_request",
    "request_id_of",
    "to_json",
]

JsonObject: TypeAlias = dict[str, JsonValue]
"""One message of the worker protocol in its wire form."""

WireValue: TypeAlias = (
    WorkerToHost | HostToWorker | SpawnOptions | ProcessFilter | StopOptions | ProcessInfo | LifecycleEvent | PostMortem
)
"""Every value that has a wire form."""

T = TypeVar("T", bound=WireValue)

STARTUP_MILLISECONDS: Final = (1_000, 120_000)
"""Least and greatest startup timeout on the wire, in milliseconds."""
HEARTBEAT_MILLISECONDS: Final = (0, 120_000)
"""Least and greatest heartbeat timeout on the wire, in milliseconds; 0 stands for no watchdog."""

REQUEST_TAGS: Final[Mapping[str, type[WorkerToHost]]] = {
    "backend_process_spawn": ProcessSpawn,
    "backend_process_list": ProcessList,
    "backend_process_get": ProcessGet,
    "backend_process_stop": ProcessStop,
    "backend_process_send": ProcessSend,
}
NOTICE_TAGS: Final[Mapping[str, type[HostToWorker]]] = {
    "backend_process_lifecycle": ProcessLifecycle,
    "backend_process_message": ProcessMessage,
    "response": Response,
}


def to_json(value: WireValue) -> JsonObject:
    """Write a value in its wire form, with its `type` where it is a member of one of the two unions.

    Payload, result and the values in metadata are not copied.

    Raises:
        ValueError: one of its times is naive.
    """
    written: JsonObject = _CONVERTER.unstructure(value)
    tag = _TAG_OF.get(type(value))
    return written if tag is None else {"type": tag, **written}


def from_json(data: object, kind: type[T]) -> T:
    """Read a value from its wire form.

    Args:
        data: what has arrived.
        kind: the class that it should be.

    Raises:
        PeerProtocolError: a field is missing or of a wrong type; names each with its path.
    """
    try:
        return _CONVERTER.structure(data, kind)
    except (BaseValidationError, _WrongTypeError) as error:
        raise PeerProtocolError("; ".join(_problems(error))) from None


def parse_request(data: object) -> WorkerToHost:
    """Read what a worker says to its host.

    Raises:
        PeerProtocolError: it is no object, of an unknown `type`, or a field is missing or of a wrong type.
    """
    return from_json(data, _class_for(data, REQUEST_TAGS))


def parse_notice(data: object) -> HostToWorker:
    """Read what a host says to its worker.

    Raises:
        PeerProtocolError: it is no object, of an unknown `type`, or a field is missing or of a wrong type.
    """
    return from_json(data, _class_for(data, NOTICE_TAGS))


def request_id_of(data: object) -> str | None:
    """Find the id of a request that may be malformed otherwise; `None` if there is none to answer to."""
    request_id = data.get("requestId") if isinstance(data, dict) else None
    return request_id if isinstance(request_id, str) and _is_encodable(request_id) else None


def error_response(request_id: str, error: Exception) -> Response:
    """Build the answer that says why a request failed, so that the other end can raise the same."""
    info: ProcessInfo | None = None
    if isinstance(error, SpawnError):
        info = error.info
    elif isinstance(error, DuplicateKeyError):
        info = error.existing
    return Response(
        request_id,
        error=str(error) or type(error).__name__,
        error_type=type(error).__name__,
        info=info,
        limit=error.limit if isinstance(error, ProcessLimitError) else None,
    )


def exception_from(response: Response) -> SpindleError:
    """Build the exception that an error answer stands for; a `SpindleError` if it is of no class known here."""
    text = response.error or "the request failed"
    name = response.error_type or ""
    if response.info is not None:
        if name == DuplicateKeyError.__name__:
            return DuplicateKeyError(text, response.info)
        if name in _SPAWN_ERRORS:
            return _SPAWN_ERRORS[name](text, info=response.info)
    if name == ProcessLimitError.__name__ and response.limit is not None:
        return ProcessLimitError(text, response.limit)
    return _PLAIN_ERRORS.get(name, SpindleError)(text)


_TAG_OF: Final[Mapping[type[attrs.AttrsInstance], str]] = {
    kind: tag for tag, kind in (*REQUEST_TAGS.items(), *NOTICE_TAGS.items())
}

_SPAWN_ERRORS: Final[Mapping[str, type[SpawnError]]] = {
    kind.__name__: kind
    for kind in (SpawnError, LaunchError, StartupTimeoutError, StartupFailedError, StartupCancelledError)
}
_PLAIN_ERRORS: Final[Mapping[str, type[SpindleError]]] = {
    kind.__name__: kind
    for kind in (
        SpawnRefusedError,
        EntryError,
        UserRequiredError,
        ProcessAccessError,
        PayloadError,
        LocalProtocolError,
        PeerProtocolError,
    )
}


class _WrongTypeError(Exception):
    """A value is not what its field wants; the message says so without the path, which is added on the way up."""


def _class_for(data: object, tags: Mapping[str, type[T]]) -> type[T]:
    if not isinstance(data, dict):
        raise PeerProtocolError(f"expected an object, got {_name_of(data)}")
    if "type" not in data:
        raise PeerProtocolError("type: missing")
    tag = data["type"]
    if not isinstance(tag, str):
        raise PeerProtocolError(f"type: expected a string, got {_name_of(tag)}")
    if tag not in tags:
        raise PeerProtocolError(f"type: {tag[:60]!a} is unknown")
    return tags[tag]


def _problems(error: Exception, path: str = "") -> Iterator[str]:
    """Tell each problem in cattrs's tree of errors with the path of the field that has it."""
    if isinstance(error, ClassValidationError):
        noted, _ = error.group_exceptions()
        for inner, note in noted:
            name = _camel_case(note.name)
            yield from _problems(inner, f"{path}.{name}" if path else name)
    else:
        problem = "missing" if isinstance(error, KeyError) else str(error)
        yield f"{path}: {problem}" if path else problem


def _configured_converter() -> Converter:
    """Teach a converter the whole dialect."""
    converter = Converter(detailed_validation=True)
    converter.register_structure_hook(str, _read_text)
    converter.register_structure_hook(bool, _read_flag)
    converter.register_structure_hook(int, _read_count)
    converter.register_structure_hook(datetime, _read_time)
    converter.register_structure_hook(ProcessState, _read_state)
    converter.register_structure_hook(ExitReason, _read_exit_reason)
    converter.register_unstructure_hook(datetime, _write_time)
    converter.register_unstructure_hook(ProcessState, _write_name)
    converter.register_unstructure_hook(ExitReason, _write_name)
    # An optional field is absent or right: null is a wrong type like any other.
    converter.register_structure_hook_factory(
        _is_optional, lambda kind: converter.get_structure_hook(_without_none(kind))
    )
    for kind in (
        # Inner values first: cattrs looks their hooks up when it builds those of the outer ones.
        *(SpawnOptions, ProcessFilter, StopOptions, ProcessInfo, PostMortem, LifecycleEvent),
        *_TAG_OF,
    ):
        _register(converter, kind)
    return converter


def _register(converter: Converter, kind: type[attrs.AttrsInstance]) -> None:
    """Read and write one class with camelCase names, leaving out what is absent."""
    attrs.resolve_types(kind)
    overrides = {}
    for field in attrs.fields(kind):
        read_field, write_field = _hooks_for(kind, field.name)
        overrides[field.name] = override(
            rename=_camel_case(field.name),
            # A timeout is always said, so that nothing hangs on both ends having the same default.
            omit_if_default=not field.name.endswith("_timeout"),
            struct_hook=read_field,
            unstruct_hook=write_field,
        )
    read = make_dict_structure_fn(kind, converter, False, **overrides)  # type: ignore[arg-type]  # also has flags
    write = make_dict_unstructure_fn(kind, converter, **overrides)  # type: ignore[arg-type]  # also has flags

    def read_object(data: object, kind: type[attrs.AttrsInstance]) -> attrs.AttrsInstance:
        return read(_read_object(data), kind)

    def write_response(response: Response) -> JsonObject:
        # A success has a result, which may well be null; what was not asked for is left out by whoever answers.
        written: JsonObject = write(response)
        if response.error is None:
            written["result"] = response.result
        return written

    converter.register_structure_hook(kind, read_object)
    converter.register_unstructure_hook(kind, write_response if kind is Response else write)


_ReadHook: TypeAlias = Callable[[object, object], object]
_WriteHook: TypeAlias = (
    Callable[[float], int]
    | Callable[[float | None], int | None]
    | Callable[[JsonObject], JsonObject]
    | Callable[[object], object]
)


def _hooks_for(kind: type[attrs.AttrsInstance], field: str) -> tuple[_ReadHook | None, _WriteHook | None]:
    """Name the functions that read and write one field where its type does not."""
    match field:
        case "startup_timeout":
            return _read_startup_timeout, _write_startup_timeout
        case "heartbeat_timeout":
            return _read_heartbeat_timeout, _write_heartbeat_timeout
        case "since_heartbeat":
            return _read_span, _write_span
        case "payload" | "result":
            return _as_it_is, _as_it_is
        case "metadata":
            return _read_metadata, _write_metadata
        case "state" if kind is ProcessFilter:
            return _read_wanted_state, None
        case _:
            return None, None


def _camel_case(name: str) -> str:
    """Give a field its name on the wire. Durations carry their unit there."""
    first, *others = name.split("_")
    is_duration = name.endswith("_timeout") or name == "since_heartbeat"
    return first + "".join(map(str.capitalize, others)) + ("Ms" if is_duration else "")


def _is_optional(kind: object) -> bool:
    return isinstance(kind, UnionType) and len(get_args(kind)) == 2 and NoneType in get_args(kind)


def _without_none(kind: object) -> object:
    return next(member for member in get_args(kind) if member is not NoneType)


def _as_it_is(value: object, _: object = None) -> object:
    return value


def _read_text(value: object, _: object = None) -> str:
    if not isinstance(value, str):
        raise _WrongTypeError(f"expected a string, got {_name_of(value)}")
    if not _is_encodable(value):
        raise _WrongTypeError("the text has a lone surrogate")
    return value


def _read_flag(value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise _WrongTypeError(f"expected a boolean, got {_name_of(value)}")
    return value


def _read_count(value: object, _: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _WrongTypeError(f"expected a count, got {_name_of(value)}")
    return value


def _read_object(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise _WrongTypeError(f"expected an object, got {_name_of(value)}")
    return value


def _read_metadata(value: object, _: object) -> JsonObject:
    return _read_object(value)


def _write_metadata(metadata: JsonObject) -> JsonObject:
    return dict(metadata)


def _read_time(value: object, _: object) -> datetime:
    text = _read_text(value)
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise _WrongTypeError(f"{text[:60]!a} is no ISO-8601 time with an offset")


def _write_time(time: datetime) -> str:
    if time.tzinfo is None:
        raise ValueError(f"{time!r} is naive: times are aware, and in UTC")
    # Cut off, not rounded: a time may not seem to lie after what it caused.
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _write_name(member: ProcessState | ExitReason) -> str:
    return member.value


def _read_state(value: object, _: object) -> ProcessState:
    text = _read_text(value)
    if text not in _STATES:
        raise _WrongTypeError(f"{text[:60]!a} is no state")
    return ProcessState(text)


def _read_wanted_state(value: object, _: object) -> ProcessState:
    text = _read_text(value)
    # A state that this side does not know is nobody's: like any terminal one, it matches no live process.
    return ProcessState(text) if text in _STATES else ProcessState.STOPPED


def _read_exit_reason(value: object, _: object) -> ExitReason:
    text = _read_text(value)
    if text not in _EXIT_REASONS:
        raise _WrongTypeError(f"{text[:60]!a} is no exit reason")
    return ExitReason(text)


_STATES: Final = frozenset(ProcessState)
_EXIT_REASONS: Final = frozenset(ExitReason)


def _read_startup_timeout(value: object, _: object) -> float:
    return _seconds(value, *STARTUP_MILLISECONDS)


def _write_startup_timeout(seconds: float) -> int:
    return _rounded_half_up(_clamped(seconds * 1000, *STARTUP_MILLISECONDS))


def _read_heartbeat_timeout(value: object, _: object) -> float:
    return _seconds(value, *HEARTBEAT_MILLISECONDS) or math.inf


def _write_heartbeat_timeout(seconds: float) -> int:
    if math.isinf(seconds):
        return 0
    # The shortest watchdog is still one: a fraction of a millisecond must not become "none".
    return _rounded_half_up(_clamped(seconds * 1000, 1, HEARTBEAT_MILLISECONDS[1]))


def _read_span(value: object, _: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise _WrongTypeError(f"expected a number of milliseconds, 0 or more, got {_name_of(value)}")
    return _rounded_half_up(value) / 1000


def _write_span(seconds: float | None) -> int | None:
    return None if seconds is None else _rounded_half_up(seconds * 1000)


def _seconds(milliseconds: object, least: int, greatest: int) -> float:
    """Read a duration. Here alone a wrong type is no error: what is not a finite number means the default."""
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool):
        return DEFAULT_TIMEOUT
    if isinstance(milliseconds, float) and not math.isfinite(milliseconds):
        return DEFAULT_TIMEOUT
    return _rounded_half_up(_clamped(milliseconds, least, greatest)) / 1000


def _clamped(value: float, least: int, greatest: int) -> float:
    return min(max(value, least), greatest)


def _rounded_half_up(value: float) -> int:
    # Not floor(value + 0.5): that sum rounds 0.49999999999999994 up to 1.
    whole = math.floor(value)
    return whole + (value - whole >= 0.5)


def _is_encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON can spell lone surrogates, nothing after it can take them."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_NAMES: Final[tuple[tuple[type[object] | UnionType, str], ...]] = (
    (NoneType, "null"),
    (bool, "a boolean"),
    (int | float, "a number"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
)


def _name_of(value: object) -> str:
    """Name a value's type as JSON does."""
    return next((name for kind, name in _NAMES if isinstance(value, kind)), type(value).__name__)


_CONVERTER: Final = _configured_converter()
