"""A program that stands where an entry stands, and how to tell that it is ready: frozen values."""

from __future__ import annotations

import re
import shlex
import signal as signals
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias, get_args

import attrs

from spindle_trio._model._field_docs import show_fields
from spindle_trio._model._surroundings import PathLike, as_folder, checked_arguments, checked_environment
from spindle_trio._model._values import OMITTED, JsonValue

__all__ = [
    "Command",
    "Http",
    "Lane",
    "Line",
    "Readiness",
    "Tcp",
    "check_with_command",
    "name_of_command",
    "plain_command",
]

Lane: TypeAlias = Literal["none", "bytes", "lines", "jsonrpc", "jsonrpc-headers"]
LANES: Final[Sequence[Lane]] = get_args(Lane)

_NAME_CHARACTERS: Final = 200
"""How much of a command's text names its process."""

_LARGEST_PORT: Final = 65_535


def _check_pattern(_: object, attribute: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a str, as in Line('listening on'), not {value!r}")
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{attribute.name} {value!r} is no regular expression: {error}") from None


def _check_port(_: object, attribute: attrs.Attribute[int], value: object) -> None:
    if type(value) is not int or not 1 <= value <= _LARGEST_PORT:
        raise ValueError(f"{attribute.name} must be the number of a port, 1 to {_LARGEST_PORT}, not {value!r}")


def _check_host(_: object, attribute: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a str, as in '127.0.0.1', not {value!r}")
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f"{attribute.name} must be the name or the address of a host, not {value!r}")


def _check_url(_: object, attribute: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a str, as in 'http://127.0.0.1:8000/', not {value!r}")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f"{attribute.name} {value!r} contains what no URL may; percent-encode it")
    from urllib.parse import urlsplit  # only for those who use it

    try:
        parts = urlsplit(value)
        is_good = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:  # a port that is none, or half an address
        is_good = False
    if not is_good:
        raise ValueError(f"{attribute.name} must begin with http:// and a host, without a user, not {value!r}")


@show_fields
@attrs.frozen
class Line:
    """A program is ready once a line of its stdout or stderr matches.

    Raises:
        ValueError: `pattern` is no regular expression.
        TypeError: it is no str.
    """

    pattern: str = attrs.field(validator=_check_pattern)
    """A regular expression that is searched for in each line, as in ``"listening on"``."""


@show_fields
@attrs.frozen
class Tcp:
    """A program is ready once a TCP port takes connections.

    Raises:
        ValueError: `port` is none, or `host` names none.
        TypeError: `host` is no str.
    """

    port: int = attrs.field(validator=_check_port)
    """The number of the port, 1 to 65535."""
    host: str = attrs.field(default="127.0.0.1", validator=_check_host)
    """Where it listens: a name or an address."""


@show_fields
@attrs.frozen
class Http:
    """A program is ready once a GET of a URL is answered with a status of 200 to 399.

    Raises:
        ValueError: `url` is no URL of the scheme ``http``.
        TypeError: it is no str.
    """

    url: str = attrs.field(validator=_check_url)
    """What to ask for, as in ``"http://127.0.0.1:8000/health"``."""


Readiness: TypeAlias = Literal["started", "notify"] | Line | Tcp | Http


def _as_argv(value: Sequence[str | PathLike]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(
            f"argv must be a sequence of str, not one text; type: Command({shlex.split(value, posix=False)!r}), "
            f"or for a line of the shell: Command(['sh', '-c', {value!r}])"
        )
    given: object = value
    if isinstance(given, Sequence):
        given = [item.__fspath__() if isinstance(item, PathLike) else item for item in given]
    argv = checked_arguments(given, "argv")
    if not argv:
        raise ValueError("argv must have at least the program in it, as in Command(['my-server'])")
    if not argv[0].strip():
        raise ValueError(f"argv must begin with a program, not {argv[0]!r}")
    return argv


def _check_ready(_: object, attribute: attrs.Attribute[Readiness], value: object) -> None:
    if not isinstance(value, Line | Tcp | Http) and value not in ("started", "notify"):
        raise ValueError(
            f"{attribute.name} must be 'started', 'notify', Line(pattern), Tcp(port) or Http(url), not {value!r}"
        )


def _check_lane(_: object, attribute: attrs.Attribute[Lane], value: object) -> None:
    if value not in LANES:
        raise ValueError(f"{attribute.name} must be {', '.join(map(repr, LANES[:-1]))} or {LANES[-1]!r}, not {value!r}")


def _check_signal(_: object, attribute: attrs.Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value not in signals.valid_signals():
        raise ValueError(f"{attribute.name} must be a signal, as in signal.SIGINT, not {value!r}")
    if value == signals.SIGSTOP:
        raise ValueError(f"{attribute.name} cannot be SIGSTOP: a program that stands still does not end")


@show_fields
@attrs.frozen
class Command:
    """A program, which may stand wherever an entry may.

    It has the states, deadlines, events, limits and sandbox of any process, and what it starts ends with it. Its
    process completes if it exits with code 0, and else fails with the exit status in words. It may be any program of
    this machine that `open_host(commands=…)` allows.

    With a lane, `handle.send` and `handle.messages` work. ``"bytes"``: what it writes comes as ``{"stdout": b"…"}`` or
    ``{"stderr": b"…"}``, each message to it is bytes for its stdin, and `None` closes that. ``"lines"``: each line of
    its stdout is a message, a text without its end, and each message is a line of its stdin. ``"jsonrpc"`` and
    ``"jsonrpc-headers"``: JSON-RPC 2.0, framed by lines, as MCP has it, or by ``Content-Length`` headers, as LSP has
    it. There `handle.call` is a request, a message to it is a notification, as in
    ``{"method": "exit", "params": […]}``, and its requests and notifications are messages from it. A request of its
    has an `id`, and is answered by a message such as ``{"id": 1, "result": …}`` or
    ``{"id": 1, "error": {"code": …, "message": …}}``.

    Raises:
        ValueError: `argv` is empty or has a NUL in it, or `ready`, `lane` or `stop_signal` is none of those there are.
        TypeError: `argv` is no sequence of str, or `environment` or `folder` has the wrong type.
    """

    argv: Sequence[str] = attrs.field(converter=_as_argv)
    """The program, and its arguments. The program is a name on the `PATH` of its environment, or a path: absolute, or
    relative to the worker's root."""
    environment: Mapping[str, str] | None = attrs.field(
        default=None, converter=checked_environment, kw_only=True, hash=False
    )
    """Variables for the program; they add to and override those of its process."""
    folder: str | None = attrs.field(default=None, converter=as_folder, kw_only=True)
    """The working directory, relative to the worker's root and really below it; `None` for the one of its spawn."""
    ready: Readiness = attrs.field(default="started", validator=_check_ready, kw_only=True)
    """When it is ready: ``"started"``: once it runs; ``"notify"``: when it says so by `sd_notify`; or a `Line` that it
    prints, a `Tcp` port that it opens, an `Http` URL that it answers. The startup deadline counts for all of them. With
    ``"notify"`` it also sends its heartbeats itself, if there is a heartbeat timeout, and may put off the startup
    deadline, or its kill, by an hour in all."""
    lane: Lane = attrs.field(default="none", validator=_check_lane, kw_only=True)
    """What goes through its stdin and stdout: ``"none"`` (stdin is the null device, stdout is kept as any output),
    ``"bytes"``, ``"lines"``, ``"jsonrpc"`` or ``"jsonrpc-headers"``."""
    stop_signal: int = attrs.field(default=int(signals.SIGTERM), validator=_check_signal, kw_only=True)
    """The signal that asks it to stop. It is killed after the grace period."""

    def __repr__(self) -> str:
        given = "".join(
            f", {field.name}={_shown(field.name, getattr(self, field.name))}"
            for field in attrs.fields(Command)[1:]
            if getattr(self, field.name) != field.default
        )
        return f"Command({list(self.argv)!r}{given})"


def check_with_command(entry: object, payload: object, arguments: Sequence[str]) -> None:
    """Refuse the options of a spawn that a command has no use for.

    Raises:
        ValueError: one of them is given.
    """
    if not isinstance(entry, Command):
        return  # the host refuses it
    if payload is not OMITTED:
        raise ValueError("a Command takes no payload: give its program arguments by argv, or send it a message")
    if arguments:
        raise ValueError("a Command takes no arguments beside its argv, as in Command(['my-server', '--fast'])")


def _shown(name: str, value: object) -> str:
    """Show a field, but no value of a variable: it may be a secret."""
    if name == "environment" and isinstance(value, Mapping):
        return f"{{{', '.join(f'{variable!r}: …' for variable in value)}}}"
    return repr(value)


def name_of_command(command: Command) -> str:
    """Return the text that names a command's process: as in a shell, on one line and not too long."""
    text = shlex.join(command.argv)
    text = text.encode(errors="surrogateescape").decode(errors="replace")  # a frame takes no lone surrogates
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= _NAME_CHARACTERS else f"{text[: _NAME_CHARACTERS - 1]}…"


def plain_command(command: Command) -> dict[str, JsonValue]:
    """Write a command as JSON, with all its fields."""
    environment = command.environment
    return {
        "argv": list(command.argv),
        "environment": None if environment is None else dict(environment),
        "folder": command.folder,
        "ready": _plain_readiness(command.ready),
        "lane": command.lane,
        "stopSignal": int(command.stop_signal),
    }


def _plain_readiness(ready: Readiness) -> JsonValue:
    match ready:
        case Line():
            return {"kind": "line", "pattern": ready.pattern}
        case Tcp():
            return {"kind": "tcp", "host": ready.host, "port": ready.port}
        case Http():
            return {"kind": "http", "url": ready.url}
        case _:
            return {"kind": ready}
