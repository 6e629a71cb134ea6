"""Serves the calls of a blocking entry, one at a time, on its own thread. Loaded at the first `on_call`.

`BlockingControls` calls `serve_one` where it runs message handlers. `BlockingLanes` polls the calls lane while a call
may begin.
While one is under way, those behind it wait in the lane, unread, and the host feels that they do.

Cancellations and credit come on the control lane, perhaps before their call. It is read wherever the entry waits. A
handler at work also looks there, without waiting, when it asks whether its call was cancelled, and at each call on its
context. A cancelled call raises `CallCancelled` there: each time where it would wait, but only once in `send` and
`heartbeat`, so that ``finally`` blocks can still say something. Whatever the handler does after that, only its end
sends the call's final frame, and the host drops a late answer.

A stream is a generator. It gets no further than its credit: then this waits for more, beating, and meanwhile serves
messages, since no code of the handler is running. If the stream is cancelled there, the generator is closed.
"""

from __future__ import annotations

from time import monotonic

from spindle_trio._linux._shared_page import STOP
from spindle_trio._linux._spinning import Spinning
from spindle_trio._protocol._call_frames import FAILURE, CallIntake, encode_end, encode_failure
from spindle_trio.child._blocking_call import BlockingCall
from spindle_trio.child._callables import refuse_coroutine
from spindle_trio.child._calls import (
    CallCancelled,
    CallHandlers,
    encode_value,
    failure_of,
    is_async_generator,
    is_generator,
    no_generator,
)
from spindle_trio.child._exit_frames import encode_takes_calls
from spindle_trio.child._plain_lane import PlainLane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from spindle_trio._model import JsonValue
    from spindle_trio._protocol._call_frames import IncomingCall
    from spindle_trio.child._blocking_controls import BlockingControls

LOOK_SECONDS = 0.001
"""Seconds between two looks for a cancellation while a generator yields quickly."""

_CANCELLED: dict[str, object] = {"cancelled": True}
"""What a FAILURE says of a call that was cancelled."""


