"""The wire form of a command, which may stand where an entry stands. Loaded with the first one.

    {"argv": [text, …], "environment": {name: value, …}, "folder": "…",
     "ready": {"kind": "started" | "notify"} | {"kind": "line", "pattern": "…"}
              | {"kind": "tcp", "port": 5432, "host": "…"} | {"kind": "http", "url": "…"},
     "lane": "none" | "bytes" | "lines" | "jsonrpc" | "jsonrpc-headers", "stopSignal": 15}

All but `argv` may be left out, and mean the defaults then; so may the `host` of a TCP port.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from spindle_trio._model._command import LANES, Command, Http, Lane, Line, Readiness, Tcp, plain_command
from spindle_trio.wire._fields import (
    JsonObject,
    WrongTypeError,
    read_count,
    read_environment,
    read_object,
    read_text,
    read_texts,
)

_DEFAULT: Final = Command(["-"])
_PLAIN_DEFAULT: Final = plain_command(_DEFAULT)

_T = TypeVar("_T")


def write_entry(command: object) -> object:
    """Write a command, without what is as by default; anything else as it is, for the host to refuse."""
    if not isinstance(command, Command):
        return command
    written = plain_command(command)
    return {name: value for name, value in written.items() if name == "argv" or value != _PLAIN_DEFAULT[name]}


def read_command(value: object) -> Command:
    """Read a command.

    Raises:
        WrongTypeError: a field is missing or wrong; names it.
    """
    fields = read_object(value)
    if "argv" not in fields:
        raise WrongTypeError("argv: missing")
    no_argv: tuple[str, ...] = ()
    argv = _field(fields, "argv", read_texts, no_argv)
    environment = _field(fields, "environment", read_environment, None)
    folder = _field(fields, "folder", read_text, None)
    ready = _field(fields, "ready", _read_readiness, _DEFAULT.ready)
    lane = _field(fields, "lane", _read_lane, _DEFAULT.lane)
    stop_signal = _field(fields, "stopSignal", read_count, _DEFAULT.stop_signal)
    try:
        return Command(argv, environment=environment, folder=folder, ready=ready, lane=lane, stop_signal=stop_signal)
    except ValueError as error:
        raise WrongTypeError(str(error)) from None


def _field(fields: JsonObject, name: str, read: Callable[[object, object], _T], default: _T) -> _T:
    if name not in fields:
        return default
    try:
        return read(fields[name], None)
    except WrongTypeError as error:
        raise WrongTypeError(f"{name}: {error}") from None


def _read_lane(value: object, _: object) -> Lane:
    text = read_text(value)
    for lane in LANES:
        if lane == text:
            return lane
    raise WrongTypeError(f"{text[:60]!a} is no lane")


def _read_readiness(value: object, _: object) -> Readiness:
    fields = read_object(value)
    kind = _field(fields, "kind", read_text, "")
    try:
        match kind:
            case "started":
                return "started"
            case "notify":
                return "notify"
            case "line":
                return Line(_field(fields, "pattern", read_text, ""))
            case "tcp":
                return Tcp(_field(fields, "port", read_count, 0), _field(fields, "host", read_text, "127.0.0.1"))
            case "http":
                return Http(_field(fields, "url", read_text, ""))
    except ValueError as error:
        raise WrongTypeError(str(error)) from None
    raise WrongTypeError(f"kind: {kind[:60]!a} is no way to be ready")
