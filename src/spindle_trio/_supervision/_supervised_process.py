"""One process as its worker and its handles see it: every operation on it that does not wait.

Every event of a process goes to the table (`_state_table`) through `SupervisedProcess.feed` at the moment it happens:
the supervisor feeds frames and deadlines, the host feeds stops. `feed` does what the table says (ask, kill), and then
publishes the transition. So the cause and the publication of a transition are one step.

There may be ten thousand of these. Parts that most of them never use are made on demand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._errors import SpawnError, StartupCancelledError, StartupFailedError, StartupTimeoutError
from spindle_trio._messages._hub import MessageHub
from spindle_trio._messages._inbox import Inbox
from spindle_trio._model import (
    ExitReason,
    JsonValue,
    PostMortem,
    ProcessInfo,
    ProcessState,
    ProcessStatistics,
    StopOptions,
)
from spindle_trio._protocol._control_frames import encode_stop
from spindle_trio._protocol._payload import check_text
from spindle_trio._supervision._deadlines import Deadlines
from spindle_trio._supervision._lifecycle import Transition
from spindle_trio._supervision._outgoing import Outgoing
from spindle_trio._supervision._snapshots import refuse_spawn, take_snapshot
from spindle_trio._supervision._state_table import Action, Input, Phase

if TYPE_CHECKING:
    from spindle_trio._host._claims import Claim
    from spindle_trio._model._usage import Usage
    from spindle_trio._supervision._calls import ProcessCalls
    from spindle_trio._supervision._process_record import ProcessRecord
    from spindle_trio.abc import LaunchedProcess


@attrs.frozen
class Reports:
    """Where a process reports to: one value for all processes of a worker."""

    publish: Callable[[SupervisedProcess, Transition], None]
    """Publishes a transition; does not wait."""
    release: Callable[[SupervisedProcess], Callable[[], None]]
    """Frees key and slot before the terminal event; returns a function that lets the successor go on after it."""
    launch_ended: Callable[[Deadlines], None]
    """Ends the watch over a launch, whatever its outcome; may be called twice."""
    note_stall: Callable[[], None]
    """Extends the deadlines of all processes if this program was just stalled, before one of them is judged."""


class SupervisedProcess:
    """One process. Implements `ProcessInterface`."""

    __slots__ = (
        "__weakref__",
        "_answered",
        "_calls",
        "_ended",
        "_init",
        "_is_killing",
        "_let_go",
        "_outgoing",
        "_refusal",
        "_stop_reason",
        "abandoned_wait",
        "claim",
        "deadlines",
        "inbox",
        "is_abandoned",
        "record",
        "reports",
    )

    def __init__(self, record: ProcessRecord, *, init: bytes, hub: MessageHub, reports: Reports) -> None:
        """Begin in `starting`, now.

        Args:
            record: who it is, and where in its life.
            init: the first frame that it is sent.
            hub: where its messages are read.
            reports: to whom it reports.
        """
        identity, limits = record.identity, record.config.limits
        self.record = record
        self.deadlines = Deadlines(record)
        self.inbox = Inbox(
            identity.process_id,
            identity.user_id,
            max_messages=limits.inbox_messages,
            max_bytes=limits.inbox_bytes,
            hub=hub,
        )
        self.claim: Claim | None = None
        """The claim that it lives under, until its end; its worker manages it."""
        self.is_abandoned: bool = False
        self.abandoned_wait: trio.CancelScope | None = None
        """The scope in which its supervisor waits for an exit that may never come."""
        self._outgoing = Outgoing(record)
        self._calls: ProcessCalls | None = None
        self._answered = trio.Event()  # `spawn` can return or raise
        self._refusal: type[SpawnError] | None = None
        self._ended = trio.Event()  # the terminal event has been published
        self._let_go = trio.Event()  # its launch block has been left, so that no descriptor is held for it any more
        self.reports = reports
        self._init = init
        self._is_killing = False
        self._stop_reason: str | None = None

    def __repr__(self) -> str:
        return f"<SupervisedProcess {self.state} {self.record.identity.entry} {self.process_id} pid={self.pid}>"

    # What is known of it.

    @property
    def process_id(self) -> str:
        """The host's id for it."""
        return self.record.identity.process_id

    @property
    def user_id(self) -> str | None:
        """The owner of the process."""
        return self.record.identity.user_id

    @property
    def kind(self) -> str:
        """Its label."""
        return self.record.identity.kind

    @property
    def key(self) -> str | None:
        """Its key."""
        return self.record.identity.key

    @property
    def pid(self) -> int | None:
        """The operating system's number for it, once it has been launched."""
        return self.record.pid

    @property
    def state(self) -> ProcessState:
        """Where it is in its life."""
        return self.record.life.state

    @property
    def result(self) -> JsonValue:
        """The result that it completed with; `None` before that."""
        return self.record.result

    @property
    def post_mortem(self) -> PostMortem | None:
        """Explains its end, if nobody asked for that end."""
        return self.record.post_mortem

    @property
    def info(self) -> ProcessInfo:
        """A snapshot, with the heartbeat as of now."""
        return take_snapshot(self.record)

    def statistics(self) -> ProcessStatistics:
        """Count what its lanes hold."""
        inbox, outgoing, launched, calls = self.inbox, self._outgoing, self.record.launched, self._calls
        return ProcessStatistics(
            messages_received=inbox.received,
            messages_dropped=inbox.dropped,
            inbox_messages=inbox.held,
            inbox_bytes=inbox.held_bytes,
            subscriptions=inbox.subscriptions,
            outbox_messages=outgoing.waiting_messages,
            outbox_bytes=outgoing.waiting_bytes,
            output_dropped=0 if launched is None else launched.output_dropped(),
            calls=0 if calls is None else calls.pending,
            late_answers=0 if calls is None else calls.late,
        )

    def usage(self) -> Usage:
        """Look at what it uses now, with all that it has started."""
        from spindle_trio._model._usage import Usage  # most programs never ask

        launched = self.record.launched
        return (None if launched is None else launched.usage()) or Usage()

    @property
    def calls(self) -> ProcessCalls:
        """Its calls; made when they are first asked for."""
        if self._calls is None:
            from spindle_trio._supervision._calls import ProcessCalls  # most processes have none

            self._calls = ProcessCalls(
                self.record, self._outgoing, self.deadlines, self.feed, answered=self._answered, ended=self._ended
            )
        return self._calls

    # What the worker and the host say.

    async def send(self, payload: object) -> None:
        """Send a payload as soon as there is room; see `ProcessHandle.send`."""
        await self._outgoing.send(payload)
        if not self.record.is_in_this_run:
            self.inbox.note_sent()

    def send_nowait(self, payload: object) -> None:
        """Send a payload if there is room; see `ProcessHandle.send_nowait`."""
        self._outgoing.send_nowait(payload)

    def post(self, payload: object) -> None:
        """Send a payload, or end the process as failed if it leaves too many unread."""
        try:
            self._outgoing.post(payload)
        except trio.WouldBlock:
            self.feed(Input.BROKEN, text="its outbox overflowed: it does not read the messages that it is sent")

    def begin(self) -> None:
        """Publish `starting`."""
        self.reports.publish(self, self.record.life.begin())

    async def stop(self, options: StopOptions) -> None:
        """Ask it to stop, and wait until it is gone; see `ProcessHandle.stop`."""
        self.request_stop(options)
        await self.wait_ended()

    def request_stop(self, options: StopOptions) -> None:
        """Ask it to stop, if nobody has; after the grace period it is killed. Does nothing after its end.

        Args:
            options: a reason for its stop handler; and a grace period instead of its own: 0 kills it at once, and one
                that runs already becomes shorter.

        Raises:
            PayloadError: the reason is over its limit, or no text that a frame can carry.
        """
        if not self.state.is_terminal:
            check_text("reason", options.reason, self.record.config.limits.reason_bytes)
            self._take_stop(Input.STOP, options.reason or None, grace=options.grace, keeps_key=options.keep_key)

    def replace(self, grace: float | None) -> None:
        """Ask it to stop because another one takes its key. One that is past its heartbeat deadline is killed."""
        if not self.record.is_in_this_run:
            self.reports.note_stall()
        self.record.look_at_heartbeat()
        if self.record.life.is_overdue(trio.current_time()):
            grace = 0
        self._take_stop(Input.HOST_STOP, ExitReason.REPLACED, ExitReason.REPLACED, grace=grace)

    def unload(self, most_grace: float) -> None:
        """Ask it to stop because its worker closes, within its own grace period and no more than this."""
        self.record.life.refuse_time()
        grace, reason = min(self.record.life.grace_period, most_grace), ExitReason.BACKEND_UNLOADED
        self._take_stop(Input.HOST_STOP, reason, reason, grace=grace, may_kill=False)

    def kill(self) -> None:
        """Unload it without a grace period."""
        self._take_stop(Input.HOST_STOP, None, ExitReason.BACKEND_UNLOADED, grace=0)

    def caller_gone(self) -> None:
        """Kill it, since the caller of `spawn` was cancelled."""
        if self.claim is not None:
            self.claim.give_back_key()
        self.feed(Input.CALLER_GONE)

    def crashed(self) -> None:
        """Release its waiters: the task that owned it crashed."""
        self._answer(StartupFailedError)
        self._outgoing.close()
        self.inbox.close()
        self._release()
        self._let_go.set()

    async def wait_answered(self) -> SpawnError | None:
        """Wait until it is ready or cannot become it, and return the error that `spawn` raises in the latter case."""
        await self._answered.wait()
        return None if self._refusal is None else refuse_spawn(self.record, self._refusal)

    async def wait_ended(self) -> ProcessInfo:
        """Wait for the terminal event to be published."""
        await self._ended.wait()
        return self.info

    async def wait_let_go(self) -> None:
        """Wait until it has been reaped or abandoned."""
        await self._ended.wait()
        await self._let_go.wait()

    def give_up(self) -> None:
        """Stop waiting for the exit of an abandoned process, so that the host can close."""
        if self.abandoned_wait is not None:
            self.abandoned_wait.cancel()

    def _take_stop(
        self,
        said: Input,
        reason: str | None,
        host_reason: ExitReason | None = None,
        *,
        grace: float | None,
        may_kill: bool = True,
        keeps_key: bool = False,
    ) -> None:
        if not keeps_key and self.claim is not None:
            self.claim.free_key()
        if self._stop_reason is None and self.record.life.phase in (Phase.STARTING, Phase.RUNNING):
            self._stop_reason = reason
        kills = may_kill and grace == 0
        self._is_killing = self._is_killing or kills
        self.feed(said, host_reason=host_reason, grace=None if kills else grace)
        if kills:
            self.feed(Input.KILL)
        elif grace is not None:
            self.deadlines.follow()  # a grace period that runs may have become shorter

    # Its life.

    def launched(self, launched: LaunchedProcess, nursery: trio.Nursery) -> None:
        """Note that it exists, and say what waited for that.

        Args:
            launched: the process.
            nursery: lives as long as it.
        """
        self.record.launched = launched
        self.reports.launch_ended(self.deadlines)
        self._outgoing.open(launched, nursery, self._init)
        self._init = b""
        if self.record.life.is_settled:
            launched.kill()  # the caller went, or the host was killed, in the last moment of the launch
        elif self.record.life.phase is Phase.STOPPING:
            self._ask()

    def feed(
        self,
        said: Input,
        *,
        text: str | None = None,
        result: JsonValue = None,
        host_reason: ExitReason | None = None,
        grace: float | None = None,
    ) -> None:
        """Feed an input to the table, act on its answer, and publish the transition; see `Lifecycle.feed`."""
        self.record.look_at_heartbeat()
        now = trio.current_time()
        step = self.record.life.feed(said, now, text=text, result=result, host_reason=host_reason, grace=grace)
        match step.action:
            case Action.ASK if self._is_killing:
                pass  # it would only wake up to be killed
            case Action.ASK:
                self._ask()
            case Action.KILL if self.record.launched is not None:
                self.record.launched.kill()
            case Action.DUMP if self.record.launched is not None:
                if not self.record.launched.request_dump():
                    self.feed(Input.KILL)
            case Action.KILL | Action.DUMP:
                self.deadlines.startup_scope.cancel()
            case Action.ABANDON:
                self.is_abandoned = True
            case _:
                pass
        if step.transition is None and step.action is Action.NOTHING:
            return
        # The deadline may have changed, and a reader that waits for room need not wait any more.
        self.deadlines.follow()
        self.inbox.wake_room()
        if self._calls is not None:
            self._calls.follow()
        if step.transition is not None:
            self.reports.publish(self, step.transition)
            if step.transition.state is ProcessState.RUNNING:
                self._answer(None)
            elif step.transition.previous is ProcessState.STARTING:
                self._answer(StartupCancelledError)

    def _answer(self, refusal: type[SpawnError] | None) -> None:
        """Let `spawn` return, or raise an error of a kind. The first answer stays."""
        if not self._answered.is_set():
            self._refusal = refusal
            self._answered.set()

    def _release(self) -> None:
        """Wake those who wait for its end, and for answers that will not come."""
        self._ended.set()
        if self._calls is not None:
            self._calls.end()

    def note_concurrency(self, concurrency: int | None) -> None:
        """Note how many calls it serves at a time from now on."""
        if self._calls is None:
            self.record.concurrency = concurrency
        else:
            self._calls.note_concurrency(concurrency)

    def grant_time(self, seconds: float) -> None:
        """Put off its startup deadline, or its kill: so many seconds from now on, if it may have them."""
        if self.record.life.grant_time(seconds, trio.current_time()):
            self.deadlines.follow()

    def take_in_calls(self) -> None:
        """Take in what it has sent on its calls lane, without waiting."""
        if self._calls is not None:
            self._calls.take_in()

    def _ask(self) -> None:
        if self.record.launched is None:
            self.deadlines.startup_scope.cancel()
            return
        self._outgoing.say(encode_stop(self._stop_reason))
        self.record.launched.request_stop()

    def let_go(self) -> None:
        """Note that its launch block has been left: nothing is held for it any more."""
        self._let_go.set()

    def conclude(self, post_mortem: PostMortem | None, refusal: type[SpawnError] | None) -> None:
        """Free what it held, publish its end, and release its waiters.

        Args:
            post_mortem: explains its end, if nobody asked for that.
            refusal: what `spawn` raises if it was not ready, unless that follows from its end.
        """
        self.record.post_mortem = post_mortem
        transition = self.record.life.conclude(trio.current_time())
        pass_turn = self.reports.release(self)
        self._outgoing.close()
        self.reports.publish(self, transition)
        self.inbox.close()
        if refusal is None:
            refusal = StartupTimeoutError if transition.state is ProcessState.TIMED_OUT else StartupFailedError
        self._answer(refusal)
        self._release()
        if self.is_abandoned:
            self._let_go.set()
        pass_turn()
