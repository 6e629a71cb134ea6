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
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

import attrs

from spindle_trio._model._field_docs import show_fields
from spindle_trio._model._post_mortem import PostMortem

if TYPE_CHECKING:
    from pathlib import Path

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
"""A received payload: the values of JSON, by exact type.

It may also hold `bytes`: for what was sent as `bytes`, `bytearray` or `memoryview`, and from a JavaScript entry for a
`Buffer`, an `ArrayBuffer` or a typed array. From there it may also hold a `datetime` (aware, in UTC, to milliseconds)
for a `Date`. The type leaves these out, since code for all other entries would have to rule them out. The payload of a
spawn may hold neither.
"""


class Omitted(enum.Enum):
    """The type of `OMITTED`: no payload was given. `None`, in contrast, is a payload."""

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


def is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold; `True` and `False` are not."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return not sys.float_info.max < abs(value) < math.inf  # as an integer may be


@show_fields
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
    """Its state when this snapshot was made."""
    started_at: datetime
    """When it entered `starting`."""
    key: str | None = None
    """The key it holds within its worker, user and kind."""
    user_id: str | None = None
    """The owner of the process."""
    metadata: Mapping[str, JsonValue] | None = None
    """The spawner's metadata."""
    ready_at: datetime | None = None
    """When `ready()` arrived."""
    last_heartbeat_at: datetime | None = None
    """The latest heartbeat known; `ready()` counts as the first."""
    ended_at: datetime | None = None
    """When the terminal event was published."""
    exit_reason: ExitReason | None = None
    """Why it ended; set exactly when `state` is terminal."""
    error: str | None = None
    """What went wrong, if anything: one line, unless the entry gave several to `fail`."""
    peak_memory: int | None = None
    """The most bytes of memory that it used, with all that it had started; set at the end, where that is known."""
    processor_seconds: float | None = None
    """Seconds of processor time that it used, with all that it had started; set at the end, where that is known."""
    status: str | None = None
    """What a command said last that it is doing, as by ``STATUS=`` of `sd_notify`: a line of at most 256 bytes. It
    makes no event, so at the far end of a stream it is as of the last `refresh`."""

    def __repr__(self) -> str:
        return f"<ProcessInfo {_status_line(self.state, self.entry, self.process_id, self.kind, self.key)}>"


@show_fields
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
    """The owner of the process."""
    metadata: Mapping[str, JsonValue] | None = None
    """The spawner's metadata."""
    exit_reason: ExitReason | None = None
    """Why it ended; set exactly when `state` is terminal."""
    error: str | None = None
    """What went wrong, if anything: the error of `post_mortem` if there is one."""
    result: JsonValue = None
    """The value of `complete(result)` or of the entry's return; set only with `completed`."""
    post_mortem: PostMortem | None = None
    """Explains an end that nobody asked for; set only with a terminal state."""
    peak_memory: int | None = None
    """As in `ProcessInfo`; set only with a terminal state."""
    processor_seconds: float | None = None
    """As in `ProcessInfo`; set only with a terminal state."""

    def __repr__(self) -> str:
        previous = f"{self.previous_state} → " if self.previous_state else ""
        status = _status_line(self.state, self.entry, self.process_id, self.kind, self.key)
        return f"<LifecycleEvent {previous}{status}>"


def _status_line(state: ProcessState, entry: str, process_id: str, kind: str, key: str | None) -> str:
    """The text of a process in a `repr`: state, entry, id, and kind and key if they add something."""
    shown = f"{state} {entry} {process_id}"
    if kind != entry:
        shown += f" kind={kind!r}"
    if key is not None:
        shown += f" key={key!r}"
    return shown


@show_fields
@attrs.frozen
class ProcessStatistics:
    """What one process's lanes hold and have carried, at one moment."""

    messages_received: int
    """Messages that the process has sent and this side has taken in."""
    messages_dropped: int
    """Of those, how many were dropped because there was no subscriber in time."""
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
    calls: int = 0
    """Calls and streams that the process has been sent and has not ended, also those whose callers have gone on."""
    late_answers: int = 0
    """Answers, ends and errors of calls that were dropped because their callers had gone on."""


class Containment(StrEnum):
    """How surely everything that a process has started ends with the process; strongest first.

    Fork servers and inits are this package's own; see ``notes/reliability.md`` for what holds at which level.

    Attributes:
        PIDNS: A PID namespace for each process: when it ends, the kernel has ended all that it has started.
        CGROUP: A control group for each process, which is killed as a whole.
        SWEEP: A parent for each process that adopts and kills what it leaves behind.
        KILLPG: The process group, and the descendants that can be found.
    """

    PIDNS = "pidns"
    CGROUP = "cgroup"
    SWEEP = "sweep"
    KILLPG = "killpg"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"{value!r} is not a level of containment; type one of: {', '.join(cls)}")

    def is_at_least(self, other: Containment) -> bool:
        """Whether this level is as strong as another one, or stronger."""
        levels = list(Containment)
        return levels.index(self) <= levels.index(other)


@show_fields
@attrs.frozen
class HostStatistics:
    """What a host holds, at one moment."""

    launcher: str
    """The name of the launcher's class."""
    workers: int
    """Workers whose scope is open."""
    processes: int
    """Live processes, in all workers."""
    states: Mapping[ProcessState, int]
    """Live processes by state; a state without processes is absent."""
    queued: int
    """Spawns that wait for the process whose key they replace."""
    abandoned: int
    """Processes that SIGKILL has not ended and that are being reaped in the background."""
    containment: Containment | None = None
    """The level of containment of its processes; `None` if the launcher starts no real processes."""
    containment_problems: Mapping[Containment, str] = attrs.field(factory=dict)
    """Why each stronger level does not work here; none of them if a level was requested. And, for the level in use,
    what it lacks here: at `pidns` a `/proc` that fits the namespace."""
    limit_means: Mapping[str, str] = attrs.field(factory=dict)
    """By which means each resource limit is held here: ``"cgroup"`` (a control group), ``"sampler"`` (the host looks at
    the tree), ``"rlimit"`` (for each process), ``"deadline"``. One that is absent cannot be held, and is refused."""
    limit_problems: Mapping[str, str] = attrs.field(factory=dict)
    """Why a resource limit cannot be held here, or not by a control group."""


@show_fields
@attrs.frozen
class ResolvedEntry:
    """An entry that a launcher has accepted."""

    entry: str
    """The name to show: the path below the root, with forward slashes."""
    path: Path | None = None
    """The file to run; `None` if the launcher runs no files."""
    program: Path | None = None
    """For a command, the program that it names, where the launcher has found one."""
