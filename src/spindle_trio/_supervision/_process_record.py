"""The record of one process: its identity, its bounds and its place in the lifecycle.

A `ProcessRecord` is passive. `SupervisedProcess` has one and acts on it; `_snapshots` turns it into what others see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._model import JsonValue, Limits, PostMortem, ProcessState
from spindle_trio._model._log_attributes import log_attributes
from spindle_trio._protocol._json_codec import BodyReader
from spindle_trio._protocol._payload import PayloadBounds
from spindle_trio._supervision._lifecycle import Lifecycle
from spindle_trio._supervision._state_table import Phase

if TYPE_CHECKING:
    from spindle_trio._model._command import Command
    from spindle_trio._model._usage import Usage
    from spindle_trio.abc import LaunchedProcess


@attrs.frozen
class Identity:
    """What never changes about a process."""

    process_id: str
    entry: str
    kind: str
    key: str | None
    user_id: str | None
    metadata: Mapping[str, JsonValue] | None


@attrs.frozen
class ProcessConfig:
    """What all processes of a worker live under: one value for all of them."""

    limits: Limits
    bounds: PayloadBounds
    """Those of the limits that payloads must keep to."""
    reader: BodyReader
    """Reads messages under these bounds."""
    wall_time: Callable[[float], datetime]
    """Turns a time on Trio's clock into wall time."""
    worker: str
    """The name of the worker, for log records."""
    cancel_grace: float
    """Seconds that a handler has to end after its call was cancelled, where its process is killed otherwise."""


class ProcessRecord:
    """One process: who, under which bounds, and where in its life."""

    __slots__ = (
        "command",
        "concurrency",
        "config",
        "identity",
        "launched",
        "life",
        "peaks",
        "post_mortem",
        "status",
        "takes_bytes",
        "takes_calls",
    )

    def __init__(
        self, identity: Identity, config: ProcessConfig, life: Lifecycle, command: Command | None = None
    ) -> None:
        """Note a process that has not been launched.

        Args:
            identity: who it is.
            config: what it lives under.
            life: where it is in its life, with its own timeouts.
            command: what it runs instead of an entry.
        """
        self.identity: Identity = identity
        self.config: ProcessConfig = config
        self.life: Lifecycle = life
        self.command: Command | None = command
        self.launched: LaunchedProcess | None = None
        self.post_mortem: PostMortem | None = None
        self.peaks: Usage | None = None
        """The most that it has used, once it has ended; `None` if unknown."""
        self.status: str | None = None
        """What it has said that it is doing."""
        self.takes_calls: bool | None = None
        """Whether its entry has a handler for calls; `None` before it is ready, and for one that speaks protocol 1."""
        self.concurrency: int | None = None
        """How many calls it serves at a time, at most; `None` if it has not said."""
        self.takes_bytes: bool = False
        """Whether its runtime takes bytes that follow a frame; known once it is ready."""

    @property
    def process_id(self) -> str:
        """The host's id for it."""
        return self.identity.process_id

    def log_attributes(self) -> dict[str, str | None]:
        """Put together the attributes of log records about it."""
        return log_attributes(self.config.worker, self.identity)

    @property
    def pid(self) -> int | None:
        """The operating system's number for it, once it has been launched."""
        return None if self.launched is None else self.launched.pid

    @property
    def may_ask_for_time(self) -> bool:
        """Whether it may put off its deadlines: a program that says itself when it is ready."""
        return self.command is not None and self.command.ready == "notify"

    @property
    def is_in_this_run(self) -> bool:
        """Whether it is a task of this very Trio run; see `LaunchedProcess.is_in_this_run`. True until its launch."""
        return self.launched is None or self.launched.is_in_this_run

    @property
    def result(self) -> JsonValue:
        """What it has completed with."""
        return self.life.result if self.life.state is ProcessState.COMPLETED else None

    def look_at_heartbeat(self) -> None:
        """Take in the latest heartbeat, where heartbeats count."""
        if self.launched is not None and self.life.phase is Phase.RUNNING:
            self.life.note_heartbeat(self.launched.last_heartbeat(), trio.current_time())
