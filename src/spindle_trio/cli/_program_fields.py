"""What a file of services says of programs, of limits and of sandboxes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import spindle_trio
from spindle_trio.cli import _field_values as values
from spindle_trio.cli._arguments import bytes_of
from spindle_trio.cli._bounds import PRESETS
from spindle_trio.cli._checked_table import CheckedTable, WrongValueError

if TYPE_CHECKING:
    from spindle_trio import Command, Http, Line, ResourceLimits, Sandbox, Tcp

T = TypeVar("T")

_LIMITS: Final = """{ memory = "512M", pids = 64, cpus = 1.5 }"""
_READY: Final = """{ tcp = 5432 }, { http = "http://127.0.0.1:8000/" } or { line = "listening on" }"""
_SANDBOX: Final = """{ read = ["@runtime", "@root"], write = ["@root/data"], network = "host" }"""
_WORDS: Final[tuple[Literal["started", "notify"], ...]] = ("started", "notify")


def read_command(table: CheckedTable) -> Command | None:
    """Read the program of a service; `None` if the file is wrong about it."""
    argv = table.take("command", _argv, None)
    ready = _ready(table)
    stop_signal = table.take("stop_signal", _signal, signal.SIGTERM)
    for name in ("payload", "arguments"):
        table.refuse(name, "is for entries; put all words of a program into command")
    if argv is None or ready is None:
        return None
    return _made(table, "command", partial(spindle_trio.Command, argv, ready=ready, stop_signal=stop_signal))


def refuse_command_fields(table: CheckedTable) -> None:
    """Say of what only programs have that entries have it not."""
    for name in ("ready", "stop_signal"):
        table.refuse(name, "is for programs: give command instead of entry, or leave it out")


def read_limits(table: CheckedTable, name: str) -> ResourceLimits | None:
    """Read the limits of a service; `None` if it has none, or the file is wrong about them."""
    fields = table.table(name, _LIMITS)
    if fields is None:
        return None
    given: dict[str, object] = {
        "memory": fields.take("memory", _size, None),
        "pids": fields.take("pids", values.count_or_inf, None),
        "cpus": fields.take("cpus", values.number, None),
        "cpu_seconds": fields.take("cpu_seconds", values.timeout, None),
        "open_files": fields.take("open_files", values.count_or_inf, None),
        "file_bytes": fields.take("file_bytes", _size, None),
        "run_seconds": fields.take("run_seconds", values.timeout_or_inf, None),
    }
    fields.end()
    given = {field: value for field, value in given.items() if value is not None}
    return _made(table, name, partial(spindle_trio.ResourceLimits, **given))  # type: ignore[arg-type]  # read as such


def read_sandbox(table: CheckedTable) -> Sandbox | None:
    """Read the sandbox of a service; `None` if it has none, or the file is wrong about it."""
    if not table.has("sandbox", dict):
        name = table.take("sandbox", values.one_of(tuple(PRESETS), f"a table, such as {_SANDBOX}"), None)
        return None if name is None else PRESETS[name]
    fields = table.table("sandbox", _SANDBOX)
    assert fields is not None
    usual = spindle_trio.Sandbox()
    make = partial(
        spindle_trio.Sandbox,
        read=fields.take("read", values.words, usual.read),
        write=fields.take("write", values.words, usual.write),
        deny=fields.take("deny", values.words, usual.deny),
        network=fields.take("network", values.one_of(("none", "unix", "host")), usual.network),
        subprocesses=fields.take("subprocesses", values.flag, usual.subprocesses),
    )
    fields.end()
    return _made(table, "sandbox", make)


def _made(table: CheckedTable, name: str, make: Callable[[], T]) -> T | None:
    """Make a value of what was read, unless something about it is wrong."""
    if table.is_sound:
        try:
            return make()
        except ValueError as error:
            table.wrong(name, f"cannot be so: {error}")
    return None


def _ready(table: CheckedTable) -> Literal["started", "notify"] | Line | Tcp | Http | None:
    if not table.has("ready", dict):
        return table.take("ready", values.one_of(_WORDS, f"a table: {_READY}"), _WORDS[0])
    fields = table.table("ready", _READY)
    assert fields is not None
    kinds: Mapping[str, Callable[[object], Line | Tcp | Http]] = {
        "line": lambda value: spindle_trio.Line(values.text(value)),
        "tcp": spindle_trio.Tcp,  # type: ignore[dict-item]  # it checks
        "http": lambda value: spindle_trio.Http(values.text(value)),
    }
    found = [made for kind, make in kinds.items() if (made := fields.take(kind, _or_wrong(make), None)) is not None]
    fields.end()
    if len(found) == 1:
        return found[0]
    if fields.is_sound:
        fields.wrong(None, f"has to be one of {_READY}")
    return None


def _or_wrong(make: Callable[[object], T]) -> Callable[[object], T]:
    def read(value: object) -> T:
        try:
            return make(value)
        except (TypeError, ValueError) as error:
            raise WrongValueError(f"cannot be so: {error}") from None

    return read


def _argv(value: object) -> tuple[str, ...]:
    words = values.words(value)
    if not words or not words[0].strip():
        raise WrongValueError("""has to begin with a program, as in ["redis-server", "--port", "6390"]""")
    return words


def _signal(value: object) -> signal.Signals:
    try:
        return signal.Signals[str(value)]
    except KeyError:
        raise WrongValueError("""has to be the name of a signal, such as "SIGINT\"""") from None


def _size(value: object) -> int:
    wanted = """has to be a number of bytes, or a text such as "512M\""""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise WrongValueError(wanted)
    try:
        return bytes_of(str(value))
    except ValueError:
        raise WrongValueError(wanted) from None
