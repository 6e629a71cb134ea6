"""The one cattrs converter of the worker protocol: the fields of each class, and how they read and write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from types import NoneType, UnionType
from typing import Final, TypeAlias, get_args

import attrs
from cattrs import ClassValidationError, Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from spindle_trio._model import (
    CallFailure,
    ExitReason,
    HostToWorker,
    LifecycleEvent,
    PostMortem,
    ProcessCall,
    ProcessCallCancel,
    ProcessCallCredit,
    ProcessCallIdle,
    ProcessCallItem,
    ProcessFilter,
    ProcessGet,
    ProcessInfo,
    ProcessLifecycle,
    ProcessList,
    ProcessMessage,
    ProcessReleaseKey,
    ProcessSend,
    ProcessSendFailed,
    ProcessSpawn,
    ProcessState,
    ProcessStop,
    ProcessUsage,
    Response,
    SpawnOptions,
    StopOptions,
    WorkerToHost,
)
from spindle_trio.wire._fields import (
    JsonObject,
    as_it_is,
    read_arguments,
    read_code,
    read_count,
    read_environment,
    read_exit_reason,
    read_flag,
    read_grace,
    read_heartbeat_timeout,
    read_items,
    read_least_span,
    read_metadata,
    read_method,
    read_number,
    read_object,
    read_overrun,
    read_rich_field,
    read_run_seconds,
    read_span,
    read_startup_timeout,
    read_state,
    read_text,
    read_texts,
    read_time,
    read_wanted_state,
    write_grace,
    write_heartbeat_timeout,
    write_least_span,
    write_metadata,
    write_name,
    write_rich_field,
    write_run_seconds,
    write_span,
    write_startup_timeout,
    write_texts,
    write_time,
)

REQUEST_TAGS: Final[Mapping[str, type[WorkerToHost]]] = {
    "backend_process_spawn": ProcessSpawn,
    "backend_process_list": ProcessList,
    "backend_process_get": ProcessGet,
    "backend_process_stop": ProcessStop,
    "backend_process_release_key": ProcessReleaseKey,
    "backend_process_usage": ProcessUsage,
    "backend_process_send": ProcessSend,
    "backend_process_call": ProcessCall,
    "backend_process_call_cancel": ProcessCallCancel,
    "backend_process_call_credit": ProcessCallCredit,
    "backend_process_call_idle": ProcessCallIdle,
}
NOTICE_TAGS: Final[Mapping[str, type[HostToWorker]]] = {
    "backend_process_lifecycle": ProcessLifecycle,
    "backend_process_message": ProcessMessage,
    "backend_process_send_failed": ProcessSendFailed,
    "backend_process_call_item": ProcessCallItem,
    "response": Response,
}

TAG_OF: Final[Mapping[type[attrs.AttrsInstance], str]] = {
    kind: tag for tag, kind in (*REQUEST_TAGS.items(), *NOTICE_TAGS.items())
}


def problems_in(error: Exception, path: str = "") -> Iterator[str]:
    """List each problem in cattrs's tree of errors, with the path of its field."""
    if isinstance(error, ClassValidationError):
        noted, about_all = error.group_exceptions()
        for inner, note in noted:
            name = _camel_case(note.name)
            yield from problems_in(inner, f"{path}.{name}" if path else name)
        for inner in about_all:
            yield from problems_in(inner, path)
    else:
        problem = "missing" if isinstance(error, KeyError) else str(error)
        yield f"{path}: {problem}" if path else problem


def _configured_converter() -> Converter:
    """Teach a converter the whole dialect."""
    converter = Converter(detailed_validation=True)
    converter.register_structure_hook(str, read_text)
    converter.register_structure_hook(bool, read_flag)
    converter.register_structure_hook(int, read_count)
    converter.register_structure_hook(datetime, read_time)
    converter.register_structure_hook(ProcessState, read_state)
    converter.register_structure_hook(ExitReason, read_exit_reason)
    converter.register_unstructure_hook(datetime, write_time)
    converter.register_unstructure_hook(ProcessState, write_name)
    converter.register_unstructure_hook(ExitReason, write_name)
    # An optional field is absent or right: null is a wrong type like any other.
    converter.register_structure_hook_factory(
        _is_optional, lambda kind: converter.get_structure_hook(_without_none(kind))
    )
    # Each class is looked into when it is first read or written: a host that serves no worker has no need of them.
    converter.register_structure_hook_factory(_has_wire_form, lambda kind: _functions_for(kind, converter)[0])
    converter.register_unstructure_hook_factory(_has_wire_form, lambda kind: _functions_for(kind, converter)[1])
    return converter


_KINDS: Final = frozenset(
    {SpawnOptions, ProcessFilter, StopOptions, ProcessInfo, PostMortem, LifecycleEvent, CallFailure, *TAG_OF}
)

_LOADED_LATER: Final = frozenset(f"spindle_trio._model.{name}" for name in ("_resource_limits", "_sandbox", "_usage"))
"""Modules whose classes have a wire form, and which most programs never load."""


def _has_wire_form(kind: type[object]) -> bool:
    return kind in _KINDS or getattr(kind, "__module__", "") in _LOADED_LATER


_Reader: TypeAlias = Callable[[object, type[attrs.AttrsInstance]], attrs.AttrsInstance]
_Writer: TypeAlias = Callable[[attrs.AttrsInstance], JsonObject]


