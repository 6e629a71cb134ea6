"""Values and enumerations that every layer shares: frozen, and free of behaviour.

The wire form of each (camelCase, integer milliseconds, ISO-8601 times) is made by `spindle_trio.wire`.
"""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from spindle_trio._post_mortem import PostMortem

if TYPE_CHECKING:
    from pathlib import Path

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
"""What a payload is once it has been received: the values that JSON can say, by exact type."""

DEFAULT_TIMEOUT: Final = 15.0
"""Seconds for starting, and between two heartbeats, where the caller names no other (contract, spawn options)."""

MEBIBYTE: Final = 1024 * 1024


class Omitted(enum.Enum):
    """The type of `OMITTED`, which stands for a payload that was not given, as opposed to `None`, which is one."""

    OMITTED = "omitted"

    def __repr__(self) -> str:
        return "OMITTED"


OMITTED: Final = Omitted.OMITTED


class ProcessState(StrEnum):
    """Where a process is in its life (`BackendProcessStateDTO`)."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"

    @property
    def is_terminal(self) -> bool:
        """Whether the process has ended: it has been reaped, and nothing more will happen to it."""
        return self not in _LIVE_STATES


_LIVE_STATES: Final = frozenset({ProcessState.STARTING, ProcessState.RUNNING, ProcessState.STOPPING})


class ExitReason(StrEnum):
    """Why the host stopped tracking a process (`BackendProcessExitReasonDTO`)."""

    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    TIMED_OUT = "timed_out"
    BACKEND_UNLOADED = "backend_unloaded"
    REPLACED = "replaced"


_LARGEST_FLOAT: Final = sys.float_info.max
"""An integer may be larger than that and still be less than `math.inf`: no clock could be set by it."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_startup_timeout(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not (_is_number(value) and isinstance(value, int | float) and 0 < value <= _LARGEST_FLOAT):
        raise ValueError(f"{attribute.name} must be a positive, finite number of seconds, not {value!r}")


