"""Does what a blocking entry asks of its context, on the entry's own thread, and serves its handlers meanwhile.

What must not wait uses the shared page: `heartbeat` writes one word there, and reads another one that says whether a
stop was requested. Only then is the control lane read.

Where the entry waits (`receive`, `sleep`, a `send` without room, and after it has returned), `BlockingLanes.pause`
reads what comes. It is then handled in one place, `serve`, which runs before each pause, since a stop may have been
heard outside of one: first a stop, then messages for which a handler is registered, then calls (`_blocking_calls`,
loaded at the first `on_call`). A handler may itself wait; then stops are still served inside it, and further messages
and calls wait until it has returned, so that they are handled in order.

`send` counts a message when it is queued, and the lanes are flushed at the end. So the count in the last frame is the
number of frames that the host will find.
"""

from __future__ import annotations

from _thread import get_ident  # `threading` would have to be loaded for it
from time import monotonic

from spindle_trio._errors import LocalProtocolError
from spindle_trio._linux._shared_page import STOP
from spindle_trio._linux._spinning import Spinning
from spindle_trio._protocol._frames import TAGGED, encode_body
from spindle_trio._protocol._json_text import read_json
from spindle_trio._protocol._payload import BinaryWalk, check_payload
from spindle_trio.child._blocking_lanes import LONGEST_PAUSE, BlockingLanes
from spindle_trio.child._exit_frames import encode_complete, encode_fail, encode_ready
from spindle_trio.child._handlers import Handlers, StopNotice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio._model import JsonValue
    from spindle_trio._protocol._binary import Gathering
    from spindle_trio.child._facts import ProcessFacts
    from spindle_trio.child._plain_lane import PlainLane


class EntryEnd(SystemExit):
    """Raised in an entry that the runtime ends, because of a stop or of the entry's own final word."""


