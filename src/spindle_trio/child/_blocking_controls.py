"""Does what a blocking entry asks of its context, on the entry's own thread, and serves its handlers meanwhile.

What must not wait uses the shared page: `heartbeat` writes one word there, and reads another one that says whether a
stop was requested. Only then is the control lane read.

Where the entry waits (`receive`, `sleep`, a `send` without room, and after it has returned), `pause` polls the lanes,
a third of the heartbeat timeout at most, and beats before and after. What has arrived is then handled in one place,
`serve`, which runs before each pause, since a stop may have been heard outside of one: first a stop, then messages
for which a handler is registered, then calls (`_blocking_calls`, loaded at the first `on_call`). A handler may itself
wait; then stops are still served inside it, and further messages and calls wait until it has returned, so that they
are handled in order.

A frame that was sent in part is always finished. `send` counts a message when it is queued, and the lanes are flushed
at the end, so the count in the last frame is the number of frames that the host will find.
"""

from __future__ import annotations

import select
from _thread import get_ident  # `threading` would have to be loaded for it
from time import monotonic

from spindle_trio._errors import LocalProtocolError
from spindle_trio._linux._shared_page import BEAT, STOP
from spindle_trio._linux._spinning import Spinning
from spindle_trio._protocol._frames import TAGGED, encode_body
from spindle_trio._protocol._json_text import read_json
from spindle_trio._protocol._payload import BinaryWalk, check_payload
from spindle_trio.child._exit_frames import encode_complete, encode_fail, encode_ready, encode_takes_calls
from spindle_trio.child._handlers import Handlers
from spindle_trio.child._stop_notice import StopNotice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from spindle_trio._model import JsonValue
    from spindle_trio._protocol._binary import Gathering
    from spindle_trio.child._blocking_call import BlockingCall
    from spindle_trio.child._calls import CallHandlers
    from spindle_trio.child._facts import ProcessFacts
    from spindle_trio.child._plain_lane import PlainLane

    class ServesCalls(Protocol):
        """`BlockingCalls`, which is loaded only where there are any."""

        handlers: CallHandlers
        lane: PlainLane
        is_busy: bool

        def heed(self, frame: JsonValue) -> bool: ...
        def spin(self, seconds: float) -> bool: ...
        def serve_one(self) -> bool: ...


LONGEST_PAUSE = 86_400.0
"""Seconds after which whoever waits looks again, as after a beat: the system counts milliseconds, in an int."""


