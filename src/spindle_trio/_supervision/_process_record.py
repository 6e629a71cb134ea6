"""What is known of one process: who it is, where it is in its life, and what its lanes hold.

A `ProcessRecord` is what the registry lists and handles read. It only tells; `Supervisor`, which is one, acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

import attrs
import trio

from spindle_trio._errors import (
    LaunchError,
    SpawnError,
    StartupCancelledError,
    StartupFailedError,
    StartupTimeoutError,
)
from spindle_trio._messages._hub import MessageHub
from spindle_trio._messages._inbox import Inbox
from spindle_trio._model import (
    JsonValue,
    LifecycleEvent,
    Limits,
    PostMortem,
    ProcessInfo,
    ProcessState,
    ProcessStatistics,
)
from spindle_trio._protocol._json_codec import BodyReader, write_body
from spindle_trio._protocol._outbox import Outbox
from spindle_trio._protocol._payload import PayloadBounds, check_payload
from spindle_trio._supervision._lifecycle import Lifecycle, Phase, Transition

if TYPE_CHECKING:
    from spindle_trio._host._registry import Claim
    from spindle_trio.abc import LaunchedProcess


_NEVER_READY: Final = (
    "it never called process.ready(); call that as soon as the entry can work, before it returns or completes"
    " (its result is the error's .result)"
)
"""Why a process whose entry has simply run to its end has failed to start, and what to do."""


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
    """The periods and bounds that a process lives under, and its host's clock."""

    startup_timeout: float
    heartbeat_timeout: float
    grace_period: float
    limits: Limits
    bounds: PayloadBounds
    """Those of the limits that payloads must keep to."""
    reader: BodyReader
    """Reads messages under these bounds."""
    wall_time: Callable[[float], datetime]
    """Turns a time on Trio's clock into wall time."""


