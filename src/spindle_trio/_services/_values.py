"""What a service tells: its events, and the messages of its processes."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import attrs

from spindle_trio._model import JsonValue, PostMortem, ProcessInfo
from spindle_trio._model._field_docs import show_fields


class ServiceEventKind(StrEnum):
    """What has happened to a service.

    Attributes:
        STARTED: The start of a generation has begun.
        RUNNING: Its process is ready, `on_start` has returned, and users are let through.
        ENDED: Its process is gone, or never became ready.
        RESTART_SCHEDULED: The next start has a time.
        GAVE_UP: There were as many failures in a row as the policy allows. Nothing follows.
        STOPPED: Somebody has stopped it, or its end is none after which it is started again. Nothing follows.
    """

    STARTED = "started"
    RUNNING = "running"
    ENDED = "ended"
    RESTART_SCHEDULED = "restart_scheduled"
    GAVE_UP = "gave_up"
    STOPPED = "stopped"


@show_fields
@attrs.frozen
class ServiceEvent:
    """One thing that has happened to a service. Times are aware and in UTC."""

    kind: ServiceEventKind
    """What it is."""
    generation: int
    """Of which process: 1 for the first."""
    at: datetime
    """When it happened."""
    failures: int
    """Failures in a row; with ``ended`` that end is counted, if it is one."""
    process_id: str | None = None
    """The host's id for the process; `None` before it is ready, and if none was launched."""
    info: ProcessInfo | None = None
    """The snapshot of the process, where there is one: with ``ended`` the last."""
    post_mortem: PostMortem | None = None
    """Explains an end that nobody asked for; with ``ended`` and ``gave_up``."""
    restart_at: datetime | None = None
    """When the next start begins; with ``restart_scheduled``."""
    seconds: float | None = None
    """With ``running``: how long the start took; with ``ended``: how long the process was ready, `None` if it never
    was; with ``restart_scheduled``: how long it is until the next start."""
    error: str | None = None
    """What went wrong, or who has stopped it, in a line; with ``ended``, ``gave_up`` and ``stopped``."""

    def __repr__(self) -> str:
        process = "" if self.process_id is None else f" {self.process_id}"
        error = "" if self.error is None else f": {self.error}"
        return f"<ServiceEvent {self.kind} generation={self.generation}{process} failures={self.failures}{error}>"


@show_fields
@attrs.frozen
class ServiceMessage:
    """A message of one of the processes of a service."""

    generation: int
    """Which process has sent it: 1 for the first."""
    payload: JsonValue
    """What it has sent."""