MOST_SPINS = 32
"""How many spins in one lane may find something until the others have a look: quick calls hold up no messages."""


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
        self.words: memoryview[float] = words
        self.report: Callable[[str], None] = report
        self.stop_handlers: Handlers[StopNotice] = Handlers("on_stop", report)
        self.message_handlers: Handlers[JsonValue] = Handlers("on_message", report)
        self.calls_fd: int = calls_fd
        """The calls lane."""
        self.calls: ServesCalls | None = None
        """What serves calls, from the first `on_call` on."""
        self.call: BlockingCall | None = None
        """The call whose handler is at work, and no other one inside it."""
        self.is_at_work: bool = False
        """Whether the handler of a message or a call is at work, so that no other one begins."""
        self.beats: bool = False
        """Whether the entry is ready, so that heartbeats count."""
        self.sent: int = 0
        """How many messages were queued on the messages lane."""
        self.final: str | None = None
        """The final word."""
        self.stop: StopNotice | None = None
        self.is_told: bool = False
        """Whether a handler or the entry was told of the stop."""
        self.is_over: bool = False
        """Whether the entry has ended, so that nothing is raised any more."""
        self._control = control
        self._messages = messages
        self._poll = select.poll()
        self._wanted: tuple[bool, ...] | None = None  # what it was registered for
        self._thread = get_ident()
        self._spinning = Spinning()
        self._beat_interval = facts.heartbeat_timeout / 3
        self._spins = 0  # that have found something, since all lanes were looked at
        self._has_told_of_calls = False
        self._is_ending = False  # the entry is to end
        self._gathering: Gathering | None = None  # a message whose bytes are still to come

    @property
    def status(self) -> str:
        """How far the entry is, for a `repr`."""
        if self.final is not None:
            return self.final
        if self.stop is not None:
            return "stopping"
        return "running" if self.beats else "starting"

    # What the entry calls, by way of its context.

    def ready(self) -> None:
        self.refuse_other_thread()
        self.look_for_stop()
        if not self.beats and self.final is None:
            self.beats = True
            self.beat()
            self._has_told_of_calls = self.takes_calls
            self._say(encode_ready(self.facts, concurrency=1 if self.takes_calls else 0))

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

    def look_for_stop(self) -> None:
        """End the entry if it has to end, also because of a stop without a handler."""
        if self._is_ending:
            self._end_entry()
        self._hear_of_stop()
        if self.stop is not None and not self.is_told and not self.stop_handlers and not self._is_calling:
            self._end_entry()

    def stop_requested(self) -> bool:
        self._hear_of_stop()
        if self.stop is None and not self.words[STOP]:
            return False
        if not self.stop_handlers and not self._is_calling:  # the handler of a call cannot end the entry by returning
            self.is_told = True
        return True

    def send(self, payload: object) -> None:
        self.refuse_other_thread()
        if not self._is_ending:
            self.look_for_stop()
            if self.call is not None:
                self.call.raise_if_cancelled(again=False)
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
            if not self._is_ending:
                self.serve()
                if self.call is not None:
                    self.call.raise_if_cancelled(again=False)
            if messages.written < target:  # a handler may have sent something, and waited until all had left
                self.pause(LONGEST_PAUSE, wants_messages=self.can_deliver)

    def receive(self, timeout: float) -> JsonValue:
        self.refuse_other_thread()
        self.look_for_stop()
        if self.message_handlers:
            raise LocalProtocolError(
                "receive() gets nothing while an on_message handler takes the messages; unsubscribe the handler first"
            )
        self.beat()
        began = None
        while True:
            self.serve()
            if self.call is not None:
                self.call.raise_if_cancelled()
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
                if self._spin(began + min(timeout, self._spinning.begin())):
                    if self.calls is not None and self._owes_look():
                        self.pause(0.0, wants_messages=True)
                    continue
            left = began + timeout - monotonic()
            if not self.pause(left, wants_messages=True) and left <= 0:
                self.look_for_stop()
                raise TimeoutError(f"no message within {timeout:g} s")

    def sleep(self, seconds: float) -> None:
        self.refuse_other_thread()
        self.look_for_stop()
        deadline = monotonic() + seconds
        while True:
            self.serve()
            if self.call is not None:
                self.call.raise_if_cancelled()
            left = deadline - monotonic()
            self.pause(left, wants_messages=self.can_deliver)
            if left <= 0:
                self.serve()
                return

    def say_takes_calls(self) -> None:
        """Tell the host of the first handler for calls, if `ready` has told of none."""
        if self.beats and self.final is None and self.facts.protocol > 1 and not self._has_told_of_calls:
            self._has_told_of_calls = True
            self._say(encode_takes_calls(1))

    @property
    def takes_calls(self) -> bool:
        """Whether there is a handler for calls."""
        return self.calls is not None and bool(self.calls.handlers)

    def refuse_other_thread(self) -> None:
        """Nothing here is locked, and handlers run inside these calls: two threads would lose messages unnoticed."""
        if get_ident() != self._thread:
            raise LocalProtocolError(
                "a process's context works in its main thread only; let other threads hand it their data by a queue"
            )

    # What the run does when the entry has returned or raised.

    def serve_until_the_end(self) -> None:
        """Serve handlers until one of them, or a stop, ends the entry by `EntryEnd`."""
        while True:
            self.serve()
            self.pause(LONGEST_PAUSE, wants_messages=self.can_deliver)

    def flush(self) -> None:
        while not self._messages.is_flushed:
            self.pause(LONGEST_PAUSE)

    # Stops, messages and calls.

    @property
    def _is_calling(self) -> bool:
        """Whether a call is under way: it may finish before a stop ends the entry."""
        return self.calls is not None and self.calls.is_busy

    @property
    def can_deliver(self) -> bool:
        """Whether a message that arrives now goes to a handler; otherwise it waits in the lane, and fills no memory."""
        return bool(self.message_handlers) and not (self.is_at_work or self._is_ending or self.is_over)

    def _end_entry(self) -> None:
        if not self.is_over:
            self._is_ending = True
            raise EntryEnd

    def _hear_of_stop(self) -> None:
        """Read the stop, if one was requested and has arrived."""
        if self.stop is None and self.words[STOP]:
            self.read_control()

    def serve(self) -> None:
        """Run the handlers for what has arrived; end the entry if it has to end."""
        while not self.is_over:
            # Before each message: a handler may have heard of a stop, without being the one to tell of it.
            self.look_for_stop()
            if self.stop is not None and not self.is_told and self.stop_handlers:
                self.is_told = True
                call, self.call = self.call, None  # a cancelled call is nothing to the handlers of a stop
                try:
                    self.stop_handlers.call(self.stop)
                finally:
                    self.call = call
            if not (self._deliver_one() or (self.calls is not None and self.calls.serve_one())):
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
        self.beat()  # handlers that take their time one after another are no hang
        self.is_at_work = True
        try:
            self.message_handlers.call(message)
        finally:
            self.is_at_work = False
        return True

    def _gather(self, body: bytes) -> Gathering | None:
        """Take in a frame of a message that has bytes; return the message once it is whole."""
        gathering = self._gathering
        if gathering is None:
            from spindle_trio._protocol._binary import gather_text

            gathering = gather_text(body[len(TAGGED) :])
            is_whole = not gathering.left
        else:
            is_whole = gathering.add(body)
        self._gathering = None if is_whole else gathering
        return gathering if is_whole else None

    @property
    def can_begin_call(self) -> bool:
        """Whether a call that arrives now is begun; otherwise it waits in the lane."""
        if self.stop is not None or self.words[STOP]:
            return False
        return not (self.is_at_work or self._is_calling or self._is_ending or self.is_over)

    def look_at_control(self) -> None:
        """Read what has arrived on the control lane, in the middle of a handler."""
        self.refuse_other_thread()
        self.read_control()

    def read_control(self) -> None:
        """Read what has arrived on the control lane: a stop, or what concerns calls."""
        self._control.fill()
        while (body := self._control.take()) is not None:
            frame = read_json(body)
            if not isinstance(frame, dict) or frame.get("type") != "stop":
                if self.calls is None or not self.calls.heed(frame):
                    self.report("the host sent an unknown frame: a control frame other than 'stop'")
            elif self.stop is None:
                reason = frame.get("reason")
                self.stop = StopNotice(reason if isinstance(reason, str) else None)

    # What goes to the host, and waiting.

    def say_finally(self, final: str, body: bytes) -> None:
        """Say the final word."""
        self.final = final
        self._say(body)

    def _say(self, body: bytes) -> None:
        """Send a control frame, and return when it is with the system. No handler runs meanwhile."""
        self._control.push(body)
        while not self._control.is_flushed:
            self.pause(LONGEST_PAUSE)

    def pause(self, seconds: float, *, wants_messages: bool | None = None) -> bool:
        """Wait until a lane has something, or room for what is pending, a beat at most; say whether messages came.

        Args:
            seconds: how long at most.
            wants_messages: whether to read messages; `None` where nothing is served, so that calls are not read either.
        """
        self.beat()
        control, messages, calls = self._control, self._messages, self.calls
        wanted: tuple[bool, ...] = (bool(wants_messages), control.is_flushed, messages.is_flushed)
        wants_calls = calls is not None and wants_messages is not None and self.can_begin_call
        if calls is not None:
            if wants_calls and calls.spin(seconds):
                if not self._owes_look():
                    return False
                seconds = 0.0
            wanted = (*wanted, wants_calls, calls.lane.is_flushed)
        if wanted != self._wanted:
            self._wanted = wanted
            self._poll.register(control.fd, _events(wants_input=True, wants_room=not control.is_flushed))
            self._poll.register(messages.fd, _events(bool(wants_messages), not messages.is_flushed))
            if calls is not None:
                self._poll.register(calls.lane.fd, _events(wants_calls, not calls.lane.is_flushed))
        if self.call is not None:
            seconds = min(seconds, self.call.time_left)
        span = max(0.0, min(seconds, self._beat_interval, LONGEST_PAUSE))
        has_read = False
        for fd, event in self._poll.poll(span * 1000):  # the control lane first, since it was registered first
            if event & select.POLLOUT:
                control.flush()
                messages.flush()
                if calls is not None:
                    calls.lane.flush()
            if event & ~select.POLLOUT:
                if fd == control.fd:
                    self.read_control()
                elif fd == messages.fd:
                    has_read = messages.fill()
                elif calls is not None:
                    calls.lane.fill()
        self.beat()
        return has_read

    def _spin(self, until: float) -> bool:
        """Look for messages until a moment, a stop, or the first that come; say whether some have."""
        while monotonic() < until and not self.words[STOP]:
            if self._messages.fill():
                return True
        return False

    def _owes_look(self) -> bool:
        """Whether other lanes have to be looked at now, after a spin has found something in one."""
        self._spins += 1
        if self._spins < MOST_SPINS:
            return False
        self._spins = 0
        return True

    def beat(self) -> None:
        if self.beats:
            self.words[BEAT] = monotonic()


def _events(wants_input: bool, wants_room: bool) -> int:
    return (select.POLLIN if wants_input else 0) | (select.POLLOUT if wants_room else 0)
