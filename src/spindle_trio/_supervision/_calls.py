"""The calls of one process: what is sent and read on its calls lane, and the tasks that wait for answers.

Theory of operation
-------------------

A caller writes its CALL into an outbox, which leaves at once if the lane takes it, and sleeps until one task, which
reads the lane, finds its answer. The ids of calls are given at the moment of writing, so that they grow on the lane.

* `_pending` has each call that was written, until its final frame has come: also one whose caller has gone on, since
  only that frame says that the handler has ended. A frame for no call in there breaks the protocol.
* A caller that gives up (its time is over, it was cancelled, it closes its stream) first takes in what has arrived.
  If that has no final frame, it sends a cancel on the control lane and goes on. With ``overrun="kill"`` the call is
  then watched by the process's lifecycle, like any deadline (`Overruns`). Its time runs from when its handler may have
  begun: the process begins calls in their order, and may have said how many it serves at a time.
* At the end of the process its supervisor takes in what is left in the lane (`take_in`), publishes the end, and only
  then releases those that still wait (`end`).

All state changes without a checkpoint, so tasks see either all of a step or nothing.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

import trio

from spindle_trio._errors import PeerProtocolError
from spindle_trio._linux._spinning import Spinning
from spindle_trio._protocol._call_answers import (
    Answer,
    CallReader,
    Failure,
    Item,
    StreamEnd,
    encode_call,
    encode_payload,
    name_of,
)
from spindle_trio._protocol._control_frames import encode_cancel, encode_credit
from spindle_trio._protocol._outbox import Outbox
from spindle_trio._protocol._payload import BinaryWalk, check_payload
from spindle_trio._supervision._call_errors import (
    failure_error,
    lost_error,
    no_calls_error,
    timeout_error,
    too_many_error,
)
from spindle_trio._supervision._call_stream import CallStream
from spindle_trio._supervision._call_timeouts import CallTimeouts
from spindle_trio._supervision._overruns import Overruns
from spindle_trio._supervision._pending_call import Lost, PendingCall
from spindle_trio._supervision._post_mortems import one_line
from spindle_trio._supervision._state_table import Input, Phase
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._errors import CallError
    from spindle_trio._model import CallRequest, JsonValue
    from spindle_trio._supervision._deadlines import Deadlines
    from spindle_trio._supervision._outgoing import Outgoing
    from spindle_trio._supervision._process_record import ProcessRecord
    from spindle_trio.abc import FrameLane

_log = logging.getLogger("spindle_trio.supervisor")

MOST_PENDING: Final = 65_536
"""Calls of one process that may be without a final frame."""

_FRAMES_AT_A_TIME: Final = 1024
"""Frames that are taken in before other tasks have their turn."""

_CAUSE_SECONDS: Final = 1.0
"""How long a caller waits to learn why its handler was cancelled, if it did not ask for that."""


class Feed(Protocol):
    """Takes an input to the table of states."""

    def __call__(self, said: Input, *, text: str) -> None: ...


@uninterrupted
class ProcessCalls:
    """The calls of one process. Implements `CallsInterface`."""

    __slots__ = (
        "_answered",
        "_deadlines",
        "_ended",
        "_feed",
        "_idle",
        "_is_broken",
        "_lane",
        "_last_id",
        "_newest_begun",
        "_outbox",
        "_outgoing",
        "_pending",
        "_reader",
        "_record",
        "_spinning",
        "_timeouts",
        "_uncaused",
        "late",
    )

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
        self._deadlines = deadlines
        self._feed: Feed | None = feed  # leads back to the owner of this; until the end
        self._answered = answered
        self._ended = ended
        self._reader = CallReader(record.config.bounds)
        self._pending: dict[int, PendingCall | CallStream] = {}
        self._last_id = 0
        self._newest_begun = 0  # the last id whose handler may have begun; looked up for calls that are watched alone
        self._lane: FrameLane | None = None
        self._outbox: Outbox | None = None  # made for the first call, with a task that reads the lane
        self._is_broken = False  # after a broken frame nothing that follows it can be trusted
        self._idle: trio.lowlevel.ParkingLot | None = None
        self._spinning: Spinning | None = None
        self._timeouts: CallTimeouts | None = None  # made for the first one
        self._uncaused: set[PendingCall | CallStream] = set()  # their handlers were cancelled, it is not known why
        self.late: int = 0
        """Final frames that came when their callers had gone on."""

    @property
    def pending(self) -> int:
        """How many calls have been sent and not ended, also those whose callers have gone on."""
        return len(self._pending)

    # What callers do.

    async def call(self, request: CallRequest) -> JsonValue:
        """Call a handler and return its answer; see `ProcessHandle.call`."""
        call = PendingCall(request)
        if not self._send_at_once(call, request):
            with trio.CancelScope(deadline=call.deadline):
                await self._send_in_turn(call, request)
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
        spinning = self._spinning if len(self._pending) == 1 else None
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
        if not self._send_at_once(stream, request):
            with trio.CancelScope(deadline=own):
                await self._send_in_turn(stream, request)
        if not stream.call_id:
            raise self.error_of(stream, None)
        if stream.kills and stream.deadline < math.inf:
            self._watch(stream, stream.deadline)  # its reader may be away then
        await trio.lowlevel.cancel_shielded_checkpoint()
        return stream

    async def relay_stream(self, request: CallRequest) -> CallStream:
        """Begin a stream for a reader elsewhere; see `RelayedCalls.relay_stream`."""
        stream = await self.open_stream(request)
        stream.is_relayed = True
        return stream

    async def wait_idle(self) -> None:
        """Wait until every call has ended, or the process has; see `CallsInterface.wait_idle`."""
        await trio.lowlevel.checkpoint()
        while self._pending and not self._ended.is_set():
            if self._idle is None:
                self._idle = trio.lowlevel.ParkingLot()
            await self._idle.park()

    def give_up(self, call: PendingCall | CallStream) -> None:
        """Cancel a call in the process, unless it has ended; its caller goes on."""
        self.take_in()
        if call.call_id not in self._pending:
            return
        call.is_given_up = True
        self._outgoing.say(encode_cancel(call.call_id))
        if call.kills:
            self._watch(call, trio.current_time())

    def give_credit(self, stream: CallStream, items: int) -> None:
        """Let a stream send so many items more."""
        self._outgoing.say(encode_credit(stream.call_id, items))

    def error_of(self, call: PendingCall | CallStream, outcome: Failure | Lost | None) -> CallError:
        """Make the error that a caller gets; of `None` for one whose time was over."""
        if outcome is None:
            return timeout_error(self._record, call.method, call.timeout)
        if isinstance(outcome, Lost):
            return lost_error(self._record, call.method, handed_over=outcome.handed_over)
        return failure_error(self._record, call.method, outcome)

    # How a call is sent.

    def _send_at_once(self, call: PendingCall | CallStream, request: CallRequest) -> bool:
        """Send a call if it need not wait, and tell whether it was sent: its id is set then.

        Raises:
            PayloadError: the payload is not JSON-safe, or over a limit.
            CallError: the process takes no calls, or has too many.
        """
        has_bytes = check_payload(request.payload, self._record.config.bounds, walk=BinaryWalk)
        if has_bytes or self._record.life.phase is not Phase.RUNNING:
            return False
        outbox = self._outbox_for(call)
        if outbox is None:
            return False
        try:
            outbox.send_nowait(self._write(call, request.payload, request.window))
        except (trio.WouldBlock, trio.BrokenResourceError):
            return False
        self._begin(call)
        return True

    async def _send_in_turn(self, call: PendingCall | CallStream, request: CallRequest) -> None:
        """Send a call once the process is ready and there is room; its id is set then, and no other task has run.

        Raises:
            PayloadError: its frame would be too long.
            CallError: the process does not take it; `ProcessLostError` and `UnknownMethodError` as well.
        """
        if self._record.life.phase is not Phase.RUNNING:
            await self._wait_running(call)
        outbox = self._outbox_for(call)
        if outbox is None:
            await self._refuse(call)
            return
        bounds, takes_bytes = self._record.config.bounds, self._record.takes_bytes
        payload = encode_payload(request.payload, bounds, takes_bytes=takes_bytes)  # once, however often it is written
        try:
            await outbox.send_in_turn(partial(self._write, call, payload, request.window))
        except trio.BrokenResourceError:
            await self._refuse(call)
        self._begin(call)

    def _outbox_for(self, call: PendingCall | CallStream) -> Outbox | None:
        """Return what sends the call; `None` if the process has ended.

        Raises:
            CallError: the process takes no calls, or has too many.
        """
        if len(self._pending) >= MOST_PENDING:
            raise too_many_error(self._record, call.method, MOST_PENDING)
        return self._outbox or self._open(call)

    def _begin(self, call: PendingCall | CallStream) -> None:
        """Note that the frame that was written last has been taken."""
        self._last_id += 1
        call.call_id = self._last_id
        self._pending[call.call_id] = call

    def _write(self, call: PendingCall | CallStream, payload: object, window: int | None) -> bytes:
        record = self._record
        if record.life.phase is not Phase.RUNNING:
            raise trio.BrokenResourceError  # it takes no calls any more, while this one waited
        left = min(call.deadline, trio.current_effective_deadline()) - trio.current_time()
        return encode_call(self._last_id + 1, call.method, left, payload, window, record.config.limits.frame_bytes)

    def _open(self, call: PendingCall | CallStream) -> Outbox | None:
        """Begin to use the lane; `None` if the process has ended.

        Raises:
            UnknownMethodError: the process takes no calls.
        """
        record, launched = self._record, self._record.launched
        if launched is None or launched.has_exited():
            return None
        lane = launched.calls if record.takes_calls else None
        if lane is None:
            raise no_calls_error(record, call.method)
        self._lane = lane
        self._outbox = Outbox(lane, self._outgoing.start_soon, record.config.limits.outbox_bytes)
        self._outgoing.start_soon(self._read)
        if not record.is_in_this_run:
            self._spinning = Spinning()
        return self._outbox

    async def _wait_running(self, call: PendingCall | CallStream) -> None:
        """Wait until the process is ready.

        Raises:
            ProcessLostError: it never will be, or takes no calls any more.
        """
        await self._answered.wait()
        if self._record.life.phase is not Phase.RUNNING:
            await self._refuse(call)

    async def _refuse(self, call: PendingCall | CallStream) -> None:
        """Refuse a call that was never sent: at once while the process is stopping, and else once it has ended.

        Raises:
            ProcessLostError: always.
        """
        if self._record.life.phase is not Phase.STOPPING:
            await self._ended.wait()
        raise lost_error(self._record, call.method, handed_over=False)

    def _watch(self, call: PendingCall | CallStream, since: float) -> None:
        life = self._record.life
        if life.overruns is None:
            life.overruns = Overruns(self._record.config.cancel_grace)
        self._look_who_has_begun()
        life.overruns.begin(call.call_id, call.method, since, is_waiting=call.call_id > self._newest_begun)
        self._deadlines.follow()

    def _look_who_has_begun(self) -> None:
        """Look up which call is the newest that may have begun, whichever have begun before."""
        concurrency, pending = self._record.concurrency, self._pending
        if concurrency is None or len(pending) <= concurrency:
            self._newest_begun = self._last_id
        else:
            newest = next(islice(pending, concurrency - 1, None))
            self._newest_begun = max(newest, self._newest_begun)  # it may have served more at a time before

    def _watch_who_has_begun(self, overruns: Overruns) -> None:
        """Let the time run for watched calls that have waited behind others, and wait no longer."""
        self._look_who_has_begun()
        if overruns.note_begun(self._newest_begun, trio.current_time()):
            self._deadlines.follow()

    # What the process says.

    @trio.lowlevel.enable_ki_protection
    async def _read(self) -> None:
        """Take in frames until the lane ends or is broken."""
        lane, record = self._lane, self._record
        assert lane is not None
        assert record.launched is not None
        try:
            while not self._is_broken:
                self._take(await lane.receive(_FRAMES_AT_A_TIME))
        except trio.EndOfChannel:
            # At its end a process closes all its lanes. One that closes this one alone leaves its callers waiting.
            await trio.sleep(record.launched.control_patience)
            if record.life.phase is Phase.RUNNING and not record.launched.has_exited():
                self._breach("it closed its calls lane and lived on")
        except PeerProtocolError as error:
            self._breach(str(error))

    def take_in(self) -> None:
        """Take in the frames that have arrived, without waiting."""
        lane = self._lane
        if lane is None:
            return
        try:
            while not self._is_broken:
                self._take(lane.receive_nowait(_FRAMES_AT_A_TIME))
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass
        except PeerProtocolError as error:
            self._breach(str(error))

    def _take(self, bodies: list[bytes]) -> None:
        """Take in frames that have arrived together; those before one that breaks the protocol count."""
        pending = self._pending
        for body in bodies:
            frame = self._reader.read(body)
            if frame is None:
                continue  # its bytes follow
            call = pending.get(frame.call_id)
            if call is None:
                raise PeerProtocolError(f"{name_of(frame)} for call {frame.call_id}, which has ended or never began")
            if isinstance(call, CallStream):
                if isinstance(frame, Item):
                    call.put(frame.value)
                    continue
                if isinstance(frame, Answer):
                    raise PeerProtocolError(f"an answer for call {frame.call_id}, which is a stream")
            elif isinstance(frame, Item | StreamEnd):
                raise PeerProtocolError(f"{name_of(frame)} for call {frame.call_id}, which is no stream")
            del pending[frame.call_id]
            self._finish(call, frame)
        overruns = self._record.life.overruns
        if overruns is not None and overruns.has_waiting:
            self._watch_who_has_begun(overruns)
        if not pending and self._idle is not None:
            self._idle.unpark_all()

    def _finish(self, call: PendingCall | CallStream, frame: Answer | StreamEnd | Failure) -> None:
        overruns = self._record.life.overruns
        if overruns is not None and overruns.end(call.call_id):
            self._deadlines.follow()
        if type(frame) is Failure and frame.is_cancelled:
            if not call.is_given_up:
                self._find_cause(call, frame)
                return
        elif call.is_given_up:
            self.late += 1
        call.finish(frame)

    def _find_cause(self, call: PendingCall | CallStream, failure: Failure) -> None:
        """Let a call wait whose handler was cancelled, but not from here: by the call's deadline, or at the end.

        Then its caller's own time runs out in a moment, or the process ends.
        """
        self._uncaused.add(call)
        launched = self._record.launched
        if launched is not None and not launched.has_exited():
            self._outgoing.start_soon(partial(self._settle_uncaused, call, failure))

    async def _settle_uncaused(self, call: PendingCall | CallStream, failure: Failure) -> None:
        await trio.sleep(_CAUSE_SECONDS)
        if call in self._uncaused:
            self._uncaused.remove(call)
            call.finish(failure)

    def _breach(self, text: str) -> None:
        self._is_broken = True
        about = self._record.log_attributes()
        _log.info("process %s: broke the protocol: %s", self._record.process_id, text, extra=about)
        if self._feed is not None:
            self._feed(Input.BROKEN, text=one_line(f"broke the protocol: {text}"))

    # What its owner does.

    def note_concurrency(self, concurrency: int | None) -> None:
        """Note how many calls the process serves at a time from now on; those that have begun stay so."""
        self._look_who_has_begun()
        self._record.concurrency = concurrency
        overruns = self._record.life.overruns
        if overruns is not None:
            self._watch_who_has_begun(overruns)

    def follow(self) -> None:
        """Refuse the calls that wait for room, if the process takes no calls any more."""
        if self._outbox is not None and self._record.life.phase is not Phase.RUNNING:
            self._outbox.try_again()

    def end(self) -> None:
        """Release all that wait: the end of the process has been published, and all it has sent was taken in."""
        self._feed = None
        if self._outbox is not None:
            self._outbox.close()
            last_sent = self._last_id - self._outbox.dropped  # ids after this one have never left
            for call in (*self._pending.values(), *self._uncaused):
                call.finish(Lost(handed_over=call.call_id <= last_sent))
        self._pending.clear()
        self._uncaused.clear()
        self._lane = self._timeouts = None
        if self._idle is not None:
            self._idle.unpark_all()