def _check_heartbeat_timeout(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not (
        _is_number(value) and isinstance(value, int | float) and (0 < value <= _LARGEST_FLOAT or value == math.inf)
    ):
        raise ValueError(
            f"{attribute.name} must be a positive number of seconds, or math.inf for no watchdog, not {value!r}"
        )


def _check_optional_text(_: object, attribute: attrs.Attribute[str | None], value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a str or None, not {type(value).__name__}")


def _as_state(value: str | None) -> ProcessState | None:
    if value is None:
        return None
    try:
        return ProcessState(value)
    except ValueError:
        raise ValueError(f"state must be None or one of {', '.join(ProcessState)}, not {value!r}") from None


def _check_flag(_: object, attribute: attrs.Attribute[bool], value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be a bool, not {type(value).__name__}")


@attrs.frozen
class SpawnOptions:
    """What a worker asks for when it spawns a process (`BackendProcessSpawnOptionsDTO`).

    Raises:
        ValueError: a timeout is out of its range.
        TypeError: `kind`, `key` or `user_id` is no string, or `replace_existing` no bool.
    """

    entry: str
    """Path of the entry file, relative to the worker's root."""
    kind: str | None = attrs.field(default=None, validator=_check_optional_text)
    """A label for filters and dedupe; trimmed; blank or `None` means the entry."""
    key: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Makes the process unique per user and kind; trimmed; blank or `None` means none."""
    payload: object = OMITTED
    """JSON-safe start-up value for the entry."""
    metadata: Mapping[str, object] | None = None
    """A JSON-safe object kept on every snapshot and shown to the entry."""
    user_id: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Whose process it is; only heard in an operator-scoped worker."""
    startup_timeout: float = attrs.field(default=DEFAULT_TIMEOUT, validator=_check_startup_timeout)
    """Seconds from `starting` until the entry must have called `ready()`."""
    heartbeat_timeout: float = attrs.field(default=DEFAULT_TIMEOUT, validator=_check_heartbeat_timeout)
    """Seconds that may pass between two heartbeats; `math.inf` for no watchdog."""
    replace_existing: bool = attrs.field(default=False, validator=_check_flag)
    """Whether a live process of the same key gives way to this one."""


@attrs.frozen
class ProcessFilter:
    """Which processes `list` shows: those that match every field given (`BackendProcessListOptionsDTO`)."""

    user_id: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Compared as given; not heard in a user-scoped worker."""
    kind: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Compared as given, untrimmed."""
    key: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Compared as given, untrimmed."""
    state: ProcessState | None = attrs.field(default=None, converter=_as_state)
    """One of the states; a terminal one matches nothing, since only live processes are listed."""


@attrs.frozen
class StopOptions:
    """How a process is asked to stop (`BackendProcessStopOptionsDTO`)."""

    user_id: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Whose process the caller believes it to be; trimmed; only heard in an operator-scoped worker."""
    reason: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Shown to the entry's stop handler; empty means none."""


@attrs.frozen
class ProcessInfo:
    """A snapshot of one process (`BackendProcessInfoDTO`). Times are aware and in UTC."""

    process_id: str
    """Unique within the host."""
    entry: str
    """Path of the entry under the worker's root."""
    kind: str
    """The label given, or the entry."""
    state: ProcessState
    """As of the moment when this snapshot was made."""
    started_at: datetime
    """When it entered `starting`."""
    key: str | None = None
    """The key it holds within its worker, user and kind."""
    user_id: str | None = None
    """Whose process it is."""
    metadata: Mapping[str, JsonValue] | None = None
    """What the spawner noted about it."""
    ready_at: datetime | None = None
    """When `ready()` arrived."""
    last_heartbeat_at: datetime | None = None
    """The latest heartbeat known; `ready()` counts as the first."""
    ended_at: datetime | None = None
    """When the terminal event was published."""
    exit_reason: ExitReason | None = None
    """Why it ended; set exactly when `state` is terminal."""
    error: str | None = None
    """What went wrong, where something did: one line, unless the entry gave several to `fail`."""

    def __repr__(self) -> str:
        return f"<ProcessInfo {_status_line(self.state, self.entry, self.process_id, self.kind, self.key)}>"


@attrs.frozen
class LifecycleEvent:
    """One transition of one process (`BackendProcessLifecycleEventDTO`)."""

    process_id: str
    """Which process."""
    entry: str
    """Its entry."""
    kind: str
    """Its kind."""
    state: ProcessState
    """The state that it entered."""
    at: datetime
    """The time of the transition (aware, UTC)."""
    previous_state: ProcessState | None = None
    """The state that it left; `None` for `starting`."""
    key: str | None = None
    """Its key."""
    user_id: str | None = None
    """Whose process it is."""
    metadata: Mapping[str, JsonValue] | None = None
    """What the spawner noted about it."""
    exit_reason: ExitReason | None = None
    """Why it ended; set exactly when `state` is terminal."""
    error: str | None = None
    """What went wrong, where something did: the text of `post_mortem` where there is one."""
    result: JsonValue = None
    """What `complete(result)` or the entry's return said; only ever set with `completed`."""
    post_mortem: PostMortem | None = None
    """Explains an end that nobody asked for; only ever set with a terminal state."""

    def __repr__(self) -> str:
        previous = f"{self.previous_state} → " if self.previous_state else ""
        status = _status_line(self.state, self.entry, self.process_id, self.kind, self.key)
        return f"<LifecycleEvent {previous}{status}>"


def _status_line(state: ProcessState, entry: str, process_id: str, kind: str, key: str | None) -> str:
    """What a `repr` shows of a process: state, entry, id, and kind and key where they say more."""
    shown = f"{state} {entry} {process_id}"
    if kind != entry:
        shown += f" kind={kind!r}"
    if key is not None:
        shown += f" key={key!r}"
    return shown


@attrs.frozen
class ProcessMessage:
    """One payload that a process has sent, with its sender; also travels in the worker protocol."""

    process_id: str
    """Who sent it."""
    payload: JsonValue
    """What it said."""
    user_id: str | None = None
    """Whose process that is."""


@attrs.frozen
class ProcessSpawn:
    """A worker asks for a process (`backend_process_spawn`); answered as of `ready`, or with an error."""

    request_id: str
    """Comes back in the answer."""
    options: SpawnOptions
    """What to spawn."""


@attrs.frozen
class ProcessList:
    """A worker asks which of its processes are live (`backend_process_list`)."""

    request_id: str
    """Comes back in the answer."""
    filter: ProcessFilter = ProcessFilter()
    """Which of them."""


@attrs.frozen
class ProcessGet:
    """A worker asks for one snapshot (`backend_process_get`)."""

    request_id: str
    """Comes back in the answer."""
    process_id: str
    """Which process."""


@attrs.frozen
class ProcessStop:
    """A worker asks that a process be stopped (`backend_process_stop`); answered at once, as a request."""

    request_id: str
    """Comes back in the answer."""
    process_id: str
    """Which process."""
    options: StopOptions = StopOptions()
    """How."""


@attrs.frozen
class ProcessSend:
    """A worker sends a payload to a process (`backend_process_send`); never answered."""

    process_id: str
    """Which process."""
    payload: JsonValue
    """What to say."""
    user_id: str | None = None
    """Whose process the worker believes it to be."""


@attrs.frozen
class ProcessLifecycle:
    """The host tells its worker of a transition (`backend_process_lifecycle`)."""

    event: LifecycleEvent
    """The transition."""
    messages: int = 0
    """With a terminal event: how many messages of this process are still to follow on this connection."""


@attrs.frozen
class Response:
    """The host's one answer to one request: `error` is `None` where it succeeded."""

    request_id: str
    """Of the request."""
    result: JsonValue = None
    """What was asked for, in its wire form."""
    error: str | None = None
    """Why the request failed."""
    error_type: str | None = None
    """The name of the exception's class, so that the other end can raise the same."""
    info: ProcessInfo | None = None
    """The process that the error speaks of."""
    limit: int | None = None
    """How many live processes a worker may have, where that was exceeded."""


WorkerToHost: TypeAlias = ProcessSpawn | ProcessList | ProcessGet | ProcessStop | ProcessSend
HostToWorker: TypeAlias = ProcessLifecycle | ProcessMessage | Response


@attrs.frozen
class Limits:
    """Bounds on what host and processes exchange; the defaults are the contract's.

    Raises:
        ValueError: a bound is no whole number, or so small that nothing at all could pass.
    """

    frame_bytes: int = MEBIBYTE
    """Bytes in the body of one frame, and so in one payload."""
    depth: int = 64
    """How many containers may enclose a value; the outermost value is at depth 0."""
    values: int = 100_000
    """Values in one payload, containers included."""
    inbox_messages: int = 1_024
    """Messages that wait in the host for their readers, a process."""
    inbox_bytes: int = 4 * MEBIBYTE
    """Bytes of such messages, a process."""
    outbox_bytes: int = MEBIBYTE
    """Bytes of messages that wait in the host for a process to read them."""
    lifecycle_events: int = 1_024
    """Events that wait in one lifecycle subscription before the oldest are dropped."""
    ending_bytes: int = 64 * MEBIBYTE
    """Bytes of messages taken in from a process once it is stopping or ending."""
    frame_seconds: float = 5.0
    """Seconds within which a frame that has begun must be whole."""
    text_bytes: int | None = None
    """Bytes of UTF-8 in all strings and names of one payload."""
    container_entries: int | None = None
    """Entries in one list or dict."""
    kind_bytes: int | None = None
    """Bytes of UTF-8 in a kind."""
    key_bytes: int | None = None
    """Bytes of UTF-8 in a key."""
    entry_bytes: int | None = None
    """Bytes of UTF-8 in an entry."""
    reason_bytes: int | None = None
    """Bytes of UTF-8 in the reason of a stop."""
    error_bytes: int | None = None
    """Bytes of UTF-8 in the text of `fail`; a longer one is replaced by a general text."""

    def __attrs_post_init__(self) -> None:
        # A bound of nothing would not bound but wedge: an inbox that never has room, a channel that cannot be fed.
        for field in attrs.fields(Limits):
            value: object = getattr(self, field.name)
            if field.name == "frame_seconds":
                if not (_is_number(value) and isinstance(value, int | float) and value > 0):
                    raise ValueError(f"frame_seconds must be a positive number of seconds, not {value!r}")
            elif value is not None or field.default is not None:
                least = 0 if field.default is None or field.name == "depth" else 1  # those say what a value may contain
                if type(value) is not int or value < least:
                    raise ValueError(f"{field.name} must be an integer, {least} or more, not {value!r}")


REFERENCE_LIMITS: Final = Limits(
    depth=32,
    values=10_000,
    text_bytes=256 * 1024,
    container_entries=1_000,
    kind_bytes=128,
    key_bytes=256,
    entry_bytes=4_096,
    reason_bytes=4_096,
    error_bytes=4_096,
)
"""The bounds that the reference host sets (contract, messages)."""


@attrs.frozen
class ProcessStatistics:
    """What one process's lanes hold and have carried, as of one moment."""

    messages_received: int
    """Messages that the process has sent and this side has taken in."""
    messages_dropped: int
    """Of those, how many were dropped because nobody subscribed in time."""
    inbox_messages: int
    """Messages that are held for subscriptions."""
    inbox_bytes: int
    """Their size on the wire, in bytes."""
    subscriptions: int
    """Open message subscriptions that read this process's inbox."""
    outbox_messages: int
    """Messages that wait for the process to read them."""
    outbox_bytes: int
    """Their size on the wire, in bytes."""
    output_dropped: int
    """Bytes of stdout and stderr that were drained but not kept."""


class Containment(StrEnum):
    """How well the tree of a process is held together, so that all of it ends when the process does; strongest first.

    Fork servers and inits are this package's own; see ``notes/reliability.md`` for what holds at which level.
    """

    PIDNS = "pidns"
    """A PID namespace for each process: when it ends, the kernel has ended all that it has started."""
    CGROUP = "cgroup"
    """A control group for each process, which is killed as a whole."""
    SWEEP = "sweep"
    """A parent for each process that adopts and kills what it leaves behind."""
    KILLPG = "killpg"
    """The process group, and the descendants that can be found."""

    def is_at_least(self, other: Containment) -> bool:
        """Tell whether this level holds together all that another one does."""
        levels = list(Containment)
        return levels.index(self) <= levels.index(other)


@attrs.frozen
class HostStatistics:
    """What a host holds, as of one moment."""

    launcher: str
    """The name of the launcher's class."""
    workers: int
    """Workers whose scope is open."""
    processes: int
    """Live processes, in all workers."""
    states: Mapping[ProcessState, int]
    """Live processes by state; a state that nobody is in is absent."""
    queued: int
    """Spawns that wait for the process whose key they replace."""
    abandoned: int
    """Processes that SIGKILL has not ended and that are being reaped in the background."""
    containment: Containment | None = None
    """How well the trees of its processes are held together; `None` where the launcher starts no real processes."""
    containment_problems: Mapping[Containment, str] = attrs.field(factory=dict)
    """Why each stronger level does not work here; empty where a level was asked for."""


@attrs.frozen
class ResolvedEntry:
    """An entry that a launcher has accepted."""

    entry: str
    """The name under which it is shown: the path below the root, with forward slashes."""
    path: Path | None = None
    """The file to run; `None` where the launcher runs no files."""
