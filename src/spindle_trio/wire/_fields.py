"""How single fields read and write their values: texts, counts, times, durations, states.

A reader raises `WrongTypeError` for a wrong value. The path of the field is added on the way up.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import Final, TypeAlias

from spindle_trio._model import (
    DEFAULT_TIMEOUT,
    METHOD_BYTES,
    MOST_WINDOW,
    ExitReason,
    JsonValue,
    Overrun,
    ProcessState,
    checked_arguments,
    checked_environment,
    from_plain,
    to_plain,
)
from spindle_trio._model._rich_values import date_text

JsonObject: TypeAlias = dict[str, JsonValue]
"""One message of the worker protocol in its wire form."""

STARTUP_MILLISECONDS: Final = (1_000, 120_000)
"""Least and greatest startup timeout on the wire, in milliseconds."""
HEARTBEAT_MILLISECONDS: Final = (0, 120_000)
"""Least and greatest heartbeat timeout on the wire, in milliseconds; 0 stands for no watchdog."""

GRACE_MILLISECONDS: Final = (0, 120_000)
"""Least and greatest grace period on the wire, in milliseconds; 0 stands for a kill at once."""


class WrongTypeError(Exception):
    """A value is wrong for its field. The message lacks the field's path."""


def as_it_is(value: object, _: object = None) -> object:
    """Pass a payload or result as it is."""
    return value


def read_rich_field(fields: JsonObject, name: str) -> JsonObject:
    """Read the times and bytes in a field; another field has their places."""
    places = fields.get(f"{name}Types")
    if places is None or name not in fields:
        return fields
    try:
        return fields | {name: from_plain(fields[name], places)}
    except (ValueError, RecursionError) as error:
        raise WrongTypeError(f"{name}Types: {error}") from None


def write_rich_field(fields: JsonObject, name: str) -> JsonObject:
    """Write the times and bytes in a field as texts, and their places; a peer that ignores these has texts."""
    if name in fields:
        fields[name], places = to_plain(fields[name])
        if places:
            fields[f"{name}Types"] = list(places)
    return fields


def read_text(value: object, _: object = None) -> str:
    """Read a text, without lone surrogates."""
    if not isinstance(value, str):
        raise WrongTypeError(f"expected a string, got {name_of(value)}")
    if not is_encodable(value):
        raise WrongTypeError("the text has a lone surrogate")
    return value


def read_flag(value: object, _: object) -> bool:
    """Read a boolean."""
    if not isinstance(value, bool):
        raise WrongTypeError(f"expected a boolean, got {name_of(value)}")
    return value


def read_count(value: object, _: object) -> int:
    """Read an integer, 0 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WrongTypeError(f"expected a count, got {name_of(value)}")
    return value


def read_code(value: object, _: object) -> int:
    """Read the code of an error, an integer of either sign."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise WrongTypeError(f"expected an integer, got {name_of(value)}")
    return value


def read_object(value: object) -> JsonObject:
    """Read an object."""
    if not isinstance(value, dict):
        raise WrongTypeError(f"expected an object, got {name_of(value)}")
    return value


def read_metadata(value: object, _: object) -> JsonObject:
    """Read metadata: any object."""
    return read_object(value)


def write_metadata(metadata: JsonObject) -> JsonObject:
    """Write metadata as a `dict`."""
    return dict(metadata)


def read_environment(value: object, _: object) -> dict[str, str]:
    """Read variables: an object of texts."""
    variables = read_object(value)
    for name, text in variables.items():
        if not isinstance(text, str):
            raise WrongTypeError(f"expected a string for {name[:60]!a}, got {name_of(text)}")
        read_text(name + text)
    try:
        return checked_environment(variables) or {}
    except ValueError as error:
        raise WrongTypeError(str(error)) from None


def read_texts(value: object, _: object) -> tuple[str, ...]:
    """Read an array of texts."""
    if not isinstance(value, list):
        raise WrongTypeError(f"expected an array, got {name_of(value)}")
    return tuple(map(read_text, value))


def read_arguments(value: object, _: object) -> tuple[str, ...]:
    """Read arguments: an array of texts."""
    try:
        return checked_arguments(list(read_texts(value, None)))
    except ValueError as error:
        raise WrongTypeError(str(error)) from None


def write_texts(texts: Sequence[str]) -> list[str]:
    """Write texts as a `list`."""
    return list(texts)


def read_method(value: object, _: object) -> str:
    """Read the name of a handler."""
    method = read_text(value)
    if not 1 <= len(method.encode()) <= METHOD_BYTES:
        raise WrongTypeError(f"expected 1 to {METHOD_BYTES} bytes, got {len(method.encode())}")
    return method


def read_overrun(value: object, _: object) -> Overrun:
    """Read what becomes of a process whose handler goes on."""
    match read_text(value):
        case "leave":
            return "leave"
        case "kill":
            return "kill"
        case text:
            raise WrongTypeError(f"expected 'leave' or 'kill', got {text[:60]!a}")


