"""One process: launch it, read it, judge it, wait for its exit, reap it. Nothing else does any of that.

Theory of operation
-------------------

A `Supervisor` is one task with one nursery, shielded from beginning to end. The deadlines of its process bound it, and
no caller's cancellation does. `run` is straight-line code:

1. Enter the launch, which may have begun in the spawn, under a scope that is cancelled at the startup deadline
   (`StartupMonitor`), and by a stop or a kill.
2. `Intake` reads the two lanes; the main task waits for the exit. It wakes up at each deadline, and when
   something arrives on a lane that no task reads (`_until_exit`).
3. At the exit, or when the process is abandoned, it takes in all that was sent, and publishes the end.

The table (`_state_table`) decides what each event means; `SupervisedProcess.feed` asks it and acts.

A deadline may fire because this program was late, not the child. So before it acts, `_judge` lets the loop run once,
takes in what the child has sent without waiting for more, looks at the heartbeat, and asks the table again. Time in
which this program was stalled extends the deadline as well (`_deadlines`).

Back-pressure: `Intake` waits for room in the inbox before it reads, so that the rest stays in the pipe and
holds up this child alone. That pause extends the startup deadline. Once the process is stopping or ending,
reading goes on beyond the bound, since the terminal event never waits for a reader.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from spindle_trio._errors import LaunchError, PeerProtocolError
from spindle_trio._protocol._control_frames import (
    ChildFrame,
    Complete,
    Exiting,
    Extend,
    Fail,
    Heartbeat,
    Ready,
    Status,
    Stopped,
    TakesCalls,
    bounded_error,
)
from spindle_trio._supervision._intake import CONTROL_FRAMES_AT_A_TIME, Intake
from spindle_trio._supervision._post_mortems import LastWords, find_out, one_line
from spindle_trio._supervision._state_table import Input, Phase
from spindle_trio.abc import ExitStatus

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from spindle_trio._errors import SpawnError
    from spindle_trio._supervision._supervised_process import SupervisedProcess
    from spindle_trio.abc import LaunchedProcess

_log = logging.getLogger("spindle_trio.supervisor")


class Supervisor:
    """The task that owns one process. Implements `Listener`."""

    __slots__ = ("_announced_messages", "_last_words", "_life", "_process")

    def __init__(self, process: SupervisedProcess) -> None:
        """Take on a process that has not been launched.

        Args:
            process: which one.
        """
        self._process = process
        self._life = process.record.life
        self._announced_messages = 0
        self._last_words: LastWords | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self, block: AbstractAsyncContextManager[LaunchedProcess] | Exception) -> None:
        """Own the process from launch to reaping. Raises nothing for what a process does.

        Args:
            block: its launch, which may have begun, or what the launcher has raised instead.
        """
        process, deadlines, life = self._process, self._process.deadlines, self._life
        deadlines.extend_by_lateness(life.started_at)  # nothing has been done for it before this turn
        if life.phase is not Phase.STARTING:
            deadlines.startup_scope.cancel()
        failure: Exception | None = None
        with deadlines.startup_scope:
            try:
                if isinstance(block, Exception):
                    raise block
                async with block as launched:
                    await self._supervise(launched)
            except Exception as error:
                if process.record.launched is not None:
                    raise  # a bug of ours or of the launcher's, not a launch that failed
                failure = error
            finally:
                process.reports.launch_ended(deadlines)
        if process.record.launched is None:
            self._conclude_unlaunched(failure)
            del block, failure  # the traceback of an error has this frame
        process.let_go()

    def _conclude_unlaunched(self, failure: Exception | None) -> None:
        process = self._process
        if failure is not None:
            about = process.record.log_attributes()
            _log.info("process %s: the launch failed: %r", process.process_id, failure, extra=about)
            process.feed(Input.LAUNCH_FAILED, text=one_line(f"{type(failure).__name__}: {failure}"))
        elif self._life.phase is Phase.STARTING:
            process.feed(Input.STARTUP_DEADLINE)
        else:
            process.feed(Input.EXIT)
        self._conclude(LaunchError if failure is not None else None)

    async def _supervise(self, launched: LaunchedProcess) -> None:
        process, config = self._process, self._process.record.config
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.shield = True  # a kill that came in the last moment of the launch has cancelled that
            process.launched(launched, nursery)
            intake = Intake(launched, process.inbox, config.limits, config.bounds, config.reader, self)
            intake.start(nursery.start_soon)
            status = await self._until_exit(launched, intake, nursery)
            if nursery.child_tasks:
                nursery.cancel_scope.cancel()
        if status is not None:
            self._noted.note_exit(status, self._life, launched.limit_hit(self._noted.announced))
            process.record.peaks = launched.peaks()
            intake.take_in_all()
            process.take_in_calls()
            process.feed(Input.EXIT, text=self._judge_exit(status))
        self._conclude(None)
        if process.is_abandoned:
            with trio.CancelScope(shield=True) as process.abandoned_wait:
                await launched.wait()

    async def _until_exit(self, launched: LaunchedProcess, intake: Intake, nursery: trio.Nursery) -> ExitStatus | None:
        """Wait for the exit, judging at each deadline; `None` if the process is abandoned."""
        process, deadlines = self._process, self._process.deadlines
        while True:
            intake.take_in_news(nursery.start_soon)
            received = process.inbox.received
            with deadlines.new_nap() as nap:
                return await launched.wait()
            now, wake_at = trio.current_time(), nap.deadline  # which may have been put off
            is_due = self._life.due(now) is not None
            if now < wake_at and not is_due:
                continue  # woken for news, or since the deadline is another one now
            if launched.is_in_this_run:
                # What became due together with this deadline runs first: Trio looks at deadlines during the first
                # checkpoint, and runs the tasks that they wake before the second returns. A process of the operating
                # system runs by itself.
                await trio.lowlevel.checkpoint()
                if is_due:
                    await trio.lowlevel.checkpoint()
            if launched.has_exited():
                return await launched.wait()
            # A process in this run stands still with it. The stall delayed it only if it had sent something.
            if not launched.is_in_this_run or process.inbox.received > received:
                if not launched.is_in_this_run:
                    process.reports.note_stall()
                deadlines.extend_by_lateness(wake_at, is_paused=intake.is_paused)
            if is_due:
                self._judge(launched, intake)
            if process.is_abandoned:
                return None

    def _judge(self, launched: LaunchedProcess, intake: Intake) -> None:
        """Act on a deadline that has passed, once what was already sent has been taken in."""
        process, life = self._process, self._life
        if life.due(trio.current_time()) is None:
            return
        intake.take_in_control(most=CONTROL_FRAMES_AT_A_TIME)
        process.take_in_calls()
        process.record.look_at_heartbeat()
        intake.account_for_pause()
        due = life.due(trio.current_time())
        if due is Input.ABANDON_DEADLINE:
            pid = "" if launched.pid is None else f" (pid {launched.pid})"
            about = process.record.log_attributes()
            _log.error(
                "process %s: SIGKILL has not ended it in time; abandoned%s", process.process_id, pid, extra=about
            )
            process.feed(due, text=f"SIGKILL has not ended it in time, and it was abandoned{pid}")
        elif due is not None:
            overruns = life.overruns if due is Input.CALL_OVERRUN else None
            process.feed(due, text=None if overruns is None else overruns.words)

    @property
    def _noted(self) -> LastWords:
        """What has been noted of its end."""
        if self._last_words is None:
            self._last_words = LastWords()
        return self._last_words

    def _judge_exit(self, status: ExitStatus) -> str | None:
        return self._noted.judge_exit(status, self._life, takes_calls=bool(self._process.record.takes_calls))

    def _conclude(self, refusal: type[SpawnError] | None) -> None:
        """Find out why the process has ended, and announce it."""
        process = self._process
        lost = self._announced_messages - process.inbox.received
        process.conclude(find_out(self._life, process.record.launched, self._noted, lost), refusal)

    # What the process says.

    def hear(self, frame: ChildFrame) -> None:
        """Take in one control frame."""
        process, life = self._process, self._life
        match frame:
            case Ready(protocol, takes_calls, concurrency, takes_bytes):
                if protocol > 1 and process.record.takes_calls is None:
                    process.record.takes_calls, process.record.takes_bytes = takes_calls, takes_bytes
                    process.record.concurrency = concurrency
                process.feed(Input.READY)
            case TakesCalls(concurrency):
                if process.record.takes_calls is None:
                    self.breach(PeerProtocolError("it takes calls, and has not said ready in protocol 2"))
                else:
                    process.record.takes_calls = True
                    process.note_concurrency(concurrency)
            case Heartbeat():
                if life.phase is Phase.RUNNING:  # as a page is looked at: the watchdog ends with `running`
                    now = trio.current_time()
                    life.note_heartbeat(now, now)
            case Status(text):
                process.record.status = text
            case Extend(seconds):
                if process.record.may_ask_for_time:
                    process.grant_time(seconds)
                else:
                    self.breach(PeerProtocolError("it asks for time, and is no command with ready='notify'"))
            case Complete(result, messages):
                self._announced_messages = messages
                process.feed(Input.COMPLETE, result=result)
            case Fail(text, messages, traceback):
                self._announced_messages = messages
                if not life.is_settled:
                    self._noted.traceback = traceback
                process.feed(Input.FAIL, text=bounded_error(text, process.record.config.limits))
            case Stopped(messages):
                self._announced_messages = messages
                process.feed(Input.REPORTED_STOPPED)
            case Exiting(messages, code):
                # All that is left of it is its tree. Killing it hides the status, which therefore comes with the frame.
                self._announced_messages, status = messages, ExitStatus(code=code)
                self._noted.announced = status
                self._noted.note_exit(status, life)
                process.feed(Input.EXIT, text=self._judge_exit(status))
                process.feed(Input.KILL)

    def control_ended(self) -> None:
        launched = self._process.record.launched
        assert launched is not None, "a lane is read once the process has been launched"
        self._life.note_control_closed(trio.current_time(), launched.control_patience)
        self._process.deadlines.follow()

    def breach(self, error: PeerProtocolError) -> None:
        about = self._process.record.log_attributes()
        _log.info("process %s: broke the protocol: %s", self._process.process_id, error, extra=about)
        self._process.feed(Input.BROKEN, text=one_line(f"broke the protocol: {error}"))

    def reading_paused(self, seconds: float) -> None:
        self._process.deadlines.extend_by_pause(seconds)

    def wake(self) -> None:
        self._process.deadlines.wake()

    @property
    def is_starting(self) -> bool:
        """Whether it has still to say `ready`."""
        return self._life.phase is Phase.STARTING

    @property
    def reads_on(self) -> bool:
        """Whether reading goes on beyond the bound: the end waits for no reader."""
        return self._life.phase not in (Phase.STARTING, Phase.RUNNING)
