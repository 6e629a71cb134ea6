"""One process: launch it, read it, judge it, stop it, kill it, reap it. Nobody else does any of that.

Theory of operation
-------------------

A `Supervisor` is one task with one nursery, shielded from beginning to end: what bounds it are its own deadlines, not
the patience of whoever waits for it. `run` is straight-line code:

1. Launch, under a scope that is cancelled at the startup deadline (`StartupMonitor`), and by a stop or a kill.
2. `Intake` reads the two lanes; the main task waits for the exit, and wakes up at each deadline, and for what has
   come on a lane that no task reads (`_until_exit`).
3. At the exit, or when the process is abandoned, all that it has sent is taken in, and the end is published.

What anything *means* is the table's business (`_lifecycle`). Whatever happens is said to it through `_feed`, at the
moment in which it happens and without waiting: frames by the readers, deadlines by the main task, stops by the host.
`_feed` then does what the table wants done (ask, kill) and publishes the transition. So each transition is
published by whoever caused it, in one step with it.

Deadlines are never trusted blindly. One that fires may fire because this program was late: `_judge` lets the loop
run once, takes in what the child has sent without waiting for more, looks at the heartbeat, and asks the table again.
Time in which this program stood still is left out besides (`_deadlines`).

There may be ten thousand of these. What most of them never use is made when it is needed, and the nursery and the scope
around the launch are what shields, too.

Back-pressure: `Intake` waits for room in the inbox before it reads, so that the rest stays in the pipe and
holds up this child alone. That pause is taken off the startup deadline. Once the process is stopping or ending,
reading goes on beyond the bound, since the terminal event never waits for a reader.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._errors import (
    LaunchError,
    PeerProtocolError,
    SpawnError,
    StartupCancelledError,
    StartupFailedError,
    StartupTimeoutError,
)
from spindle_trio._messages._hub import MessageHub
from spindle_trio._model import ExitReason, JsonValue, ProcessState
from spindle_trio._protocol._control_frames import (
    ChildFrame,
    Complete,
    Exiting,
    Fail,
    Heartbeat,
    Ready,
    Stopped,
    bounded_error,
    encode_init,
    encode_stop,
)
from spindle_trio._protocol._outbox import Outbox
from spindle_trio._supervision._deadlines import TimedProcess
from spindle_trio._supervision._intake import CONTROL_FRAMES_AT_A_TIME, Intake
from spindle_trio._supervision._lifecycle import Action, Input, Phase, Transition
from spindle_trio._supervision._post_mortems import LastWords, find_out, one_line
from spindle_trio._supervision._process_record import Identity, ProcessConfig
from spindle_trio.abc import ExitStatus

if TYPE_CHECKING:
    from spindle_trio.abc import LaunchedProcess, Launcher, LaunchOrder

_log = logging.getLogger("spindle_trio.supervisor")


@attrs.frozen
class Reports:
    """To whom a supervisor reports: one value for all processes of a worker."""

    publish: Callable[[Supervisor, Transition], None]
    """Tells everybody of a transition; does not wait."""
    release: Callable[[Supervisor], Callable[[], None]]
    """Frees key and slot, before the terminal event; returns what lets the successor go on after it."""
    launch_ended: Callable[[Supervisor], None]
    """Hears that the launch need not be watched any more, however it went; may be told twice."""
    note_stall: Callable[[], None]
    """Has everybody told whether this program has just stood still, before one of them is judged."""


class Supervisor(TimedProcess):
    """One process and the task that owns it."""

    __slots__ = (
        "_abandoned_wait",
        "_announced_messages",
        "_control",
        "_early",
        "_early_bytes",
        "_init",
        "_is_killing",
        "_last_words",
        "_launching",
        "_reports",
        "_stop_reason",
        "is_abandoned",
    )

    def __init__(
        self,
        identity: Identity,
        terms: ProcessConfig,
        *,
        payload: object,
        hub: MessageHub,
        reports: Reports,
    ) -> None:
        """Begin in `starting`, now.

        Args:
            identity: who it is.
            terms: what it lives under.
            payload: what its entry is given; has been checked.
            hub: where its messages are read.
            reports: to whom it reports.
        """
        super().__init__(identity, terms, hub)
        self._reports = reports
        self._init = encode_init(
            process_id=identity.process_id,
            entry=identity.entry,
            kind=identity.kind,
            key=identity.key,
            user_id=identity.user_id,
            payload=payload,
            metadata=identity.metadata,
            heartbeat_timeout=terms.heartbeat_timeout,
            limits=terms.limits,
        )
        self.is_abandoned: bool = False
        self._is_killing = False
        self._launching = trio.CancelScope(shield=True)
        self._abandoned_wait: trio.CancelScope | None = None
        self._control: Outbox | None = None
        self._early: list[bytes] | None = None  # posted before the launch
        self._early_bytes = 0
        self._stop_reason: str | None = None
        self._announced_messages = 0
        self._last_words: LastWords | None = None

    # What the worker and the host say.

    def post(self, payload: object) -> None:
        """Send a payload, or end the process as failed if it leaves too many unread."""
        body = self.encode(payload)
        self._refuse_ended()
        try:
            if self._launched is not None:
                self._message_outbox().send_nowait(body)
            else:
                self._early_bytes += len(body)
                if self._early_bytes > self._terms.limits.outbox_bytes:
                    raise trio.WouldBlock
                self._early = [*(self._early or ()), body]
        except trio.WouldBlock:
            self._feed(Input.BROKEN, text="its outbox overflowed: it does not read the messages that it is sent")

    def begin(self) -> None:
        """Publish `starting`."""
        self._reports.publish(self, self._lifecycle.begin())

    def stop(self, reason: str | None) -> None:
        """Ask it to stop, if nobody has; after the grace period it is killed."""
        self._request_stop(Input.STOP, reason)

    def host_stop(self, exit_reason: ExitReason) -> None:
        """Ask it to stop because it is replaced or unloaded, which will be its exit reason."""
        self._request_stop(Input.HOST_STOP, exit_reason.value, exit_reason)

    def kill(self) -> None:
        """Unload it without a grace period."""
        self._is_killing = True
        self.host_stop(ExitReason.BACKEND_UNLOADED)
        self._feed(Input.KILL)

    def caller_gone(self) -> None:
        """Kill it, since whoever wanted it has been cancelled."""
        self._feed(Input.CALLER_GONE)

    def crashed(self) -> None:
        """Let go whoever waits for it: the task that owned it has died of a bug."""
        self._answer(StartupFailedError)
        self.inbox.close()
        self.has_launched = self.has_ended = self.is_let_go = True
        self._wake_waiters()

    async def wait_let_go(self) -> None:
        """Wait until nothing is left of it, or it has been abandoned."""
        await self._wait_until(lambda: self.has_ended and (self.is_abandoned or self.is_let_go))

    def give_up(self) -> None:
        """Stop waiting for the exit of an abandoned process, so that the host can close."""
        if self._abandoned_wait is not None:
            self._abandoned_wait.cancel()

    def _request_stop(self, said: Input, reason: str | None, host_reason: ExitReason | None = None) -> None:
        if self._stop_reason is None and self._lifecycle.phase in (Phase.STARTING, Phase.RUNNING):
            self._stop_reason = reason
        self._feed(said, host_reason=host_reason)

    # The life of the process.

    @trio.lowlevel.enable_ki_protection
    async def run(self, launcher: Launcher, order: LaunchOrder) -> None:
        """Own the process from launch to reaping. Raises nothing for what a process does."""
        self.excuse_lateness(self._lifecycle.started_at)  # nothing has been done for it before this turn
        if self._lifecycle.phase is not Phase.STARTING:
            self._launching.cancel()
        failure: Exception | None = None
        with self._launching:
            try:
                async with launcher.launch(order) as launched:
                    await self._supervise(launched)
            except Exception as error:
                if self._launched is not None:
                    raise  # a bug of ours or of the launcher's, not a launch that failed
                failure = error
            finally:
                self._reports.launch_ended(self)
        if self._launched is None:
            self._conclude_unlaunched(failure)
        self.is_let_go = True
        self._wake_waiters()

    def end_late_launch(self) -> None:
        """End a launch that takes longer than the startup timeout; see `StartupMonitor`."""
        if self._lifecycle.due(trio.current_time()) is not None:
            self._launching.cancel()

    def _conclude_unlaunched(self, failure: Exception | None) -> None:
        if failure is not None:
            _log.info("process %s: the launch failed: %r", self.process_id, failure)
            self._feed(Input.LAUNCH_FAILED, text=one_line(f"{type(failure).__name__}: {failure}"))
        elif self._lifecycle.phase is Phase.STARTING:
            self._feed(Input.STARTUP_DEADLINE)
        else:
            self._feed(Input.EXIT)
        self._conclude(LaunchError if failure is not None else None)

    async def _supervise(self, launched: LaunchedProcess) -> None:
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.shield = True  # a kill that came in the last moment of the launch has cancelled that
            self._launched, self._nursery = launched, nursery
            self._reports.launch_ended(self)
            self._control = Outbox(launched.control, nursery.start_soon)
            self._say(self._init)
            self._init = b""
            for body in self._early or ():
                self._message_outbox().send_nowait(body)
            self._early = None
            self.has_launched = True
            self._wake_waiters()
            if self._lifecycle.is_settled:
                launched.kill()  # the caller went, or the host was killed, in the last moment of the launch
            elif self._lifecycle.phase is Phase.STOPPING:
                self._ask()
            terms = self._terms
            intake = self._intake = Intake(launched, self.inbox, terms.limits, terms.bounds, terms.reader, self)
            intake.start(nursery.start_soon)
            status = await self._until_exit(launched, intake, nursery)
            nursery.cancel_scope.cancel()
        if status is not None:
            self._noted.note_exit(status, self._lifecycle)
            intake.take_in_all()
            self._feed(Input.EXIT, text=self._noted.judge_exit(status, self._lifecycle))
        self._conclude(None)
        if self.is_abandoned:
            with trio.CancelScope(shield=True) as self._abandoned_wait:
                await launched.wait()

    async def _until_exit(self, launched: LaunchedProcess, intake: Intake, nursery: trio.Nursery) -> ExitStatus | None:
        """Wait for the exit, judging at each deadline; `None` if the process is abandoned."""
        while True:
            intake.take_in_news(nursery.start_soon)
            received = self.inbox.received
            with trio.CancelScope(deadline=self.next_look()) as self._nap:
                return await launched.wait()
            now, wake_at = trio.current_time(), self._nap.deadline  # which may have been put off
            is_due = self._lifecycle.due(now) is not None
            if now < wake_at and not is_due:
                continue  # woken for news, or since the deadline is another one now
            if launched.is_in_this_run:
                # Whatever became due together with this deadline runs before
                # it: the scheduler looks at deadlines during the first checkpoint, and runs whom they wake before it
                # comes back from the second. A process of the operating system needs nobody's turn for what it does.
                await trio.lowlevel.checkpoint()
                if is_due:
                    await trio.lowlevel.checkpoint()
            if launched.has_exited():
                return await launched.wait()
            # A process in this program's own run stands still with it, and is held up only where it had sent something.
            if not launched.is_in_this_run or self.inbox.received > received:
                if not launched.is_in_this_run:
                    self._reports.note_stall()
                self.excuse_lateness(wake_at)
            if is_due:
                self._judge(launched, intake)
            if self.is_abandoned:
                return None

    def next_look(self) -> float:
        """Tell when to look next; see `TimedProcess.next_look`."""
        if self._launched is None and self._launching.cancel_called:
            return math.inf  # the launch has been called off, and takes as long as it takes: nobody can do more
        return super().next_look()

    def _judge(self, launched: LaunchedProcess, intake: Intake) -> None:
        """Act on a deadline that has passed, once what was already sent has been taken in."""
        if self._lifecycle.due(trio.current_time()) is None:
            return
        intake.take_in_control(most=CONTROL_FRAMES_AT_A_TIME)
        self._look_at_heartbeat()
        intake.account_for_pause()
        due = self._lifecycle.due(trio.current_time())
        if due is Input.ABANDON_DEADLINE:
            pid = "" if launched.pid is None else f" (pid {launched.pid})"
            _log.error("process %s: SIGKILL has not ended it in time; abandoned%s", self.process_id, pid)
            self._feed(due, text=f"SIGKILL has not ended it in time, and it was abandoned{pid}")
        elif due is not None:
            self._feed(due)

    def _feed(
        self,
        said: Input,
        *,
        text: str | None = None,
        result: JsonValue = None,
        host_reason: ExitReason | None = None,
    ) -> None:
        """Tell the table what happened, do what it wants done, and publish the transition."""
        self._look_at_heartbeat()
        now = trio.current_time()
        step = self._lifecycle.feed(said, now, text=text, result=result, host_reason=host_reason)
        match step.action:
            case Action.ASK if self._is_killing:
                pass  # it would wake up to hear of it, in the moment in which it is killed
            case Action.ASK:
                self._ask()
            case Action.KILL if self._launched is not None:
                self._launched.kill()
            case Action.DUMP if self._launched is not None:
                if not self._launched.request_dump():
                    self._feed(Input.KILL)
            case Action.KILL | Action.DUMP:
                self._launching.cancel()
            case Action.ABANDON:
                self.is_abandoned = True
            case _:
                pass
        if step.transition is None and step.action is Action.NOTHING:
            return
        # The deadline may have changed, and a reader that waits for room need not wait any more.
        self.wake()
        self.inbox.wake_room()
        if step.transition is not None:
            self._reports.publish(self, step.transition)
            if step.transition.state is ProcessState.RUNNING:
                self._answer(None)
            elif step.transition.previous is ProcessState.STARTING:
                self._answer(StartupCancelledError)

    def _ask(self) -> None:
        if self._launched is None:
            self._launching.cancel()
            return
        self._say(encode_stop(self._stop_reason))
        self._launched.request_stop()

    def _say(self, body: bytes) -> None:
        assert self._control is not None, "a process that has been launched has a control lane"
        try:
            self._control.send_nowait(body)
        except trio.BrokenResourceError:
            pass  # it is gone, or has closed the lane: the exit, or the end of the lane, tells the rest

    def _answer(self, refusal: type[SpawnError] | None) -> None:
        if not self.is_answered:
            self._refusal = refusal
            self.is_answered = True
            self._wake_waiters()

    # What the process says.

    def hear(self, frame: ChildFrame) -> None:
        """Take in one control frame."""
        match frame:
            case Ready():
                self._feed(Input.READY)
            case Heartbeat():
                if self._lifecycle.phase is Phase.RUNNING:  # as a page is looked at: the watchdog ends with `running`
                    now = trio.current_time()
                    self._lifecycle.note_heartbeat(now, now)
            case Complete(result, messages):
                self._announced_messages = messages
                self._feed(Input.COMPLETE, result=result)
            case Fail(text, messages, traceback):
                self._announced_messages = messages
                if not self._lifecycle.is_settled:
                    self._noted.traceback = traceback
                self._feed(Input.FAIL, text=bounded_error(text, self._terms.limits))
            case Stopped(messages):
                self._announced_messages = messages
                self._feed(Input.REPORTED_STOPPED)
            case Exiting(messages, code):
                # All that is left of it is its tree. Killing it hides the status, which therefore comes with the frame.
                self._announced_messages, status = messages, ExitStatus(code=code)
                self._noted.note_exit(status, self._lifecycle)
                self._feed(Input.EXIT, text=self._noted.judge_exit(status, self._lifecycle))
                self._feed(Input.KILL)

    def control_ended(self) -> None:
        assert self._launched is not None, "a lane is read once the process has been launched"
        self._lifecycle.note_control_closed(trio.current_time(), self._launched.control_patience)
        self.wake()

    def breach(self, error: PeerProtocolError) -> None:
        _log.info("process %s: broke the protocol: %s", self.process_id, error)
        self._feed(Input.BROKEN, text=one_line(f"broke the protocol: {error}"))

    @property
    def is_starting(self) -> bool:
        """Whether it has still to say `ready`."""
        return self._lifecycle.phase is Phase.STARTING

    @property
    def reads_on(self) -> bool:
        """Whether reading goes on beyond the bound: the end waits for no reader."""
        return self._lifecycle.phase not in (Phase.STARTING, Phase.RUNNING)

    # The end.

    @property
    def _noted(self) -> LastWords:
        """What has been noted of its end."""
        if self._last_words is None:
            self._last_words = LastWords()
        return self._last_words

    def _conclude(self, refusal: type[SpawnError] | None) -> None:
        """Free what the process held, publish its end, and let those go on who wait for it."""
        lost = self._announced_messages - self.inbox.received
        self._post_mortem = find_out(self._lifecycle, self._launched, self._noted, lost)
        self._last_words = None
        transition = self._lifecycle.conclude(trio.current_time())
        pass_turn = self._reports.release(self)
        for outbox in (self._control, self._outbox):
            if outbox is not None:
                outbox.close()
        self._reports.publish(self, transition)
        self.inbox.close()
        self.has_launched = self.has_ended = True
        if refusal is None:
            refusal = StartupTimeoutError if transition.state is ProcessState.TIMED_OUT else StartupFailedError
        self._answer(refusal)
        self._wake_waiters()
        pass_turn()
