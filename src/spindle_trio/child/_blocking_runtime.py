"""Runs a blocking entry: calls it, takes stops, beats while it waits, and sends the final word.

Theory of operation
-------------------

Everything happens on one thread, inside the entry's own calls: there is no loop beside it. So the runtime notices
nothing while the entry computes. What must not wait uses the shared page: `heartbeat` writes one word there, and reads
another one that says whether a stop was requested. Only then is the control lane read.

Where the entry waits (`receive`, `sleep`, a `send` without room, and after it has returned), `_pause` polls both lanes,
a third of the heartbeat timeout at most, and beats before and after. What has arrived is then handled in one place,
`_serve`, which runs before each pause, since a stop may have been heard outside of one: first a stop, then messages
for which a handler is registered. A handler may itself wait; then stops are still served inside it, and further
messages wait until it has returned, so that they are handled in order.

A stop is judged once. If there is a handler, it is called. If the entry has seen it in `stop_requested`, that is
enough. Otherwise the entry is ended: `EntryEnd`, a `SystemExit`, is raised then and at each later call. `complete` and
`fail` raise the same. If the entry has sent no final word, its end decides: after `EntryEnd` it was stopped, after
another exception it failed, and after a return it completed, unless it lives on.

A frame that was sent in part is always finished. `send` counts a message when it is queued, and `run` flushes the
lanes at the end, so the count in the last frame is the number of frames that the host will find.
"""

from __future__ import annotations

import select
from _thread import get_ident  # `threading` would have to be loaded for it
from time import monotonic

from spindle_trio._errors import LocalProtocolError, PayloadError
from spindle_trio._linux._shared_page import BEAT, STOP
from spindle_trio._protocol._frames import encode_body
from spindle_trio._protocol._json_text import read_json
from spindle_trio._protocol._payload import check_payload
from spindle_trio.child._blocking_context import BlockingProcessContext
from spindle_trio.child._exit_frames import (
    describe_error,
    encode_complete,
    encode_fail,
    encode_failure,
    encode_ready,
    encode_stopped,
    members_of,
    system_exit_code,
)
from spindle_trio.child._handlers import Handlers
from spindle_trio.child._stop_notice import StopNotice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio._model import JsonValue
    from spindle_trio.child._facts import ProcessFacts
    from spindle_trio.child._plain_lane import PlainLane


LONGEST_PAUSE = 86_400.0
"""Seconds after which whoever waits looks again, as after a beat: the system counts milliseconds, in an int."""


class EntryEnd(SystemExit):
    """Raised in an entry that the runtime ends, because of a stop or of the entry's own final word."""


