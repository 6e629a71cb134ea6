"""One process: launch it, read it, judge it, stop it, kill it, reap it. Nobody else does any of that.

Theory of operation
-------------------

A `Supervisor` is one task with one nursery, shielded from beginning to end: what bounds it are its own deadlines, not
the patience of whoever waits for it. `run` is straight-line code:

1. Launch, under a scope that `watch_launch` cancels at the startup deadline, and a stop or a kill that comes meanwhile.
2. Two tasks read the two lanes (`Intake`); the main task waits for the exit, and wakes up at each deadline
   (`_until_exit`).
3. At the exit, or when the process is abandoned, all that it has sent is taken in, and the end is published.

What anything *means* is the table's business (`_lifecycle`). Whatever happens is said to it through `_feed`, at the
moment in which it happens and without waiting: frames by the readers, deadlines by the main task, stops by the host.
`_feed` then does what the table wants done (ask, kill) and publishes the transition. So each transition is
published by whoever caused it, in one step with it.

Deadlines are never trusted blindly. One that fires may fire because this program was late: `_judge` lets the loop
run once, takes in what the child has sent without waiting for more, looks at the heartbeat, and asks the table again.
The startup deadline is slept out in slices besides, so that time in which this program stood still can be left out.

Back-pressure: `Intake` waits for room in the inbox before it reads, so that the rest stays in the pipe and
holds up this child alone. That pause is taken off the startup deadline. Once the process is stopping or ending,
reading goes on beyond the bound, since the terminal event never waits for a reader.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._control import (
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
from spindle_trio._errors import (
    LaunchError,
    PeerProtocolError,
    SpawnError,
    StartupCancelledError,
    StartupFailedError,
    StartupTimeoutError,
)
from spindle_trio._inbox import MessageHub
from spindle_trio._intake import CONTROL_FRAMES_AT_A_TIME, Intake
from spindle_trio._lifecycle import Action, Input, Phase, Transition
from spindle_trio._model import (
    ExitReason,
    JsonValue,
    LifecycleEvent,
    ProcessState,
)
from spindle_trio._outbox import Outbox
from spindle_trio._process_record import Identity, ProcessRecord, Terms
from spindle_trio.abc import ExitStatus

if TYPE_CHECKING:
    from spindle_trio.abc import LaunchedProcess, Launcher, LaunchOrder

_log = logging.getLogger("spindle_trio.supervisor")

STARTUP_SLICES: Final = 20
"""Into how many parts a startup deadline is cut; a pause of this program costs the process one of them at most."""


class Supervisor(ProcessRecord):
    """One process and the task that owns it."""

    def __init__(
        self,
        identity: Identity,
        terms: Terms,
        *,
        payload: object,
        hub: MessageHub,
        publish: Callable[[LifecycleEvent], None],
        release: Callable[[], Callable[[], None]],
    ) -> None:
        """Begin in `starting`, now.

        Args:
            identity: who it is.
            terms: what it lives under.
            payload: what its entry is given; has been checked.
            hub: where its messages are read.
            publish: tells everybody of a transition; does not wait.
            release: frees key and slot, before the terminal event; returns what lets the successor go on after it.
        """
        super().__init__(identity, terms, hub)
        self._publish = publish
        self._release = release
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
        self.answered = trio.Event()
        """Set once `spawn` can return or raise."""
        self.let_go = trio.Event()
        """Set once its launch block has been left as well, so that no descriptor is held for it any more."""
        self.is_abandoned = False
        self._refusal: type[SpawnError] | None = None
        self._launching = trio.CancelScope()
        self._launch_watch = trio.CancelScope()
        self._nap = trio.CancelScope()
        self._abandoned_wait = trio.CancelScope()
        self._control: Outbox | None = None
        self._early: list[bytes] = []  # posted before the launch
        self._early_bytes = 0
        self._stop_reason: str | None = None
        self._intake: Intake | None = None
        self._announced_messages = 0
        self._exit_unasked: str | None = None

    # What the worker and the host say.

    def post(self, payload: object) -> None:
        """Send a payload, or end the process as failed if it leaves too many unread."""
        body = self.encode(payload)
        self._refuse_ended()
        try:
            if self._outbox is not None:
                self._outbox.send_nowait(body)
            else:
                self._early_bytes += len(body)
                if self._early_bytes > self._terms.limits.outbox_bytes:
                    raise trio.WouldBlock
                self._early.append(body)
        except trio.WouldBlock:
            self._feed(Input.BROKEN, text="its outbox overflowed: it does not read the messages that it is sent")

    def begin(self) -> None:
        """Publish `starting`."""
        self._announce(self._lifecycle.begin())

    def stop(self, reason: str | None) -> None:
        """Ask it to stop, if nobody has; after the grace period it is killed."""
        self._request_stop(Input.STOP, reason)

    def host_stop(self, exit_reason: ExitReason) -> None:
        """Ask it to stop because it is replaced or unloaded, which will be its exit reason."""
        self._request_stop(Input.HOST_STOP, exit_reason.value, exit_reason)

    def kill(self) -> None:
        """Unload it without a grace period."""
        self.host_stop(ExitReason.BACKEND_UNLOADED)
        self._feed(Input.KILL)

    def caller_gone(self) -> None:
        """Kill it, since whoever wanted it has been cancelled."""
        self._feed(Input.CALLER_GONE)

    def crashed(self) -> None:
        """Let go whoever waits for it: the task that owned it has died of a bug."""
        self._answer(StartupFailedError)
        self.inbox.close()
        self._has_launched.set()
        self.ended.set()
        self.let_go.set()

    async def wait_let_go(self) -> None:
        """Wait until nothing is left of it, or it has been abandoned."""
        await self.ended.wait()
        if not self.is_abandoned:
            await self.let_go.wait()

    def give_up(self) -> None:
        """Stop waiting for the exit of an abandoned process, so that the host can close."""
        self._abandoned_wait.cancel()

    def _request_stop(self, said: Input, reason: str | None, host_reason: ExitReason | None = None) -> None:
        if self._stop_reason is None and self._lifecycle.phase in (Phase.STARTING, Phase.RUNNING):
            self._stop_reason = reason
        self._feed(said, host_reason=host_reason)

    def refusal(self) -> SpawnError | None:
        """Make the error that `spawn` raises; `None` if it became ready."""
        if self._refusal is None:
            return None
        info, who = self.info, f"{self.identity.entry} ({self.process_id})"
        if self._refusal is StartupCancelledError:
            why = self._lifecycle.host_reason or "stopped"
            return StartupCancelledError(f"{who} was stopped before it was ready ({why})", info=info)
        if self._refusal is StartupTimeoutError:
            advice = "call process.ready() earlier, or give it a longer startup_timeout"
            return StartupTimeoutError(f"{who} timed out: {info.error}; {advice}", info=info)
        if self._refusal is LaunchError:
            return LaunchError(f"{who} could not be launched: {info.error}", info=info)
        return StartupFailedError(f"{who} {info.state} before it was ready: {info.error or 'no error'}", info=info)

    # The life of the process.

    @trio.lowlevel.enable_ki_protection
    async def run(self, launcher: Launcher, order: LaunchOrder) -> None:
        """Own the process from launch to reaping. Raises nothing for what a process does."""
        with trio.CancelScope(shield=True):
            if self._lifecycle.phase is not Phase.STARTING:
                self._launching.cancel()
            failure: Exception | None = None
            with self._launching:
                try:
                    async with launcher.launch(order) as launched:
                        with trio.CancelScope(shield=True):
                            await self._supervise(launched)
                except Exception as error:
                    if self._launched is not None:
                        raise  # a bug of ours or of the launcher's, not a launch that failed
                    failure = error
                finally:
                    self._launch_watch.cancel()
            if self._launched is None:
                self._conclude_unlaunched(failure)
            self.let_go.set()

    @trio.lowlevel.enable_ki_protection
    async def watch_launch(self) -> None:
        """End a launch that takes longer than the startup timeout; returns once there is nothing more to watch.

        A task beside `run`, since no scope around the launch could tell a late launch from a late host.
        """
        self._excuse_lateness(self._lifecycle.started_at)
        with self._launch_watch:
            while self._lifecycle.due(trio.current_time()) is None:
                wake_at = self._wake_time()
                await trio.sleep_until(wake_at)
                await trio.lowlevel.checkpoint()  # the launch may have ended meanwhile, and then ends this
                self._excuse_lateness(wake_at)
            self._launching.cancel()

    def _conclude_unlaunched(self, failure: Exception | None) -> None:
        if failure is not None:
            _log.info("process %s: the launch failed: %r", self.process_id, failure)
            self._feed(Input.LAUNCH_FAILED, text=f"{type(failure).__name__}: {failure}")
        elif self._lifecycle.phase is Phase.STARTING:
            self._feed(Input.STARTUP_DEADLINE)
        else:
            self._feed(Input.EXIT)
        self._conclude(LaunchError if failure is not None else None)

    async def _supervise(self, launched: LaunchedProcess) -> None:
        self._launch_watch.cancel()
        async with trio.open_nursery() as nursery:
            self._launched = launched
            self._control = Outbox(launched.control, nursery.start_soon)
            self._outbox = Outbox(launched.messages, nursery.start_soon, self._terms.limits.outbox_bytes)
            self._say(self._init)
            self._init = b""
            for body in self._early:
                self._outbox.send_nowait(body)
            self._early.clear()
            self._has_launched.set()
            if self._lifecycle.is_settled:
                launched.kill()  # the caller went, or the host was killed, in the last moment of the launch
            elif self._lifecycle.phase is Phase.STOPPING:
                self._ask()
            intake = self._intake = Intake(
                launched,
                self.inbox,
                self._terms.limits,
                is_starting=lambda: self._lifecycle.phase is Phase.STARTING,
                reads_on=lambda: self._reads_on,
                hear=self._hear,
                control_ended=self._control_ended,
                breach=self._break,
                excuse=self._lifecycle.excuse,
            )
            nursery.start_soon(intake.read_control)
            nursery.start_soon(intake.read_messages)
            status = await self._until_exit(launched, intake)
            nursery.cancel_scope.cancel()
        if status is not None:
            intake.take_in_all()
            self._feed(Input.EXIT, text=self._exit_text(status))
        self._conclude(None)
        if self.is_abandoned:
            with self._abandoned_wait:
                await launched.wait()

    async def _until_exit(self, launched: LaunchedProcess, intake: Intake) -> ExitStatus | None:
        """Wait for the exit, judging at each deadline; `None` if the process is abandoned."""
        while True:
            wake_at, received = self._wake_time(), self.inbox.received
            with trio.CancelScope(deadline=wake_at) as self._nap:
                return await launched.wait()
            is_due = self._lifecycle.due(trio.current_time()) is not None
            # Whatever became due together with this deadline runs before it: the scheduler looks at deadlines during
            # the first checkpoint, and runs whom they wake before it comes back from the second.
            await trio.lowlevel.checkpoint()
            if is_due:
                await trio.lowlevel.checkpoint()
            if launched.has_exited():
                return await launched.wait()
            # A process in this program's own run stands still with it, and is held up only where it had sent something.
            if launched.pid is not None or self.inbox.received > received:
                self._excuse_lateness(wake_at)
            if is_due:
                self._judge(launched, intake)
            if self.is_abandoned:
                return None

    def _wake_time(self) -> float:
        """Tell when to look next: at the next deadline, and while it starts after a slice of its time at most."""
        deadline = self._lifecycle.deadline()
        if self._lifecycle.phase is not Phase.STARTING:
            return deadline
        return min(deadline, trio.current_time() + self._terms.startup_timeout / STARTUP_SLICES)

    def _excuse_lateness(self, wake_at: float) -> None:
        """Leave the time by which this program was late out of the startup deadline (contract, rule 8)."""
        late = trio.current_time() - wake_at
        if late > 0 and self._lifecycle.phase is Phase.STARTING and not (self._intake and self._intake.is_paused):
            self._lifecycle.excuse(late)

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
            case Action.ASK:
                self._ask()
            case Action.KILL if self._launched is not None:
                self._launched.kill()
            case Action.KILL:
                self._launching.cancel()
            case Action.ABANDON:
                self.is_abandoned = True
            case _:
                pass
        if step.transition is None and step.action is Action.NOTHING:
            return
        # The deadline may have changed, and a reader that waits for room need not wait any more.
        self._nap.cancel()
        self.inbox.wake_room()
        if step.transition is not None:
            self._announce(step.transition)
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
        if not self.answered.is_set():
            self._refusal = refusal
            self.answered.set()

    def _announce(self, transition: Transition) -> None:
        identity = self.identity
        self._publish(
            LifecycleEvent(
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
                error=transition.error,
                result=transition.result,
            )
        )

    # What the process says.

    def _hear(self, frame: ChildFrame) -> None:
        """Take in one control frame."""
        match frame:
            case Ready():
                self._feed(Input.READY)
            case Heartbeat():
                now = trio.current_time()
                self._lifecycle.note_heartbeat(now, now)
            case Complete(result, messages):
                self._announced_messages = messages
                self._feed(Input.COMPLETE, result=result)
            case Fail(text, messages):
                self._announced_messages = messages
                self._feed(Input.FAIL, text=bounded_error(text, self._terms.limits))
            case Stopped(messages):
                self._announced_messages = messages
                self._feed(Input.SAID_STOPPED)
            case Exiting(messages, code):
                # All that is left of it is its tree. Killing it hides the status, which therefore comes with the frame.
                self._announced_messages = messages
                self._feed(Input.EXIT, text=self._exit_text(ExitStatus(code=code)))
                self._feed(Input.KILL)

    def _control_ended(self) -> None:
        assert self._launched is not None, "a lane is read once the process has been launched"
        self._lifecycle.note_control_closed(trio.current_time(), self._launched.control_patience)
        self._nap.cancel()

    def _break(self, error: PeerProtocolError) -> None:
        _log.info("process %s: broke the protocol: %s", self.process_id, error)
        self._feed(Input.BROKEN, text=f"broke the protocol: {error}")

    @property
    def _reads_on(self) -> bool:
        """Whether reading goes on beyond the bound: the end waits for no reader."""
        return self._lifecycle.phase not in (Phase.STARTING, Phase.RUNNING)

    # The end.

    def _exit_text(self, status: ExitStatus) -> str | None:
        """Say how a process ended that nobody had asked to, and that said nothing itself."""
        if self._lifecycle.phase not in (Phase.STARTING, Phase.RUNNING):
            return None
        self._exit_unasked = f"{status} without complete() or fail()"
        return self._exit_unasked

    def _conclude(self, refusal: type[SpawnError] | None) -> None:
        """Free what the process held, publish its end, and let those go on who wait for it."""
        life = self._lifecycle
        if self._exit_unasked is not None and life.error == self._exit_unasked and self._launched is not None:
            tail = self._launched.stderr_tail().strip()
            if tail:
                life.error = f"{life.error}; the last it wrote to stderr:\n{tail}"
        lost = self._announced_messages - self.inbox.received
        if lost > 0:
            life.error = "; ".join(filter(None, [life.error, f"{lost} of its messages never arrived"]))
        transition = life.conclude(trio.current_time())
        pass_turn = self._release()
        for outbox in (self._control, self._outbox):
            if outbox is not None:
                outbox.close()
        self._announce(transition)
        self.inbox.close()
        self._has_launched.set()
        self.ended.set()
        if refusal is None:
            refusal = StartupTimeoutError if transition.state is ProcessState.TIMED_OUT else StartupFailedError
        self._answer(refusal)
        pass_turn()