def _functions_for(kind: type[attrs.AttrsInstance], converter: Converter) -> tuple[_Reader, _Writer]:
    """Make what reads and writes one class with camelCase names, leaving out what is absent."""
    attrs.resolve_types(kind, localns=_names_loaded_later() if kind is SpawnOptions else None)
    overrides = {}
    for field in attrs.fields(kind):
        read_field, write_field = _hooks_for(kind, field.name)
        overrides[field.name] = override(
            rename=_camel_case(field.name),
            # A timeout is always written, so the two ends need not have the same default.
            omit_if_default=not field.name.endswith("_timeout"),
            struct_hook=read_field,
            unstruct_hook=write_field,
        )
    read = make_dict_structure_fn(kind, converter, False, **overrides)  # type: ignore[arg-type]  # also has flags
    write = make_dict_unstructure_fn(kind, converter, **overrides)  # type: ignore[arg-type]  # also has flags

    rich_field = _RICH_FIELDS.get(kind)

    def read_fields(data: object, kind: type[attrs.AttrsInstance]) -> attrs.AttrsInstance:
        fields = read_object(data)
        return read(fields if rich_field is None else read_rich_field(fields, rich_field), kind)

    def write_rich_fields(value: attrs.AttrsInstance) -> JsonObject:
        written: JsonObject = write(value)
        # A success has a result, which may be null; an answer leaves out what was not requested.
        if isinstance(value, Response) and value.error is None:
            written["result"] = value.result
        return write_rich_field(written, str(rich_field))

    return read_fields, write if rich_field is None else write_rich_fields


def _names_loaded_later() -> dict[str, object]:
    """Load the classes that the options of a spawn may hold."""
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio._model._sandbox import Sandbox

    # A command has functions of its own, which load its class with the first one.
    return {"Command": object, "ResourceLimits": ResourceLimits, "Sandbox": Sandbox}


def _read_entry(value: object, _: object) -> object:
    """Read an entry: a text, or an object for a command."""
    if not isinstance(value, dict):
        return read_text(value)
    from spindle_trio.wire._commands import read_command  # most workers send none

    return read_command(value)


def _write_entry(entry: object) -> object:
    if isinstance(entry, str):
        return entry
    from spindle_trio.wire._commands import write_entry  # most workers send none

    return write_entry(entry)


_RICH_FIELDS: Final[Mapping[type[attrs.AttrsInstance], str]] = {
    ProcessMessage: "payload",
    ProcessCallItem: "value",
    LifecycleEvent: "result",
    Response: "result",
}
"""The field of a class with a value from a process, which may hold times and bytes."""

_ReadHook: TypeAlias = Callable[[object, object], object]
_WriteHook: TypeAlias = (
    Callable[[float], int]
    | Callable[[float | None], int | None]
    | Callable[[JsonObject], JsonObject]
    | Callable[[Sequence[str]], list[str]]
    | Callable[[object], object]
)


def _hooks_for(kind: type[attrs.AttrsInstance], field: str) -> tuple[_ReadHook | None, _WriteHook | None]:
    """Return the functions that read and write a field whose type does not determine them."""
    match field:
        case "startup_timeout":
            return read_startup_timeout, write_startup_timeout
        case "heartbeat_timeout":
            return read_heartbeat_timeout, write_heartbeat_timeout
        case "since_heartbeat" | "timeout" | "processor_seconds":
            return read_span, write_span
        case "grace_period" | "replace_grace" | "grace":
            return read_grace, write_grace
        case "cpu_seconds":
            return read_least_span, write_least_span
        case "run_seconds":
            return read_run_seconds, write_run_seconds
        case "cpus":
            return read_number, None
        case "entry" if kind is SpawnOptions:
            return _read_entry, _write_entry
        case "environment":
            return read_environment, as_it_is
        case "arguments":
            return read_arguments, write_texts
        case "read" | "write" | "deny":
            return read_texts, write_texts
        case "payload" | "result" | "value":
            return as_it_is, as_it_is
        case "code" if kind is CallFailure:
            return read_code, None
        case "data":
            return as_it_is, as_it_is
        case "method":
            return read_method, None
        case "overrun":
            return read_overrun, None
        case "items" | "window":
            return read_items, None
        case "known":
            return read_texts, write_texts
        case "metadata":
            return read_metadata, write_metadata
        case "state" if kind is ProcessFilter:
            return read_wanted_state, None
        case _:
            return None, None


_DURATIONS: Final = frozenset({"since_heartbeat", "grace_period", "replace_grace", "grace", "timeout"})


def _camel_case(name: str) -> str:
    """Give a field its name on the wire. Durations carry their unit there."""
    first, *others = name.removesuffix("_seconds").split("_")
    is_duration = name.endswith(("_timeout", "_seconds")) or name in _DURATIONS
    return first + "".join(map(str.capitalize, others)) + ("Ms" if is_duration else "")


def _is_optional(kind: object) -> bool:
    return isinstance(kind, UnionType) and len(get_args(kind)) == 2 and NoneType in get_args(kind)


def _without_none(kind: object) -> object:
    return next(member for member in get_args(kind) if member is not NoneType)


CONVERTER: Final = _configured_converter()