class BlockingRuntime:
    """One entry's run. Does what `BlockingProcessContext` offers."""

    def __init__(
        self,
        facts: ProcessFacts,
        control: PlainLane,
        messages: PlainLane,
        words: memoryview[float],
        report: Callable[[str], None],
    ) -> None:
        """Prepare to run one entry.

        Args:
            facts: what the first frame told.
            control: what follows the first frame.
            messages: the other lane.
            words: the shared page.
            report: shows a text to the author of the entry.
        """
        self.facts = facts
        self.stop_handlers: Handlers[StopNotice] = Handlers("on_stop", report)
        self.message_handlers: Handlers[JsonValue] = Handlers("on_message", report)
        self.beats: bool = False
        """Whether the entry is ready, so that heartbeats count."""
        self.sent: int = 0
        """How many messages were queued on the messages lane."""
        self._control = control
        self._messages = messages
        self._words = words
        self._report = report
        self._poll = select.poll()
        self._wanted: tuple[bool, bool, bool] | None = None  # what it was registered for
        self._thread = get_ident()
        self._beat_interval = facts.heartbeat_timeout / 3
        # What changes: the final word; the stop, and whether somebody was told of it; whether the entry is to end, and
        # whether it has, so that nothing is raised any more; whether message handlers run at this moment.
        self._final: str | None = None
        self._stop: StopNotice | None = None
        self._is_told = False
        self._is_ending = False
        self._is_over = False
        self._is_delivering = False

    @property
    def status(self) -> str:
        """How far the entry is, for a `repr`."""
        if self._final is not None:
            return self._final
        if self._stop is not None:
            return "stopping"
        return "running" if self.beats else "starting"

    # What the entry calls, by way of its context.

    def ready(self) -> None:
        self._refuse_other_thread()
        self.look_for_stop()
        if not self.beats and self._final is None:
            self.beats = True
            self._beat()
            self._say(encode_ready())

    def complete(self, result: object) -> None:
        self._refuse_other_thread()
        if self._final is None:
            body = encode_complete(result, self.sent, self.facts)
            self._final = "completed"
            self._say(body)
        self._end_entry()

    def fail(self, error: str) -> None:
        if not isinstance(error, str):
            raise TypeError(f"fail() takes a str, not {type(error).__name__}")
        self._refuse_other_thread()
        if self._final is None:
            self._final = "failed"
            self._say(encode_fail(error.strip(), self.sent, self.facts))
        self._end_entry()

    def look_for_stop(self) -> None:
        """End the entry if it has to end, also because of a stop without a handler."""
        if self._is_ending:
            self._end_entry()
        self._hear_of_stop()
        if self._stop is not None and not self._is_told and not self.stop_handlers:
            self._end_entry()

    def stop_requested(self) -> bool:
        self._hear_of_stop()
        if self._stop is None and not self._words[STOP]:
            return False
        if not self.stop_handlers:
            self._is_told = True
        return True

    def send(self, payload: object) -> None:
        self._refuse_other_thread()
        if not self._is_ending:
            self.look_for_stop()
        facts, messages = self.facts, self._messages
        check_payload(payload, facts.bounds)
        messages.push(encode_body(payload, facts.frame_bytes))
        self.sent += 1
        if messages.is_flushed:
            return  # as nearly always
        target = messages.queued  # a handler that runs meanwhile may send more
        while messages.written < target:
            if not self._is_ending:
                self._serve()
            if messages.written < target:  # a handler may have sent something, and waited until all had left
                self._pause(LONGEST_PAUSE, wants_messages=self._can_deliver)

    def receive(self, timeout: float) -> JsonValue:
        self._refuse_other_thread()
        self.look_for_stop()
        if self.message_handlers:
            raise LocalProtocolError(
                "receive() gets nothing while an on_message handler takes the messages; unsubscribe the handler first"
            )
        self._beat()
        deadline = None
        while True:
            self._serve()
            body = self._messages.take()
            if body is not None:
                return read_json(body)
            if deadline is None:
                deadline = monotonic() + timeout
            left = deadline - monotonic()
            if not self._pause(left, wants_messages=True) and left <= 0:
                self.look_for_stop()
                raise TimeoutError(f"no message within {timeout:g} s")

    def sleep(self, seconds: float) -> None:
        self._refuse_other_thread()
        self.look_for_stop()
        deadline = monotonic() + seconds
        while True:
            self._serve()
            left = deadline - monotonic()
            self._pause(left, wants_messages=self._can_deliver)
            if left <= 0:
                self._serve()
                return

    def _refuse_other_thread(self) -> None:
        """Nothing here is locked, and handlers run inside these calls: two threads would lose messages unnoticed."""
        if get_ident() != self._thread:
            raise LocalProtocolError(
                "a process's context works in its main thread only; let other threads hand it their data by a queue"
            )

    # The run, from the call to the final word.

    def run(self, function: Callable[[BlockingProcessContext], object]) -> int:
        """Run the entry to its end, and say everything on its behalf but `exiting`.

        When it returns, the entry and its clean-up function have ended, and all frames are with the operating system.

        Returns:
            The exit code: 0 after `complete` and `stopped`, 1 after a failure, and n after ``sys.exit(n)``.
        """
        self._control.fill()
        self._take_control_frames()
        if self._stop is not None:
            self._final = "stopped"
            self._say(encode_stopped(self.sent))
            return 0
        clean_up: object = None
        try:
            value = function(BlockingProcessContext(self, self._words))
            _refuse_coroutine(value)
            if callable(value):
                clean_up, value = value, None
            if self._lives_on(clean_up):
                self._serve_until_the_end()
        except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
            code = self._end_by_raising(error, clean_up)
        else:
            code = self._end_by_returning(value, clean_up)
        self._flush()
        return code

    def _lives_on(self, clean_up: object) -> bool:
        """Whether an entry that has returned wants to live on; not once it was told of a stop."""
        if self._final is not None or self._is_told:
            return False
        return clean_up is not None or bool(self.stop_handlers) or bool(self.message_handlers)

    def _serve_until_the_end(self) -> None:
        """Serve handlers until one of them, or a stop, ends the entry by `EntryEnd`."""
        while True:
            self._serve()
            self._pause(LONGEST_PAUSE, wants_messages=self._can_deliver)

    def _end_by_returning(self, value: object, clean_up: object) -> int:
        self._clean_up(clean_up)
        if self._final is None:
            try:
                self.complete(value)
            except PayloadError as error:
                self.fail(f"PayloadError: {error}")
        return self._code

    def _end_by_raising(self, error: BaseException, clean_up: object) -> int:
        """Say what follows from what the entry, or one of its handlers, has raised, and return the exit code."""
        is_ended = _holds_entry_end(error)
        code = system_exit_code(error, self._report)
        if self._final is not None and code is None:
            self._report(f"the entry raised after complete() or fail(): {describe_error(error)}")
        elif self._final is None and code is None:
            self._is_over = True
            self._final = "failed"
            self._say(encode_failure(error, self.sent, self.facts))
        self._clean_up(clean_up)
        if self._final is None:
            if is_ended:
                self._final = "stopped"
                self._say(encode_stopped(self.sent))
            elif code == 0:
                self.complete(None)
            elif code is not None:
                return code
        return self._code

    def _clean_up(self, clean_up: object) -> None:
        """Run the clean-up function that the entry has returned; what it raises is reported."""
        self._is_over = True
        if callable(clean_up):
            try:
                _refuse_coroutine(clean_up())
            except SystemExit:
                pass
            except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
                self._report(f"the clean-up function raised {describe_error(error)}")

    @property
    def _code(self) -> int:
        return 1 if self._final == "failed" else 0

    # Stops and messages.

    @property
    def _can_deliver(self) -> bool:
        """Whether a message that arrives now goes to a handler; otherwise it waits in the lane, and fills no memory."""
        return bool(self.message_handlers) and not (self._is_delivering or self._is_ending or self._is_over)

    def _end_entry(self) -> None:
        if not self._is_over:
            self._is_ending = True
            raise EntryEnd

    def _hear_of_stop(self) -> None:
        """Read the stop, if one was requested and has arrived."""
        if self._stop is None and self._words[STOP]:
            self._control.fill()
            self._take_control_frames()

    def _serve(self) -> None:
        """Run the handlers for what has arrived; end the entry if it has to end."""
        while not self._is_over:
            # Before each message: a handler may have heard of a stop, without being the one to tell of it.
            self.look_for_stop()
            if self._stop is not None and not self._is_told:
                self._is_told = True
                self.stop_handlers.call(self._stop)
            body = self._messages.take() if self._can_deliver else None
            if body is None:
                return
            self._beat()  # handlers that take their time one after another are no hang
            self._is_delivering = True
            try:
                self.message_handlers.call(read_json(body))
            finally:
                self._is_delivering = False

    def _take_control_frames(self) -> None:
        while (body := self._control.take()) is not None:
            frame = read_json(body)
            if not isinstance(frame, dict) or frame.get("type") != "stop":
                self._report("the host sent an unknown frame: a control frame other than 'stop'")
            elif self._stop is None:
                reason = frame.get("reason")
                self._stop = StopNotice(reason if isinstance(reason, str) else None)

    # What goes to the host, and waiting.

    def _say(self, body: bytes) -> None:
        """Send a control frame, and return when it is with the system. No handler runs meanwhile."""
        self._control.push(body)
        while not self._control.is_flushed:
            self._pause(LONGEST_PAUSE)

    def _flush(self) -> None:
        while not self._messages.is_flushed:
            self._pause(LONGEST_PAUSE)

    def _pause(self, seconds: float, *, wants_messages: bool = False) -> bool:
        """Wait until a lane has something or has room for what is pending, for one beat at most.

        Returns:
            Whether messages have been read.
        """
        self._beat()
        control, messages = self._control, self._messages
        wanted = (wants_messages, control.is_flushed, messages.is_flushed)
        if wanted != self._wanted:
            self._wanted = wanted
            self._poll.register(control.fd, _events(wants_input=True, wants_room=not control.is_flushed))
            self._poll.register(messages.fd, _events(wants_messages, not messages.is_flushed))
        span = max(0.0, min(seconds, self._beat_interval, LONGEST_PAUSE))
        has_read = False
        for fd, event in self._poll.poll(span * 1000):  # the control lane first, since it was registered first
            if event & select.POLLOUT:
                control.flush()
                messages.flush()
            if event & ~select.POLLOUT:
                if fd == control.fd:
                    control.fill()
                    self._take_control_frames()
                else:
                    has_read = messages.fill()
        self._beat()
        return has_read

    def _beat(self) -> None:
        if self.beats:
            self._words[BEAT] = monotonic()


def _events(wants_input: bool, wants_room: bool) -> int:
    return (select.POLLIN if wants_input else 0) | (select.POLLOUT if wants_room else 0)


def _refuse_coroutine(value: object) -> None:
    """Fail an entry that looked like a plain function, and was not.

    Raises:
        TypeError: the value would have to be awaited.
    """
    if hasattr(value, "__await__"):
        close = getattr(value, "close", None)
        if callable(close):
            close()  # nobody will await it, and that is said here, not by a warning
        raise TypeError("a plain function returned an awaitable; make it `async def`, or do not await in it")


def _holds_entry_end(error: BaseException) -> bool:
    """Whether the runtime has ended the entry: alone, or in a group with nothing but other exits."""
    members = members_of(error)
    return all(isinstance(member, SystemExit) for member in members) and any(
        isinstance(member, EntryEnd) for member in members
    )