class BlockingCalls:
    """The handlers for calls of one entry, and the lane on which the calls come."""

    def __init__(self, controls: BlockingControls) -> None:
        """Begin without a handler, for the controls of an entry, which serve calls from now on."""
        self.handlers: CallHandlers = CallHandlers(self._tell, is_blocking=True)
        self.lane: PlainLane = PlainLane(controls.calls_fd)
        self.is_busy: bool = False
        """Whether a call is under way."""
        self._controls = controls
        self._lanes = controls.lanes
        self._spinning = Spinning()
        self._credit_spinning = Spinning()
        self._waits_since: float | None = None  # when a wait for the next call began
        self._call: BlockingCall | None = None  # the one under way
        self._intake = CallIntake()
        self._has_served = False  # since it last found nothing to take
        self._lanes.calls = self

    def _tell(self) -> None:
        """Tell the host of the first handler, if `ready` has told of none."""
        controls = self._controls
        if self._lanes.beats and controls.final is None and controls.facts.protocol > 1 and len(self.handlers) == 1:
            self._lanes.say(encode_takes_calls(1))

    @property
    def can_begin(self) -> bool:
        """Whether a call that arrives now is begun; otherwise it waits in the lane."""
        controls, lanes = self._controls, self._lanes
        if lanes.stop is not None or lanes.words[STOP]:
            return False
        return not (controls.is_at_work or self.is_busy or controls.is_ending or controls.is_over)

    def heed(self, frame: JsonValue) -> bool:
        """Take a frame from the control lane; say whether it was one about calls."""
        match frame:
            case {"type": "cancel", "call": int(call_id)}:
                if self._intake.cancel_early(call_id):
                    self.end_cancelled()
                elif self._call is not None and self._call.call_id == call_id:
                    self._call.was_cancelled = True
            case {"type": "credit", "call": int(call_id), "items": int(items)}:
                if self._call is not None and self._call.call_id == call_id:
                    self._call.credit += items
            case _:
                return False
        return True

    def end_cancelled(self) -> None:
        """End the calls that were cancelled before they could begin, if a stop is there, so that none begins any more.

        The host gives a handler that was cancelled little time to end, and does not know that there is none.
        """
        while self._lanes.stop is not None and self._intake.expects_cancelled:
            body = self.lane.take()
            if body is None:
                if not self.lane.fill():
                    return
                continue
            try:
                call = self._intake.take(body)
            except ValueError as error:
                self._controls.report(f"the host sent an unknown frame: {error}")
                continue
            if call is not None and call.was_cancelled:
                self.lane.push(encode_failure(call.call_id, _CANCELLED))

    def spin(self, seconds: float) -> bool:
        """Look for the next call for a moment, once in each wait for it, if it may come quickly; say whether it has."""
        if self._waits_since is not None:
            return False
        self._waits_since = now = monotonic()
        return self._lanes.spin(self.lane, now + min(seconds, self._spinning.begin()))

    def serve_one(self) -> bool:
        """Serve the oldest call that has been read, if one may begin; say whether there was one."""
        lanes = self._lanes
        if not self.can_begin:
            return False
        body = self.lane.take()
        if body is None:
            self._has_served = False
            return False
        if self._waits_since is not None:
            self._spinning.end(monotonic() - self._waits_since)
            self._waits_since = None
        if self._has_served:  # so it has waited for another one; what was just read has no older frames to look for
            lanes.read_control()
            if lanes.stop is not None:
                return False  # nobody will begin it
        self._has_served = True
        try:
            while (incoming := self._intake.take(body)) is None:
                body = self.lane.take()
                if body is None:
                    return False  # bytes of it follow
        except ValueError as error:
            self._controls.report(f"the host sent an unknown frame: {error}")
            return True
        self._call = call = BlockingCall(incoming, self._look)
        lanes.beat()  # as for messages
        self.is_busy = True
        try:
            last = self._last_frame_of(call, incoming)
        finally:
            self.is_busy = False
            self._call = None
        self._send(last)
        self._spinning.note_sent()
        return True

    def _look(self) -> None:
        """Read what has arrived on the control lane, in the middle of a handler."""
        self._controls.refuse_other_thread()
        self._lanes.read_control()

    def _last_frame_of(self, call: BlockingCall, incoming: IncomingCall) -> bytes:
        """Run the handler of a call to its end, and return the frame that ends the call.

        Raises:
            SystemExit: the entry is to end, and so has the call.
        """
        controls, call_id = self._controls, call.call_id
        facts = controls.facts
        about = self.handlers.refusal_of(incoming, facts) or (_CANCELLED if call.was_cancelled else None)
        if about is not None:
            return encode_failure(call_id, about)
        handler = self.handlers.find(incoming.method)
        assert handler is not None, "refusal_of has found it"
        self._enter(call)
        try:
            # A handler takes what its callers give; nothing checks that.
            function: Callable[[JsonValue], object] = handler.function  # type: ignore[assignment]
            value = function(incoming.payload)
            if incoming.window is not None:
                if is_async_generator(value):
                    raise TypeError("a plain function returned an async generator; make it one itself: async def")
                if not is_generator(value):
                    return encode_failure(call_id, no_generator(call.method, facts))
                return self._send_items(call, value)  # type: ignore[arg-type]  # looked up in the last lines
            refuse_coroutine(value)
            return encode_value(call_id, value, facts)
        except SystemExit:
            raise
        except CallCancelled as error:
            return encode_failure(call_id, _CANCELLED if call.was_cancelled else failure_of(error, facts))
        except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
            return encode_failure(call_id, failure_of(error, facts))  # noqa: ASYNC104  # as above
        finally:
            self._leave()

    def _send_items(self, call: BlockingCall, generator: Generator[object, None, object]) -> bytes:
        """Send what a generator yields, as far as there is credit, and return the frame that ends the stream.

        Raises:
            CallCancelled: the stream was cancelled.
            BaseException: what the generator has raised, also in its clean-up.
        """
        facts = self._controls.facts
        next_look = 0.0
        try:
            while True:
                if call.lacks_credit:
                    self._wait_for_credit(call)
                now = monotonic()
                if call.was_cancelled or now >= next_look:
                    call.raise_if_cancelled()
                    next_look = now + LOOK_SECONDS
                try:
                    item = next(generator)
                except StopIteration:
                    return encode_end(call.call_id)
                frame = encode_value(call.call_id, item, facts, is_item=True)
                if frame.startswith(FAILURE):
                    return frame
                call.credit -= 1
                self._send(frame)
                self._credit_spinning.note_sent()
        finally:
            generator.close()

    def _wait_for_credit(self, call: BlockingCall) -> None:
        """Wait until a stream has credit or was cancelled, while messages are served: no code of its handler runs."""
        controls, lanes = self._controls, self._lanes
        self._leave()
        try:
            controls.serve()
            began = monotonic()
            if (seconds := self._credit_spinning.begin()) and lanes.spin(lanes.control, began + seconds):
                lanes.read_control()
                if lanes.owes_look():
                    lanes.pause(0.0, wants_messages=controls.can_deliver)
                controls.serve()
            while call.lacks_credit:
                lanes.pause(call.time_left, wants_messages=controls.can_deliver)
                controls.serve()
            self._credit_spinning.end(monotonic() - began)
        finally:
            self._enter(call)

    def _enter(self, call: BlockingCall) -> None:
        self._lanes.call = call
        self._controls.is_at_work = True

    def _leave(self) -> None:
        self._lanes.call = None
        self._controls.is_at_work = False

    def _send(self, frame: bytes) -> None:
        """Send a frame, and return when it is with the system. No handler runs meanwhile."""
        self.lane.push(frame)
        self._lanes.flush(self.lane)