class BlockingControls:
    """One entry's control over its process: does what `BlockingProcessContext` offers."""

    def __init__(
        self,
        facts: ProcessFacts,
        control: PlainLane,
        messages: PlainLane,
        words: memoryview[float],
        report: Callable[[str], None],
        calls_fd: int,
    ) -> None:
        """Begin with an entry that has said nothing.

        Args:
            facts: what the first frame told.
            control: what follows the first frame.
            messages: the other lane.
            words: the shared page.
            report: shows a text to the author of the entry.
            calls_fd: the calls lane, which nobody reads before there is a handler.
        """
        self.facts: ProcessFacts = facts
        self.lanes: BlockingLanes = BlockingLanes(control, messages, words, report, facts.heartbeat_timeout)
        """The lanes, and waiting for them."""
        self.report: Callable[[str], None] = report
        self.stop_handlers: Handlers[StopNotice] = Handlers("on_stop", report)
        self.message_handlers: Handlers[JsonValue] = Handlers("on_message", report)
        self.calls_fd: int = calls_fd
        """The calls lane."""
        self.is_at_work: bool = False
        """Whether the handler of a message or a call is at work, so that no other one begins."""
        self.sent: int = 0
        """How many messages were queued on the messages lane."""
        self.final: str | None = None
        """The final word."""
        self.is_told: bool = False
        """Whether a handler or the entry was told of the stop."""
        self.is_ending: bool = False
        """Whether the entry is to end."""
        self.is_over: bool = False
        """Whether the entry has ended, so that nothing is raised any more."""
        self._messages = messages
        self._thread = get_ident()
        self._spinning = Spinning()
        self._gathering: Gathering | None = None  # a message whose bytes are still to come

    @property
    def status(self) -> str:
        """How far the entry is, for a `repr`."""
        if self.final is not None:
            return self.final
        if self.lanes.stop is not None:
            return "stopping"
        return "running" if self.lanes.beats else "starting"

    # What the entry calls, by way of its context.

    def ready(self) -> None:
        self.refuse_other_thread()
        self.look_for_stop()
        if not self.lanes.beats and self.final is None:
            self.lanes.beats = True
            self.lanes.beat()
            self.lanes.say(encode_ready(self.facts, concurrency=1 if self.takes_calls else 0))

    def complete(self, result: object) -> None:
        self.refuse_other_thread()
        if self.final is None:
            self.say_finally("completed", encode_complete(result, self.sent, self.facts))
        self._end_entry()

    def fail(self, error: str) -> None:
        if not isinstance(error, str):
            raise TypeError(f"fail() takes a str, not {type(error).__name__}")
        self.refuse_other_thread()
        if self.final is None:
            self.say_finally("failed", encode_fail(error.strip(), self.sent, self.facts))
        self._end_entry()

    def say_finally(self, final: str, body: bytes) -> None:
        """Say the final word."""
        self.final = final
        self.lanes.say(body)

    def look_for_stop(self) -> None:
        """End the entry if it has to end, also because of a stop without a handler."""
        if self.is_ending:
            self._end_entry()
        self.lanes.hear_of_stop()
        if self.lanes.stop is not None and not self.is_told and not self.stop_handlers and not self._is_calling:
            self._end_entry()

    def stop_requested(self) -> bool:
        self.lanes.hear_of_stop()
        if self.lanes.stop is None and not self.lanes.words[STOP]:
            return False
        if not self.stop_handlers and not self._is_calling:  # the handler of a call cannot end the entry by returning
            self.is_told = True
        return True

    def send(self, payload: object) -> None:
        self.refuse_other_thread()
        if not self.is_ending:
            self.look_for_stop()
            if self.lanes.call is not None:
                self.lanes.call.raise_if_cancelled(again=False)
        facts, messages = self.facts, self._messages
        if check_payload(payload, facts.bounds, "payload", BinaryWalk):
            from spindle_trio._protocol._binary import encode_binary

            messages.push(encode_binary(payload, facts.frame_bytes))
        else:
            messages.push(encode_body(payload, facts.frame_bytes))
        self.sent += 1
        if messages.is_flushed:
            self._spinning.note_sent()
            return  # as nearly always
        target = messages.queued  # a handler that runs meanwhile may send more
        while messages.written < target:
            if not self.is_ending:
                self.serve()
                if self.lanes.call is not None:
                    self.lanes.call.raise_if_cancelled(again=False)
            if messages.written < target:  # a handler may have sent something, and waited until all had left
                self.lanes.pause(LONGEST_PAUSE, wants_messages=self.can_deliver)

    def receive(self, timeout: float) -> JsonValue:
        self.refuse_other_thread()
        self.look_for_stop()
        if self.message_handlers:
            raise LocalProtocolError(
                "receive() gets nothing while an on_message handler takes the messages; unsubscribe the handler first"
            )
        self.lanes.beat()
        began = None
        while True:
            self.serve()
            if self.lanes.call is not None:
                self.lanes.call.raise_if_cancelled()
            body = self._messages.take()
            if body is not None:
                if began is not None:
                    self._spinning.end(monotonic() - began)
                if self._gathering is None and not body.startswith(TAGGED):
                    return read_json(body)
                if (gathered := self._gather(body)) is not None:
                    return gathered.value
                continue
            if began is None:
                began = monotonic()
                if self.lanes.spin(self._messages, began + min(timeout, self._spinning.begin())):
                    if self.lanes.calls is not None and self.lanes.owes_look():
                        self.lanes.pause(0.0, wants_messages=True)
                    continue
            left = began + timeout - monotonic()
            if not self.lanes.pause(left, wants_messages=True) and left <= 0:
                self.look_for_stop()
                raise TimeoutError(f"no message within {timeout:g} s")

    def sleep(self, seconds: float) -> None:
        self.refuse_other_thread()
        self.look_for_stop()
        deadline = monotonic() + seconds
        while True:
            self.serve()
            if self.lanes.call is not None:
                self.lanes.call.raise_if_cancelled()
            left = deadline - monotonic()
            self.lanes.pause(left, wants_messages=self.can_deliver)
            if left <= 0:
                self.serve()
                return

    @property
    def takes_calls(self) -> bool:
        """Whether there is a handler for calls."""
        return self.lanes.calls is not None and bool(self.lanes.calls.handlers)

    def refuse_other_thread(self) -> None:
        """Nothing here is locked, and handlers run inside these calls: two threads would lose messages unnoticed."""
        if get_ident() != self._thread:
            raise LocalProtocolError(
                "a process's context works in its main thread only; let other threads hand it their data by a queue"
            )

    # Stops, messages and calls.

    @property
    def _is_calling(self) -> bool:
        """Whether a call is under way: it may finish before a stop ends the entry."""
        return self.lanes.calls is not None and self.lanes.calls.is_busy

    @property
    def can_deliver(self) -> bool:
        """Whether a message that arrives now goes to a handler; otherwise it waits in the lane, and fills no memory."""
        return bool(self.message_handlers) and not (self.is_at_work or self.is_ending or self.is_over)

    def _end_entry(self) -> None:
        if not self.is_over:
            self.is_ending = True
            raise EntryEnd

    def serve(self) -> None:
        """Run the handlers for what has arrived; end the entry if it has to end."""
        while not self.is_over:
            # Before each message: a handler may have heard of a stop, without being the one to tell of it.
            self.look_for_stop()
            if self.lanes.stop is not None and not self.is_told and self.stop_handlers:
                self.is_told = True
                call, self.lanes.call = self.lanes.call, None  # a cancelled call is nothing to the handlers of a stop
                try:
                    self.stop_handlers.call(self.lanes.stop)
                finally:
                    self.lanes.call = call
            if not (self._deliver_one() or (self.lanes.calls is not None and self.lanes.calls.serve_one())):
                return

    def _deliver_one(self) -> bool:
        """Run the handlers for the oldest message that has been read; say whether there was one."""
        body = self._messages.take() if self.can_deliver else None
        if body is None:
            return False
        if self._gathering is None and not body.startswith(TAGGED):
            message = read_json(body)
        elif (gathered := self._gather(body)) is not None:
            message = gathered.value
        else:
            return True
        self.lanes.beat()  # handlers that take their time one after another are no hang
        self.is_at_work = True
        try:
            self.message_handlers.call(message)
        finally:
            self.is_at_work = False
        return True

    def _gather(self, body: bytes) -> Gathering | None:
        """Take in a frame of a message that has bytes; return the message once it is whole."""
        from spindle_trio._protocol._binary import gather

        gathering = gather(self._gathering, body)
        self._gathering = gathering if gathering.left else None
        return None if gathering.left else gathering
