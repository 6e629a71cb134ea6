"""What a command is, as its shim reads it: the only argument, written by the host.

    {"program": "/…", "argv": [text, …], "environment": {name: value, …}, "folder": "/…",
     "ready": {"kind": "started"}, "lane": "none", "stopSignal": 15, "gracePeriod": 5.0, "notifyFolder": "/…"}

`ready` is one of ``{"kind": "started"}``, ``{"kind": "notify"}``, ``{"kind": "line", "pattern": "…"}``,
``{"kind": "tcp", "host": "…", "port": n}`` and ``{"kind": "http", "url": "…"}``. `lane` is ``none``, ``bytes``,
``lines``, ``jsonrpc`` or ``jsonrpc-headers``. `environment` and `folder` may be null or missing, and so may
`gracePeriod`. Strings are as in the file system, with lone surrogates for bytes that are not UTF-8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from spindle_trio._protocol._json_text import read_json

if TYPE_CHECKING:
    from spindle_trio._model import JsonValue

_GRACE_SECONDS: Final = 5.0
_KINDS: Final = ("started", "notify", "line", "tcp", "http")
_LANES: Final = ("none", "bytes", "lines", "jsonrpc", "jsonrpc-headers")
_KNOWN: Final = frozenset({
    "argv", "environment", "folder", "gracePeriod", "lane", "notifyFolder", "program", "ready", "sandbox", "stopSignal",
})  # fmt: skip


class SpecError(ValueError):
    """The argument describes no command; says why."""


class Ready(NamedTuple):
    """What shows that the program has started up."""

    kind: str
    pattern: str = ""
    host: str = ""
    port: int = 0
    url: str = ""


class Spec(NamedTuple):
    """A command."""

    program: str
    argv: list[str]
    environment: dict[str, str]
    folder: str | None
    ready: Ready
    lane: str
    stop_signal: int
    grace_period: float
    """Seconds that the program may take to end once it has said that it is stopping."""
    notify_folder: str | None
    """Where to make the socket for notifications, if there is to be one; removed by the host."""
    sandbox: dict[str, JsonValue] | None


def read_spec(text: str) -> Spec:
    """Read the argument.

    Raises:
        SpecError: it is no JSON, a field is missing, unknown or of a wrong type, or names what there is not.
    """
    try:
        fields = read_json(text)
    except (ValueError, SystemError) as error:  # the latter from a scanner without its module, at half a value
        raise SpecError(f"it is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise SpecError("it is not an object")
    unknown = fields.keys() - _KNOWN
    if unknown:
        # What this version cannot do must not be left out silently.
        raise SpecError(f"it has the unknown field {min(unknown)!r}")
    argv = fields.get("argv")
    if not isinstance(argv, list) or not argv or not all(isinstance(item, str) for item in argv):
        raise SpecError("argv is not a list of strings with a first one")
    environment = fields.get("environment")
    if environment is not None and not isinstance(environment, dict):
        raise SpecError("environment is not an object")
    folder, sandbox = fields.get("folder"), fields.get("sandbox")
    if folder is not None and not isinstance(folder, str):
        raise SpecError("folder is not a string")
    notify_folder = fields.get("notifyFolder")
    if notify_folder is not None and not isinstance(notify_folder, str):
        raise SpecError("notifyFolder is not a string")
    ready = _ready(fields.get("ready"))
    if ready.kind == "notify" and notify_folder is None:
        raise SpecError("it has no notifyFolder, and is to notify")
    if sandbox is not None and not isinstance(sandbox, dict):
        raise SpecError("sandbox is not an object")
    return Spec(
        program=_text(fields, "program"),
        argv=[str(item) for item in argv],
        environment={name: str(value) for name, value in (environment or {}).items()},
        folder=folder,
        ready=ready,
        lane=_one_of(fields, "lane", _LANES),
        stop_signal=_whole(fields, "stopSignal"),
        grace_period=_seconds(fields.get("gracePeriod")),
        notify_folder=notify_folder,
        sandbox=sandbox,
    )


def _ready(fields: JsonValue) -> Ready:
    if not isinstance(fields, dict):
        raise SpecError("ready is not an object")
    kind = _one_of(fields, "kind", _KINDS)
    if kind == "line":
        return Ready(kind, pattern=_text(fields, "pattern"))
    if kind == "tcp":
        return Ready(kind, host=_text(fields, "host"), port=_whole(fields, "port"))
    if kind == "http":
        return Ready(kind, url=_text(fields, "url"))
    return Ready(kind)


def _text(fields: dict[str, JsonValue], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise SpecError(f"{name} is not a string")
    return value


def _one_of(fields: dict[str, JsonValue], name: str, known: tuple[str, ...]) -> str:
    value = _text(fields, name)
    if value not in known:
        raise SpecError(f"{name} is {value[:60]!r}, not one of {', '.join(known)}")
    return value


def _whole(fields: dict[str, JsonValue], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int:
        raise SpecError(f"{name} is not an integer")
    return value


def _seconds(value: JsonValue) -> float:
    if value is None:
        return _GRACE_SECONDS
    if type(value) not in (int, float):
        raise SpecError("gracePeriod is not a number")
    return float(value)  # type: ignore[arg-type]  # one of these two
