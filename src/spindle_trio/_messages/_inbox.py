"""Unread messages: an inbox for each process, read through cursors, bounded in messages and bytes.

Theory of operation
-------------------

A subscription is a *cursor* in the inbox: the number of the next message that it will read. A message goes when every
open cursor has passed it. What happens when the inbox is full depends on who listens:

* While a cursor is open nothing is lost. `room` falls to 0, and the task that reads from the process waits in
  `wait_room`. So the messages stay in the pipe and hold up that one child. (`put` itself never refuses, since at a
  process's end the host reads beyond the bound.)
* While none is open, the newest messages up to the bound are kept and older ones are dropped, counted, and reported
  once. A process without subscribers neither hangs nor leaks memory.
* A *lossy* inbox (the far end of a stream, which has no back-pressure per process) always drops, and a cursor that
  falls behind learns of it through `LaggedError`.

A handler counts as a cursor that is never behind: the messages that it was called with are read.

Messages come and go in batches: one `put_many` takes in the messages of one read, with one wake-up for the readers, and
one `receive_many` takes out all that is held.
Channels give up their cursors when they are closed or collected. An `InboxGroup` joins the inboxes of one worker.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Final, Protocol, TypeAlias

import trio

from spindle_trio._errors import LaggedError
from spindle_trio._linux._spinning import Spinning
from spindle_trio._messages._cursors import Cursor, Subscription
from spindle_trio._messages._process_channel import ProcessMessageChannel
from spindle_trio._model import JsonValue
from spindle_trio._trio_rules import uninterrupted

_log = logging.getLogger("spindle_trio.subscriptions")


_Held: TypeAlias = tuple[JsonValue, int, int]
"""A payload, its size in bytes, and its place among all messages of the hub."""

_NOTHING_HELD: Final[deque[_Held]] = deque()
"""What every inbox holds before its first message; an empty deque of its own would take 760 bytes."""

_RESUME_AT: Final = 32
"""The host reads into a full inbox again once this fraction of its bound is free. Otherwise each message that leaves
would wake the reading task for one more message."""


class InboxGroup(Protocol):
    """Joins the inboxes of one worker; `MessageHub` implements it."""

    @property
    def handlers(self) -> object:
        """The functions to call with each message; false if there is none."""

    @property
    def describe(self) -> Callable[[str], Mapping[str, object]]:
        """Makes the attributes of a log record about the process with an id."""

    def call_handlers(self, inbox: Inbox, payload: JsonValue) -> None:
        """Call the handlers with one message."""

    def number_arrivals(self, count: int) -> int:
        """Give messages their places in the order of all, and return the first place."""

    def attach(self, inbox: Inbox) -> None:
        """Join a new inbox."""

    def detach(self, inbox: Inbox) -> None:
        """Forget an inbox that gets nothing more."""


@uninterrupted
class Inbox:
    """The messages of one process that may still be read."""

    spinning: Spinning | None = None
    """Decides whether readers spin; made for the first message to a process in another program."""

    def __init__(
        self,
        process_id: str,
        user_id: str | None,
        *,
        max_messages: int,
        max_bytes: int,
        lossy: bool = False,
        hub: InboxGroup | None = None,
    ) -> None:
        """Begin empty, and join the hub.

        Args:
            process_id: the process that sends these messages.
            user_id: the owner of that process.
            max_messages: how many messages may be held.
            max_bytes: how many bytes may be held, besides one message that is larger.
            lossy: whether a full inbox drops its oldest message even while it has a subscriber.
            hub: the worker's hub, which reads here too.
        """
        self.process_id = process_id
        self.user_id = user_id
        self._max_messages, self._max_bytes, self._is_lossy = max_messages, max_bytes, lossy
        self._hub = hub
        self._held: deque[_Held] = _NOTHING_HELD
        self._large = (-1, 0)  # number and size of the newest message that alone is larger than the bound
        self.first: int = 0
        """The number of the oldest message held, or of the next that will come."""
        self._heard = 0  # the number after the last message that handlers have been called with
        self._cursors: list[Cursor] = []
        self._room: trio.lowlevel.ParkingLot | None = None  # made for the first task that waits
        self._worthwhile_room = max(1, max_messages // _RESUME_AT)
        self.held_bytes: int = 0
        self.received: int = 0
        self.dropped: int = 0
        self.is_closed: bool = False
        if hub is not None:
            hub.attach(self)

    def __repr__(self) -> str:
        closed = " closed" if self.is_closed else ""
        return f"<Inbox {self.process_id}{closed} held={self.held} subscriptions={self.subscriptions}>"

    @property
    def held(self) -> int:
        """How many messages are held."""
        return len(self._held)

    @property
    def subscriptions(self) -> int:
        """How many cursors are open, the hub's handlers counted as one."""
        return len(self._cursors) + self._has_handlers

    @property
    def _has_handlers(self) -> bool:
        return self._hub is not None and bool(self._hub.handlers)

    @property
    def room(self) -> int:
        """How many more messages the bound allows now; 0 pauses the reading from this process."""
        if not self._cursors or self._is_lossy:
            return self._max_messages
        return max(0, self._max_messages - len(self._held)) if self.held_bytes < self._max_bytes else 0

    async def wait_room(self) -> None:
        """Wait for room or `wake_room`; the caller checks again. A checkpoint only if it waits."""
        if not self.room:
            if self._room is None:
                self._room = trio.lowlevel.ParkingLot()
            await self._room.park()

    def wake_room(self) -> None:
        """Wake the tasks that wait for room."""
        if self._room is not None:
            self._room.unpark_all()

    def note_sent(self) -> None:
        """Note that the process was sent a message, so that a reader may spin for the answer."""
        if self.spinning is None:
            self.spinning = Spinning()
        self.spinning.note_sent()

    def put(self, payload: JsonValue, size: int) -> None:
        """Take in one message, even beyond the bound; call handlers, then wake channels."""
        self._append([payload], [size])
        if self._hub is not None and self._hub.handlers:
            self._hub.call_handlers(self, payload)
            self._heard = self.received  # even if the last handler has just unregistered
        self._tell_channels()

    def put_many(self, payloads: Sequence[JsonValue], sizes: Sequence[int]) -> None:
        """Take in messages that arrived together, oldest first: as `put` for each, but wake channels once."""
        if self._has_handlers:  # a handler may look, subscribe or leave, and must not see later messages
            for payload, size in zip(payloads, sizes, strict=True):
                self.put(payload, size)
        else:
            self._append(payloads, sizes)
            self._tell_channels()

    def _append(self, payloads: Sequence[JsonValue], sizes: Sequence[int]) -> None:
        count = len(payloads)
        arrival = self.received if self._hub is None else self._hub.number_arrivals(count)
        if self._held is _NOTHING_HELD:
            self._held = deque()
        self._held.extend(zip(payloads, sizes, range(arrival, arrival + count), strict=True))
        self.received += count
        size = sum(sizes)
        self.held_bytes += size
        if size > self._max_bytes:
            for number, size in enumerate(sizes, self.received - count):
                if size > self._max_bytes:
                    self._large = (number, size)

    def _tell_channels(self) -> None:
        for cursor in tuple(self._cursors):
            cursor.wake()
        if not self._cursors or self._is_lossy:  # otherwise no cursor has moved
            self.trim()

    def close(self) -> None:
        """Note that nothing more will come; channels end once they have read what is held. May be called twice."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._hub is not None:
            self._hub.detach(self)
        for cursor in list(self._cursors):
            cursor.wake()
        self.wake_room()

    def subscribe(self) -> ProcessMessageChannel:
        """Open a channel that begins at the oldest message held."""
        return ProcessMessageChannel(self)

    def open_cursor(self, subscription: Subscription, wake: Callable[[], None]) -> Cursor:
        """Open a cursor at the oldest message held."""
        cursor = Cursor(subscription, self.first, wake)
        self._cursors.append(cursor)
        self._close_collected()  # only now: with the new cursor open, what they leave unread is kept
        return cursor

    def close_cursor(self, cursor: Cursor) -> None:
        """Give up a cursor, once. Messages that only it had still to read are kept up to the bound."""
        if cursor in self._cursors:
            self._cursors.remove(cursor)
            self.trim()

    def _close_collected(self) -> None:
        """Give up the cursors of collected channels."""
        for cursor in tuple(self._cursors):
            if cursor.subscription.is_collected:
                self.close_cursor(cursor)

    def read(self, cursor: Cursor) -> JsonValue:
        """Read the message at a cursor, and move it on.

        Raises:
            LaggedError: messages were dropped before this cursor had read them; it moves to the oldest message held.
            trio.WouldBlock: all has been read, and more may come.
            trio.EndOfChannel: all has been read, and nothing more will come.
        """
        payload = self._held[self._position_of(cursor)][0]
        cursor.next += 1
        self.trim()
        return payload

    def read_many(self, cursor: Cursor, most: int | None) -> list[JsonValue]:
        """Read all messages from a cursor on, at most `most`, and move it on. Raises what `read` does."""
        start = self._position_of(cursor)
        end = len(self._held) if most is None else start + most
        payloads = [payload for payload, _, _ in islice(self._held, start, end)]
        cursor.next += len(payloads)
        self.trim()
        return payloads

    def _position_of(self, cursor: Cursor) -> int:
        """Find the index of the message at a cursor. Raises what `read` does."""
        position = cursor.next - self.first
        if position < 0:
            cursor.next = self.first
            raise LaggedError(-position)
        if position == len(self._held):
            raise trio.EndOfChannel if self.is_closed else trio.WouldBlock
        return position

    def has_dropped(self, cursor: Cursor) -> bool:
        """Whether the message at a cursor has been dropped."""
        return cursor.next < self.first

    def list_held(self) -> list[tuple[int, int, JsonValue]]:
        """List all messages held: for each its arrival, its number, and its payload."""
        self._close_collected()
        return [(arrival, number, payload) for number, (payload, _, arrival) in enumerate(self._held, self.first)]

    def note_heard(self) -> None:
        """Note that handlers have been called with all that is held."""
        self._heard = self.received
        self.trim()

    def trim(self) -> None:
        """Drop what every cursor has read; without subscribers, also drop the oldest beyond the bound."""
        if len(self._cursors) == 1:
            passed = self._cursors[0].next  # the usual case
        else:
            passed = min([cursor.next for cursor in self._cursors]) if self._cursors else self._heard
        if passed >= self.received:
            self.first = self.received
            self._held.clear()
            self.held_bytes = 0
        while self.first < passed:
            self._let_go()
        if not self._cursors or self._is_lossy:
            before, (number, size) = self.dropped, self._large
            most, most_bytes = self._max_messages, self._max_bytes
            while len(self._held) > most or self.held_bytes > most_bytes + (size if number >= self.first else 0):
                self._let_go()
                self.dropped += 1
            if self.dropped and not before:
                _log.warning(
                    "process %s: its messages are not read in time; the oldest are being dropped",
                    self.process_id,
                    extra=None if self._hub is None else self._hub.describe(self.process_id),
                )
        if self._room and self.room >= self._worthwhile_room:
            self._room.unpark_all()

    def _let_go(self) -> None:
        self.held_bytes -= self._held.popleft()[1]
        self.first += 1