def read_items(value: object, _: object) -> int:
    """Read how many items of a stream may be under way, or may follow."""
    items = read_count(value, None)
    if not 1 <= items <= MOST_WINDOW:
        raise WrongTypeError(f"expected 1 to {MOST_WINDOW} items")
    return items


def read_time(value: object, _: object) -> datetime:
    """Read an ISO-8601 time with an offset, as UTC."""
    text = read_text(value)
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise WrongTypeError(f"{text[:60]!a} is not an ISO-8601 time with an offset")


def write_time(time: datetime) -> str:
    """Write a time in UTC, to the millisecond."""
    if time.tzinfo is None:
        raise ValueError(f"{time!r} is naive; use an aware datetime in UTC")
    return date_text(time)


def write_name(member: ProcessState | ExitReason) -> str:
    """Write a member of an enumeration."""
    return member.value


def read_state(value: object, _: object) -> ProcessState:
    """Read a state."""
    text = read_text(value)
    if text not in _STATES:
        raise WrongTypeError(f"{text[:60]!a} is not a state")
    return ProcessState(text)


def read_wanted_state(value: object, _: object) -> ProcessState:
    """Read the state of a filter."""
    text = read_text(value)
    # A state that this side does not know matches no live process, like any terminal one.
    return ProcessState(text) if text in _STATES else ProcessState.STOPPED


def read_exit_reason(value: object, _: object) -> ExitReason:
    """Read an exit reason."""
    text = read_text(value)
    if text not in _EXIT_REASONS:
        raise WrongTypeError(f"{text[:60]!a} is not an exit reason")
    return ExitReason(text)


_STATES: Final = frozenset(ProcessState)
_EXIT_REASONS: Final = frozenset(ExitReason)


def read_startup_timeout(value: object, _: object) -> float:
    """Read a startup timeout, in seconds."""
    return _seconds(value, *STARTUP_MILLISECONDS)


def write_startup_timeout(seconds: float) -> int:
    """Write a startup timeout, in whole milliseconds."""
    return _rounded_half_up(_clamped(seconds * 1000, *STARTUP_MILLISECONDS))


def read_heartbeat_timeout(value: object, _: object) -> float:
    """Read a heartbeat timeout, in seconds; 0 stands for none."""
    return _seconds(value, *HEARTBEAT_MILLISECONDS) or math.inf


def write_heartbeat_timeout(seconds: float) -> int:
    """Write a heartbeat timeout, in whole milliseconds; 0 stands for none."""
    if math.isinf(seconds):
        return 0
    # The shortest watchdog is still one: a fraction of a millisecond must not become "none".
    return _rounded_half_up(_clamped(seconds * 1000, 1, HEARTBEAT_MILLISECONDS[1]))


def read_grace(value: object, _: object) -> float:
    """Read a grace period, in seconds. Unlike for a timeout, a wrong type is refused: 0 and the default differ much."""
    return min(read_span(value, None), GRACE_MILLISECONDS[1] / 1000)


def write_grace(seconds: float | None) -> int | None:
    """Write a grace period, in whole milliseconds."""
    if not seconds:
        return None if seconds is None else 0
    # The shortest grace period is still one: a fraction of a millisecond must not become "at once".
    return _rounded_half_up(_clamped(seconds * 1000, 1, GRACE_MILLISECONDS[1]))


def read_least_span(value: object, _: object) -> float:
    """Read a span of a millisecond at least, in seconds."""
    return read_span(value, None) or 0.001


def write_least_span(seconds: float | None) -> int | None:
    """Write a span, in whole milliseconds: a fraction of one must not become none."""
    return None if seconds is None else max(1, _rounded_half_up(seconds * 1000))


def read_run_seconds(value: object, _: object) -> float:
    """Read for how long a process may run, in seconds; 0 stands for any time."""
    return read_span(value, None) or math.inf


def write_run_seconds(seconds: float) -> int:
    """Write for how long a process may run, in whole milliseconds; 0 stands for any time."""
    return 0 if math.isinf(seconds) else max(1, _rounded_half_up(seconds * 1000))


def read_number(value: object, _: object) -> float:
    """Read a number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise WrongTypeError(f"expected a number, got {name_of(value)}")
    return value


def read_span(value: object, _: object) -> float:
    """Read a span, in seconds."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= sys.float_info.max:
        raise WrongTypeError(f"expected a number of milliseconds, 0 or more, got {name_of(value)}")
    return _rounded_half_up(value) / 1000


def write_span(seconds: float | None) -> int | None:
    """Write a span, in whole milliseconds."""
    return None if seconds is None else _rounded_half_up(seconds * 1000)


def _seconds(milliseconds: object, least: int, greatest: int) -> float:
    """Read a duration. Only here a wrong type is no error: anything but a finite number means the default."""
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


def is_encodable(text: str) -> bool:
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


def name_of(value: object) -> str:
    """Name a value's type as JSON does."""
    return next((name for kind, name in _NAMES if isinstance(value, kind)), type(value).__name__)