class ProcessRecord:
    """One process, as its worker and its handles see it. Implements `ProcessInterface`."""

    __slots__ = (
        "__weakref__",
        "_launched",
        "_lifecycle",
        "_nursery",
        "_outbox",
        "_post_mortem",
        "_refusal",
        "_terms",
        "_waiters",
        "claim",
        "has_ended",
        "has_launched",
        "identity",
        "inbox",
        "is_answered",
        "is_let_go",
    )

    def __init__(self, identity: Identity, terms: ProcessConfig, hub: MessageHub) -> None:
        """Begin in `starting`, now.

        Args:
            identity: who it is.
            terms: what it lives under.
            hub: where its messages are read.
        """
        self.identity = identity
        self._terms = terms
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
        self.claim: Claim | None = None
        """Under which it lives; its worker's affair."""
        self._launched: LaunchedProcess | None = None
        self._nursery: trio.Nursery | None = None  # once it has been launched
        self._outbox: Outbox | None = None
        self._post_mortem: PostMortem | None = None
        self._refusal: type[SpawnError] | None = None
        # What it has come to. One place to wait for all of it, made for the first who waits: four events would cost
        # more than all the rest of a process that nobody waits for.
        self.is_answered: bool = False
        """Whether `spawn` can return or raise."""
        self.has_launched: bool = False
        """Whether the launch is over, however it went."""
        self.has_ended: bool = False
        """Whether the terminal event has been published."""
        self.is_let_go: bool = False
        """Whether its launch block has been left as well, so that no descriptor is held for it any more."""
        self._waiters: trio.lowlevel.ParkingLot | None = None

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
    def heartbeat_timeout(self) -> float:
        """Seconds that may pass between two heartbeats; `math.inf` where nobody watches."""
        return self._terms.heartbeat_timeout

    @property
    def pid(self) -> int | None:
        """The operating system's number for it, once it has been launched."""
        return self._launched.pid if self._launched is not None else None

    @property
    def is_in_this_run(self) -> bool:
        """Whether it is a task of this very Trio run; see `LaunchedProcess.is_in_this_run`. True until its launch."""
        return self._launched is None or self._launched.is_in_this_run

    @property
    def state(self) -> ProcessState:
        """Where it is in its life."""
        return self._lifecycle.state

    @property
    def result(self) -> JsonValue:
        """What it has completed with."""
        return self._lifecycle.result if self.state is ProcessState.COMPLETED else None

    @property
    def post_mortem(self) -> PostMortem | None:
        """Explains its end, if nobody asked for that."""
        return self._post_mortem

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

    def event(self, transition: Transition) -> LifecycleEvent:
        """Write one of its transitions as what subscribers are told."""
        identity = self.identity
        return LifecycleEvent(
            process_id=identity.process_id,
            entry=identity.entry,
            kind=identity.kind,
            key=identity.key,
            user_id=identity.user_id,
            metadata=identity.metadata,
            state=transition.state,
            previous_state=transition.previous,
            at=self._terms.wall_time(transition.at),
            exit_reason=transition.exit_reason,
            error=self._whole_error() if transition.state.is_terminal else transition.error,
            result=transition.result,
            post_mortem=self._post_mortem,
        )

    def _whole_error(self) -> str | None:
        """Return the text of the post-mortem; the one line alone where that would be over a limit."""
        if self._post_mortem is None:
            return self._lifecycle.error
        text, most = str(self._post_mortem), self._terms.limits.error_bytes
        return text if most is None or len(text.encode()) <= most else self._post_mortem.error

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
        check_payload(payload, self._terms.bounds)
        return write_body(payload, self._terms.limits.frame_bytes)

    async def send(self, payload: object) -> None:
        """Send a payload as soon as there is room; see `ProcessHandle.send`."""
        body = self.encode(payload)
        self._refuse_ended()
        if self._launched is None:
            await self._wait_until(lambda: self.has_launched)
            self._refuse_ended()
        try:
            await self._message_outbox().send(body)
        except trio.BrokenResourceError:
            raise self._broken() from None

    def send_nowait(self, payload: object) -> None:
        """Send a payload if there is room; see `ProcessHandle.send_nowait`."""
        body = self.encode(payload)
        self._refuse_ended()
        if self._launched is None:
            raise trio.WouldBlock
        try:
            self._message_outbox().send_nowait(body, joins=True)
        except trio.BrokenResourceError:
            raise self._broken() from None

    def _message_outbox(self) -> Outbox:
        """What messages to it wait in, made for the first one. There is none before the launch."""
        if self._outbox is None:
            assert self._launched is not None, "a message waits until it has been launched"
            assert self._nursery is not None, "what has been launched has a nursery"
            self._outbox = Outbox(self._launched.messages, self._nursery.start_soon, self._terms.limits.outbox_bytes)
        return self._outbox

    def _refuse_ended(self) -> None:
        if self.state.is_terminal:
            raise self._broken()

    def _broken(self) -> trio.BrokenResourceError:
        """Say which process a message cannot reach any more, and why."""
        text = f"process {self.process_id} ({self.identity.entry}) is {self.state}"
        return trio.BrokenResourceError(text if self.state.is_terminal else f"{text} and takes no messages any more")

    async def wait_ended(self) -> ProcessInfo:
        """Wait for the terminal event to be published."""
        await self._wait_until(lambda: self.has_ended)
        return self.info

    async def wait_answered(self) -> SpawnError | None:
        """Wait until it is ready or cannot become it, and return the error that `spawn` raises in the latter case."""
        await self._wait_until(lambda: self.is_answered)
        return self._make_refusal()

    async def _wait_until(self, has_come: Callable[[], bool]) -> None:
        if has_come():
            await trio.lowlevel.checkpoint()
        while not has_come():
            if self._waiters is None:
                self._waiters = trio.lowlevel.ParkingLot()
            await self._waiters.park()

    def _wake_waiters(self) -> None:
        """Let those look again who wait until something has come."""
        if self._waiters is not None:
            self._waiters.unpark_all()

    def _make_refusal(self) -> SpawnError | None:
        """Make the error that `spawn` raises; `None` if the process became ready."""
        if self._refusal is None:
            return None
        info, who = self.info, f"{self.identity.entry} ({self.process_id})"
        if self._refusal is StartupCancelledError:
            why = self._lifecycle.host_reason or "stopped"
            return StartupCancelledError(f"{who} was stopped before it was ready ({why})", info=info)
        if self._refusal is StartupTimeoutError:
            advice = "call process.ready() earlier, or give it a longer startup_timeout"
            if self._launched is None:
                advice = "its launch was still under way, so something stands still: the machine, or the fork server"
            return StartupTimeoutError(self._explain(f"{who} timed out: {info.error}; {advice}"), info=info)
        if self._refusal is LaunchError:
            return LaunchError(f"{who} could not be launched: {info.error}", info=info)
        why = _NEVER_READY if info.state is ProcessState.COMPLETED else info.error or "no error"
        text = self._explain(f"{who} {info.state} before it was ready: {why}")
        return StartupFailedError(text, info=info, result=self.result)

    def _explain(self, text: str) -> str:
        """Put what else the post-mortem has below a text."""
        return text if self._post_mortem is None else str(attrs.evolve(self._post_mortem, error=text))

    def _look_at_heartbeat(self) -> None:
        if self._launched is not None and self._lifecycle.phase is Phase.RUNNING:
            self._lifecycle.note_heartbeat(self._launched.last_heartbeat(), trio.current_time())
