"""The lanes of a blocking entry, and how its one thread waits for them.

`pause` polls the lanes, a third of the heartbeat timeout at most, and beats before and after. It only reads: what has
arrived is handled by `BlockingControls`.

A frame that was sent in part is always finished.
"""

from __future__ import annotations

import select
from time import monotonic

from spindle_trio._linux._shared_page import BEAT, STOP
from spindle_trio._protocol._json_text import read_json
from spindle_trio.child._handlers import StopNotice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from spindle_trio._model import JsonValue
    from spindle_trio.child._blocking_call import BlockingCall
    from spindle_trio.child._calls import CallHandlers
    from spindle_trio.child._plain_lane import PlainLane

    class ServesCalls(Protocol):
        """`BlockingCalls`, which is loaded only where there are any."""

        handlers: CallHandlers
        lane: PlainLane
        is_busy: bool

        @property
        def can_begin(self) -> bool: ...
        def heed(self, frame: JsonValue) -> bool: ...
        def end_cancelled(self) -> None: ...
        def spin(self, seconds: float) -> bool: ...
        def serve_one(self) -> bool: ...


LONGEST_PAUSE = 86_400.0
"""Seconds after which whoever waits looks again, as after a beat: the system counts milliseconds, in an int."""

MOST_SPINS = 32
"""How many spins in one lane may find something until the others have a look: quick calls hold up no messages."""


class BlockingLanes:
    """What a blocking entry hears from its host, and says to it."""

    def __init__(
        self,
        control: PlainLane,
        messages: PlainLane,
        words: memoryview[float],
        report: Callable[[str], None],
        heartbeat_timeout: float,
    ) -> None:
        """Begin for an entry that is not ready; see `BlockingControls` for the arguments."""
        self.control: PlainLane = control
        """What follows the first frame."""
        self.messages: PlainLane = messages
        """The other lane."""
        self.words: memoryview[float] = words
        """The shared page."""
        self.beats: bool = False
        """Whether the entry is ready, so that heartbeats count."""
        self.stop: StopNotice | None = None
        """The stop, once it was read."""
        self.calls: ServesCalls | None = None
        """What serves calls, from the first `on_call` on."""
        self.call: BlockingCall | None = None
        """The call whose handler is at work, and no other one inside it."""
        self._report = report
        self._beat_interval = heartbeat_timeout / 3
        self._poll = select.poll()
        self._wanted: tuple[bool, ...] | None = None  # what it was registered for
        self._spins = 0  # that have found something, since all lanes were looked at

    def beat(self) -> None:
        """Beat, if the entry is ready."""
        if self.beats:
            self.words[BEAT] = monotonic()

    def say(self, body: bytes) -> None:
        """Send a control frame, and return when it is with the system. No handler runs meanwhile."""
        self.control.push(body)
        self.flush(self.control)

    def flush(self, lane: PlainLane) -> None:
        """Wait until all frames of a lane are with the system. No handler runs meanwhile."""
        while not lane.is_flushed:
            self.pause(LONGEST_PAUSE)

    def hear_of_stop(self) -> None:
        """Read the stop, if one was requested and has arrived."""
        if self.stop is None and self.words[STOP]:
            self.read_control()

    def read_control(self) -> None:
        """Read what has arrived on the control lane: a stop, or what concerns calls."""
        self.control.fill()
        while (body := self.control.take()) is not None:
            frame = read_json(body)
            if not isinstance(frame, dict) or frame.get("type") != "stop":
                if self.calls is None or not self.calls.heed(frame):
                    self._report("the host sent an unknown frame: a control frame other than 'stop'")
            elif self.stop is None:
                reason = frame.get("reason")
                self.stop = StopNotice(reason if isinstance(reason, str) else None)
                if self.calls is not None:
                    self.calls.end_cancelled()

    def pause(self, seconds: float, *, wants_messages: bool | None = None) -> bool:
        """Wait until a lane has something, or room for what is pending, a beat at most; say whether messages came.

        Args:
            seconds: how long at most.
            wants_messages: whether to read messages; `None` where nothing is served, so that calls are not read either.
        """
        self.beat()
        control, messages, calls = self.control, self.messages, self.calls
        wanted: tuple[bool, ...] = (bool(wants_messages), control.is_flushed, messages.is_flushed)
        wants_calls = calls is not None and wants_messages is not None and calls.can_begin
        if calls is not None:
            if wants_calls and calls.spin(seconds):
                if not self.owes_look():
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

    def spin(self, lane: PlainLane, until: float) -> bool:
        """Look for what comes on a lane until a moment, a stop, or the first that comes; say whether some has."""
        while monotonic() < until and not self.words[STOP]:
            if lane.fill():
                return True
        return False

    def owes_look(self) -> bool:
        """Whether other lanes have to be looked at now, after a spin has found something in one."""
        self._spins += 1
        if self._spins < MOST_SPINS:
            return False
        self._spins = 0
        return True


def _events(wants_input: bool, wants_room: bool) -> int:
    return (select.POLLIN if wants_input else 0) | (select.POLLOUT if wants_room else 0)
