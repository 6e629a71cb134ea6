"""The calls of one process: what a caller does, from the first try to send to the outcome.

Theory of operation
-------------------

A caller writes its CALL into an outbox (`CallSender`), which leaves at once if the lane takes it, and sleeps until one
task, which reads the lane (`CallIntake`), finds its answer.

* `_pending` has each call that was written, until its final frame has come: also one whose caller has gone on, since
  only that frame says that the handler has ended. A frame for no call in there breaks the protocol.
* A caller that gives up (its time is over, it was cancelled, it closes its stream) first takes in what has arrived.
  If that has no final frame, it sends a cancel on the control lane and goes on. With ``overrun="kill"`` the call is
  then watched by the process's lifecycle, like any deadline (`OverrunWatch`).
* At the end of the process its supervisor takes in what is left in the lane (`take_in`), publishes the end, and only
  then releases those that still wait (`end`).

All state changes without a checkpoint, so tasks see either all of a step or nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from spindle_trio._protocol._call_answers import Answer, Failure, StreamEnd
from spindle_trio._protocol._control_frames import encode_cancel, encode_credit
from spindle_trio._supervision._call_errors import failure_error, lost_error, timeout_error
from spindle_trio._supervision._call_intake import CallIntake
from spindle_trio._supervision._call_sender import CallSender
from spindle_trio._supervision._call_stream import CallStream
from spindle_trio._supervision._call_timeouts import CallTimeouts
from spindle_trio._supervision._overrun_watch import OverrunWatch
from spindle_trio._supervision._pending_call import Lost, PendingCall
from spindle_trio._supervision._state_table import Phase
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._errors import CallError
    from spindle_trio._model import CallRequest, JsonValue
    from spindle_trio._supervision._call_intake import Feed
    from spindle_trio._supervision._deadlines import Deadlines
    from spindle_trio._supervision._outgoing import Outgoing
    from spindle_trio._supervision._process_record import ProcessRecord


@uninterrupted
class ProcessCalls:
    """The calls of one process. Implements `CallsInterface`."""

    __slots__ = ("_intake", "_outgoing", "_pending", "_record", "_sender", "_timeouts", "_watch")

    def __init__(
        self,
        record: ProcessRecord,
        outgoing: Outgoing,
        deadlines: Deadlines,
        feed: Feed,
        *,
        answered: trio.Event,
        ended: trio.Event,
    ) -> None:
        """Begin without a lane.

        Args:
            record: whose calls these are.
            outgoing: sends control frames.
            deadlines: follow what is watched here.
            feed: is told if the process breaks the protocol.
            answered: set once the process is ready, or will not be.
            ended: set once its end has been published.
        """
        self._record = record
        self._outgoing = outgoing
        self._pending: dict[int, PendingCall | CallStream] = {}  # in the order of their ids
        self._watch = OverrunWatch(record, deadlines, self._pending)
        self._intake = CallIntake(record, outgoing, self._pending, self._watch, feed)
        self._sender = CallSender(record, outgoing, self._pending, self._intake.start, answered=answered, ended=ended)
        self._timeouts: CallTimeouts | None = None  # made for the first one

    @property
    def pending(self) -> int:
        """How many calls have been sent and not ended, also those whose callers have gone on."""
        return len(self._pending)

    @property
    def late(self) -> int:
        """How many final frames came when their callers had gone on."""
        return self._intake.late

    # What callers do.

    async def call(self, request: CallRequest) -> JsonValue:
        """Call a handler and return its answer; see `ProcessHandle.call`."""
        call = PendingCall(request)
        if not self._sender.send_at_once(call, request):
            with trio.CancelScope(deadline=call.deadline):
                await self._sender.send_in_turn(call, request)
        if call.call_id:
            await self._wait(call)
        outcome = call.outcome
        if type(outcome) is Answer:
            return outcome.value
        assert not isinstance(outcome, Answer | StreamEnd), "a frame of a stream never ends a call"
        raise self.error_of(call, outcome)

    async def _wait(self, call: PendingCall) -> None:
        """Wait for the outcome of a call that was sent, as long as it has time."""
        timeouts = None if call.deadline == math.inf else self._timeouts or self._keep_timeouts()
        if timeouts is not None:
            timeouts.begin(call)
        spinning = self._sender.spinning if len(self._pending) == 1 else None
        try:
            if spinning is None:
                await call.wait()
            else:
                await call.wait_briefly(spinning)
        except BaseException:
            self.give_up(call)
            raise
        finally:
            if timeouts is not None:
                timeouts.end(call)
        if call.outcome is None:
            self.give_up(call)  # its time is over

    def _keep_timeouts(self) -> CallTimeouts:
        self._timeouts = CallTimeouts(self._outgoing.start_soon)
        return self._timeouts

    async def open_stream(self, request: CallRequest) -> CallStream:
        """Begin a stream; see `ProcessHandle.stream`. Closing the channel cancels it."""
        own = trio.current_time() + request.timeout
        stream = CallStream(self, request, deadline=min(own, trio.current_effective_deadline()))
        if not self._sender.send_at_once(stream, request):
            with trio.CancelScope(deadline=own):
                await self._sender.send_in_turn(stream, request)
        if not stream.call_id:
            raise self.error_of(stream, None)
        if stream.kills and stream.deadline < math.inf:
            self._watch.begin(stream, stream.deadline)  # its reader may be away then
        await trio.lowlevel.cancel_shielded_checkpoint()
        return stream

    async def relay_stream(self, request: CallRequest) -> CallStream:
        """Begin a stream for a reader elsewhere; see `RelayedCalls.relay_stream`."""
        stream = await self.open_stream(request)
        stream.is_relayed = True
        return stream

    async def wait_idle(self) -> None:
        """Wait until every call has ended, or the process has; see `CallsInterface.wait_idle`."""
        await self._intake.wait_idle()

    def give_up(self, call: PendingCall | CallStream) -> None:
        """Cancel a call in the process, unless it has ended; its caller goes on."""
        self.take_in()
        if call.call_id not in self._pending:
            return
        call.is_given_up = True
        self._outgoing.say(encode_cancel(call.call_id))
        if call.kills:
            self._watch.begin(call, trio.current_time())

    def give_credit(self, stream: CallStream, items: int) -> None:
        """Let a stream send so many items more."""
        self._outgoing.say(encode_credit(stream.call_id, items))

    def error_of(self, call: PendingCall | CallStream, outcome: Failure | Lost | None) -> CallError:
        """Make the error that a caller gets; of `None` for one whose time was over."""
        if outcome is None:
            return timeout_error(self._record, call.method, call.timeout, self._why_not_begun(call))
        if isinstance(outcome, Lost):
            return lost_error(self._record, call.method, handed_over=outcome.handed_over)
        return failure_error(self._record, call.method, outcome)

    def _why_not_begun(self, call: PendingCall | CallStream) -> str | None:
        """Say why a call whose time is over had not begun; `None` if it may have."""
        if not call.call_id:
            if self._record.life.phase is Phase.STARTING:
                return "it was not sent, since the process was not ready"
            return "it was not sent, since there was no room for it"
        if call.call_id not in self._pending or self._watch.may_have_begun(call.call_id):
            return None
        before = [other for other in self._pending.values() if other.call_id < call.call_id]
        if not before:  # those have ended since, and a process that is stopping begins no other
            return "it had not begun, since the process was asked to stop"
        more = f" and {len(before) - 1} more" if len(before) > 1 else ""
        return f"it had not begun: {before[0].method!r} (call {before[0].call_id}){more} came before it"

    # What its owner does.

    def take_in(self) -> None:
        """Take in the frames that have arrived, without waiting."""
        self._intake.take_in()

    def note_concurrency(self, concurrency: int | None) -> None:
        """Note how many calls the process serves at a time from now on; those that have begun stay so."""
        self._watch.note_concurrency(concurrency)

    def follow(self) -> None:
        """Refuse the calls that wait for room, if the process takes no calls any more; it begins none, either."""
        self._sender.follow()
        if self._record.life.phase is Phase.STOPPING:
            self._watch.note_stop()

    def end(self) -> None:
        """Release all that wait: the end of the process has been published, and all it has sent was taken in."""
        last_sent = self._sender.end()
        for call in self._intake.end():
            call.finish(Lost(handed_over=call.call_id <= last_sent))
        self._timeouts = None
