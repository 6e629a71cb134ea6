"""What is known of one process: who it is, where it is in its life, and what its lanes hold.

A `ProcessRecord` is what the registry lists and handles read. It only tells; `Supervisor`, which is one, acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._frames import encode_body
from spindle_trio._inbox import Inbox, MessageHub
from spindle_trio._lifecycle import Lifecycle, Phase
from spindle_trio._model import JsonValue, Limits, ProcessInfo, ProcessState, ProcessStatistics
from spindle_trio._payload import bounds_of, check_payload

if TYPE_CHECKING:
    from spindle_trio._outbox import Outbox
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
class Terms:
    """The periods and bounds that a process lives under, and its host's clock."""

    startup_timeout: float
    heartbeat_timeout: float
    grace_period: float
    limits: Limits
    wall_time: Callable[[float], datetime]
    """Turns a time on Trio's clock into wall time."""


class ProcessRecord:
    """One process, as its worker and its handles see it. Implements `ProcessPort`."""

    def __init__(self, identity: Identity, terms: Terms, hub: MessageHub) -> None:
        """Begin in `starting`, now.

        Args:
            identity: who it is.
            terms: what it lives under.
            hub: where its messages are read.
        """
        self.identity = identity
        self._terms = terms
        self._bounds = bounds_of(terms.limits)
        self._lifecycle = Lifecycle(
            startup_timeout=terms.startup_timeout,
            heartbeat_timeout=terms.heartbeat_timeout,
            grace_period=terms.grace_period,
            now=trio.current_time(),
        )
        self.inbox = Inbox(
            identity.process_id,
            identity.user_id,
            max_messages=terms.limits.inbox_messages,
            max_bytes=terms.limits.inbox_bytes,
            hub=hub,
        )
        self.ended = trio.Event()
        """Set once the terminal event has been published."""
        self._launched: LaunchedProcess | None = None
        self._has_launched = trio.Event()
        self._outbox: Outbox | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state} {self.identity.entry} {self.process_id} pid={self.pid}>"

    @property
    def process_id(self) -> str:
        """The host's id for it."""
        return self.identity.process_id

    @property
    def user_id(self) -> str | None:
        """Whose process it is."""
        return self.identity.user_id

    @property
    def kind(self) -> str:
        """Its label."""
        return self.identity.kind

    @property
    def key(self) -> str | None:
        """Its key."""
        return self.identity.key

    @property
    def pid(self) -> int | None:
        """The operating system's number for it, once it has been launched."""
        return self._launched.pid if self._launched is not None else None

    @property
    def state(self) -> ProcessState:
        """Where it is in its life."""
        return self._lifecycle.state

    @property
    def result(self) -> JsonValue:
        """What it has completed with."""
        return self._lifecycle.result if self.state is ProcessState.COMPLETED else None

    @property
    def info(self) -> ProcessInfo:
        """A snapshot, with the heartbeat as of now."""
        self._look_at_heartbeat()
        life, wall_time = self._lifecycle, self._terms.wall_time
        return ProcessInfo(
            process_id=self.process_id,
            entry=self.identity.entry,
            kind=self.kind,
            key=self.key,
            state=life.state,
            user_id=self.user_id,
            metadata=self.identity.metadata,
            started_at=wall_time(life.started_at),
            ready_at=None if life.ready_at is None else wall_time(life.ready_at),
            last_heartbeat_at=None if life.heartbeat_at is None else wall_time(life.heartbeat_at),
            ended_at=None if life.ended_at is None else wall_time(life.ended_at),
            exit_reason=life.exit_reason,
            error=life.error if life.state.is_terminal else None,
        )

    def statistics(self) -> ProcessStatistics:
        """Count what its lanes hold."""
        inbox, outbox = self.inbox, self._outbox
        return ProcessStatistics(
            messages_received=inbox.received,
            messages_dropped=inbox.dropped,
            inbox_messages=inbox.held,
            inbox_bytes=inbox.held_bytes,
            subscriptions=inbox.subscriptions,
            outbox_messages=0 if outbox is None else outbox.messages,
            outbox_bytes=0 if outbox is None else outbox.waiting_bytes,
            output_dropped=0 if self._launched is None else self._launched.output_dropped(),
        )

    def encode(self, payload: object) -> bytes:
        """Check a payload and write it as a frame's body.

        Raises:
            PayloadError: it is not JSON-safe, or over a limit.
        """
        check_payload(payload, self._bounds)
        return encode_body(payload, self._terms.limits.frame_bytes)

    async def send(self, payload: object) -> None:
        """Send a payload as soon as there is room; see `ProcessHandle.send`."""
        body = self.encode(payload)
        self._refuse_ended()
        if self._outbox is None:
            await self._has_launched.wait()
            self._refuse_ended()
        assert self._outbox is not None, "a process that has been launched has an outbox until it ends"
        try:
            await self._outbox.send(body)
        except trio.BrokenResourceError:
            raise self._broken() from None

    def send_nowait(self, payload: object) -> None:
        """Send a payload if there is room; see `ProcessHandle.send_nowait`."""
        body = self.encode(payload)
        self._refuse_ended()
        if self._outbox is None:
            raise trio.WouldBlock
        try:
            self._outbox.send_nowait(body)
        except trio.BrokenResourceError:
            raise self._broken() from None

    def _refuse_ended(self) -> None:
        if self.state.is_terminal:
            raise self._broken()

    def _broken(self) -> trio.BrokenResourceError:
        """Say which process a message cannot reach any more, and why."""
        text = f"process {self.process_id} ({self.identity.entry}) is {self.state}"
        return trio.BrokenResourceError(text if self.state.is_terminal else f"{text} and takes no messages any more")

    async def wait_ended(self) -> ProcessInfo:
        """Wait for the terminal event to be published."""
        await self.ended.wait()
        return self.info

    def _look_at_heartbeat(self) -> None:
        if self._launched is not None and self._lifecycle.phase is Phase.RUNNING:
            self._lifecycle.note_heartbeat(self._launched.last_heartbeat(), trio.current_time())
