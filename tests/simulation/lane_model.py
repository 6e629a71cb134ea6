"""The oracle's model of the calls lane of one process: which calls are under way, and what its words do to them."""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import attrs

from simulation.scenario import CAUSE, PATIENCE, Act

Outcome: TypeAlias = tuple[object, ...]
"""The outcome of a call."""

FAILURES: Final = ("raise", "refuse", "say cancelled")
"""What ends a call or a stream; besides, an answer ends a call, and an end a stream."""


@attrs.frozen
class Reading:
    """A stream and its reader."""

    window: int
    credit: int
    """Items that the process may still send."""
    deadline: float
    """When its time is over."""
    read_at: float
    """When the reader wants the next item, or leaves."""
    done: int = 0
    """How many it has received."""
    put: int = 0
    """How many have arrived."""
    held: tuple[int, ...] = ()
    """Those of them that it has not received."""
    since: int = 0
    """How many it has received since credit was given."""
    credited: int = 0
    """How often credit was given."""
    over: Outcome | None = None
    """What has ended it; the reader hears of that after the items."""
    is_timed_out: bool = False


class CallsLane:
    """The calls of one process. All attributes are plain values, so that a copy is cheap."""

    def __init__(self, room: int | None, grace: float) -> None:
        self.room = room  # how many it holds if the process does not read it
        self.grace = grace  # seconds that a cancelled handler has, where its process is killed otherwise
        self.concurrency: int | None = None  # how many calls the process says that it serves at a time
        self.begins_none = False  # whether the process is stopping
        self.newest = 0  # how many of those that were sent may have been begun
        self.waiting: tuple[tuple[float, int], ...] = ()  # to be watched from then on, once they may have been begun
        self.is_taken: bool | None = None  # whether the process takes calls; `None` as long as it speaks protocol 1
        self.is_open = self.is_broken = False  # whether the host reads it; not before the first call
        self.has_been_closed = False
        self.closed_at = math.inf  # when the host loses patience with a process that has closed it
        self.said: tuple[Act, ...] = ()  # and not taken in
        self.begun: tuple[int, ...] = ()  # all that ever were sent, in order
        self.pending: tuple[int, ...] = ()  # without a last word
        self.given_up: tuple[int, ...] = ()  # their callers have gone on
        self.told: tuple[int, ...] = ()  # the process has been told to cancel them
        self.uncaused: tuple[tuple[float, int], ...] = ()  # cancelled for no known reason; when that reaches the caller
        self.watched: tuple[tuple[float, int], ...] = ()  # when the process is killed, if they have not ended
        self.late = 0
        self.streams: dict[int, Reading] = {}
        self.outcomes: tuple[tuple[int, Outcome], ...] = ()  # what callers have still to be told

    def copy(self) -> CallsLane:
        new = object.__new__(CallsLane)
        new.__dict__.update(self.__dict__)
        new.streams = dict(self.streams)
        return new

    def key(self) -> tuple[object, ...]:
        """Return a key that differs if the state does."""
        return tuple(tuple(value.items()) if value is self.streams else value for value in self.__dict__.values())

    # What the host does.

    def open(self, now: float) -> None:
        """Begin to read it."""
        if not self.is_open:
            self.is_open = True
            self._lose_patience(now)

    def begin(self, number: int) -> None:
        """Send a call."""
        self.begun, self.pending = (*self.begun, number), (*self.pending, number)
        self._look(-math.inf)

    def serve(self, concurrency: int | None, now: float) -> None:
        """Hear how many calls the process serves at a time from now on. Those that it has begun go on."""
        self.concurrency = concurrency
        self._look(now)

    def _look(self, now: float) -> None:
        """Look which calls may have been begun: in order, as many at a time as the process says."""
        if self.begins_none:
            return
        if self.concurrency is None or len(self.pending) <= self.concurrency:
            self.newest = len(self.begun)
        else:
            self.newest = max(self.newest, self.begun.index(self.pending[self.concurrency - 1]) + 1)
        waiting, self.waiting = self.waiting, ()
        for since, number in waiting:
            self.watch(number, max(since, now))

    def give_up(self, number: int, now: float, *, kills: bool) -> bool:
        """Let a caller go on, and say whether its call has not ended."""
        if number not in self.pending:
            if number not in self.streams:
                self.uncaused = tuple(other for other in self.uncaused if other[1] != number)
            return False
        self.given_up = (*self.given_up, number)
        if kills:
            self.watch(number, now)
        return True

    def watch(self, number: int, since: float) -> None:
        """Kill the process at the end of the grace period from this moment, or an earlier one, unless the call ends."""
        if self.begun.index(number) < self.newest:
            kill_at = since + self.grace
            before = {call: at for at, call in self.watched}
            before[number] = min(kill_at, before.get(number, kill_at))
            self.watched = tuple((at, call) for call, at in before.items())
        else:
            before = {call: at for at, call in self.waiting}
            before[number] = min(since, before.get(number, since))
            self.waiting = tuple((at, call) for call, at in before.items())

    def overrun(self) -> tuple[float, int]:
        """Tell which call kills the process first, and when."""
        return min(self.watched, key=lambda watched: watched[0], default=(math.inf, 0))

    def settle(self, now: float) -> None:
        """Tell callers whose handlers were cancelled a while ago, for no reason that is known."""
        due = [number for at, number in self.uncaused if at <= now]
        self.uncaused = tuple(other for other in self.uncaused if other[0] > now)
        for number in due:
            stream = self.streams.get(number)
            if stream is not None and stream.deadline <= now:  # its handler has just seen that before its reader
                self.streams[number] = attrs.evolve(stream, is_timed_out=True)
            self._finish(number, ("CallFailedError", "Cancelled"))

    def lose(self, state: str) -> None:
        """Tell all that still wait that the process has ended, and how."""
        waiting = [number for number in self.pending if number not in self.given_up]
        waiting += [number for _, number in self.uncaused]
        for number in waiting:
            # One more is on its way into the lane, and the rest has never left the host.
            is_handed_over = self.room is None or self.begun.index(number) <= self.room
            self._finish(number, ("ProcessLostError", is_handed_over, state))
        self.pending, self.uncaused, self.watched, self.waiting = (), (), (), ()

    # What the process does.

    def act(self, act: Act, now: float) -> None:
        """Note what it has done on this lane."""
        if act.what == "close calls":
            self.has_been_closed = True
            if self.is_open:
                self._lose_patience(now)
        else:
            self.said = (*self.said, act)

    def _lose_patience(self, now: float) -> None:
        if self.has_been_closed and not self.is_broken:
            self.closed_at = now + PATIENCE

    def take_in(self, now: float) -> str | None:
        """Take in all that it has said, up to what breaks the protocol; returns which call that was about."""
        if not self.is_open:
            return None
        said, self.said = self.said, ()
        for act in said:
            if self.is_broken:
                break
            if not self._hear(act, now):
                self.is_broken = True
                return "unknown kind" if act.what == "answer nonsense" else "for call"
        return None

    def _hear(self, act: Act, now: float) -> bool:
        """Take in one frame, and say whether it was allowed."""
        number = act.value
        if number not in self.pending or act.what in ("answer nobody", "answer nonsense"):
            return False
        stream, is_given_up = self.streams.get(number), number in self.given_up
        if stream is not None and act.what in ("item", "push"):
            if not stream.credit:
                return False
            held = stream.held if is_given_up else (*stream.held, stream.put)
            self.streams[number] = attrs.evolve(stream, credit=stream.credit - 1, put=stream.put + 1, held=held)
            return True
        if act.what not in (*FAILURES, "answer" if stream is None else "end"):
            return False
        self.pending = tuple(other for other in self.pending if other != number)
        self.watched = tuple(other for other in self.watched if other[1] != number)
        self.waiting = tuple(other for other in self.waiting if other[1] != number)
        self._look(now)
        if is_given_up:
            self.late += act.what != "say cancelled"
            return True
        match act.what:
            case "answer":
                self._finish(number, ("answered", number))
            case "end":
                self._finish(number, ("ended",))
            case "raise":
                self._finish(number, ("CallFailedError", "Mishap"))
            case "refuse":
                self._finish(number, ("UnknownMethodError", "other"))
            case _:
                self.uncaused = (*self.uncaused, (now + CAUSE, number))
        return True

    def _finish(self, number: int, outcome: Outcome) -> None:
        if number in self.streams:
            self.streams[number] = attrs.evolve(self.streams[number], over=outcome)
        else:
            self.outcomes = (*self.outcomes, (number, outcome))
