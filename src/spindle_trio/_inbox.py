"""What processes have sent and nobody has read yet: an inbox each, read through cursors, bounded in messages and bytes.

Theory of operation
-------------------

A subscription is a *cursor* in the inbox: the number of the next message that it will read. A message goes when every
open cursor has passed it. Which bound applies when the inbox is full depends on who listens:

* While a cursor is open nothing is lost. `has_room` turns false, and whoever reads from the process waits in
  `wait_room` and so leaves the messages in the pipe, where they hold up that one child. (`put` itself never refuses:
  what has been read has been read, and at an end the host reads beyond the bound.)
* While none is open, the newest messages up to the bound are kept and older ones are dropped, counted, and reported
  once. A process that nobody listens to is neither wedged nor a leak.
* A *lossy* inbox (the far end of a stream, which has no back-pressure per process) always drops, and a cursor that
  falls behind learns of it through `LaggedError`.

A handler counts as a cursor that is never behind: what it has been called with is read.

A `MessageHub` joins the inboxes of one worker's processes. Its channels have a cursor in each inbox, and a queue of
arrivals that keeps the order between processes. Channels give up their cursors when they are closed or collected.
"""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, TypeVar

import attrs
import trio

from spindle_trio._broadcast import Handlers
from spindle_trio._errors import LaggedError
from spindle_trio._model import JsonValue, ProcessMessage

T = TypeVar("T")

_log = logging.getLogger("spindle_trio.subscriptions")

_SMALL_QUEUE: Final = 1024
"""Places in a hub's queue up to which nobody looks whether their messages still exist."""


@attrs.define(eq=False)
class _Cursor:
    """A reader's place in one inbox."""

    next: int
    """The number of the next message that it will read."""
    wake: Callable[[], None]
    """Tells the reader that something has arrived, or that nothing will any more."""


@attrs.frozen
class _Held:
    payload: JsonValue
    size: int
    arrival: int
    """Its place in the order of all messages of the hub."""


class Inbox:
    """The messages of one process that somebody may still read."""

    def __init__(
        self,
        process_id: str,
        user_id: str | None,
        *,
        max_messages: int,
        max_bytes: int,
        lossy: bool = False,
        hub: MessageHub | None = None,
    ) -> None:
        """Begin empty, and join the hub.

        Args:
            process_id: whose messages these are.
            user_id: whose process that is.
            max_messages: how many messages may be held.
            max_bytes: how many bytes of them.
            lossy: whether a full inbox drops its oldest message even while somebody listens.
            hub: the worker's hub, which reads here too.
        """
        self.process_id = process_id
        self.user_id = user_id
        self._max_messages, self._max_bytes, self._is_lossy = max_messages, max_bytes, lossy
        self._hub = hub
        self._held: deque[_Held] = deque()
        self._first = 0  # the number of the oldest message held
        self._heard = 0  # the number after the last message that handlers have been called with
        self._cursors: list[_Cursor] = []
        self._room = trio.lowlevel.ParkingLot()
        self.held_bytes: int = 0
        self.received: int = 0
        self.dropped: int = 0
        self.is_closed: bool = False
        if hub is not None:
            hub._attach(self)

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
        """Wait until there may be room, or until `wake_room`; the caller looks again. A checkpoint only if it waits."""
        if not self.room:
            await self._room.park()

    def wake_room(self) -> None:
        """Wake whoever waits for room, to look again."""
        self._room.unpark_all()

    def put(self, payload: JsonValue, size: int) -> None:
        """Take in one message, beyond the bound if need be, and tell handlers and then channels."""
        self.received += 1
        message = _Held(payload, size, next(self._hub.arrivals) if self._hub else self.received)
        self._held.append(message)
        self.held_bytes += size
        if self._hub is not None and self._hub.handlers:
            self._hub.call_handlers(self, payload)
            self._heard = self.received  # also if that was the last that a handler wanted to hear
        for cursor in list(self._cursors):
            cursor.wake()
        self.trim()

    def close(self) -> None:
        """Say that nothing more will come; channels end once they have read what is held. May be called twice."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._hub is not None:
            self._hub._detach(self)
        for cursor in list(self._cursors):
            cursor.wake()
        self._room.unpark_all()

    def subscribe(self) -> MessageChannel:
        """Open a channel that begins at the oldest message held."""
        return MessageChannel(self)

    def open_cursor(self, wake: Callable[[], None]) -> _Cursor:
        """Open a cursor at the oldest message held."""
        cursor = _Cursor(self._first, wake)
        self._cursors.append(cursor)
        return cursor

    def close_cursor(self, cursor: _Cursor) -> None:
        """Give a cursor up; the messages that only it had still to read are kept up to the bound."""
        self._cursors.remove(cursor)
        self.trim()

    def read(self, cursor: _Cursor) -> JsonValue:
        """Read the message at a cursor, and move it on.

        Raises:
            LaggedError: messages were dropped before this cursor had read them; it has been moved on to what is held.
            trio.WouldBlock: all has been read, and more may come.
            trio.EndOfChannel: all has been read, and nothing more will come.
        """
        if cursor.next < self._first:
            missed, cursor.next = self._first - cursor.next, self._first
            raise LaggedError(missed)
        position = cursor.next - self._first
        if position == len(self._held):
            raise trio.EndOfChannel if self.is_closed else trio.WouldBlock
        payload = self._held[position].payload
        cursor.next += 1
        self.trim()
        return payload

    def arrivals_after(self, cursor: _Cursor) -> list[tuple[int, int]]:
        """List the messages that a cursor has still to read, as pairs of arrival and number."""
        start = max(cursor.next, self._first) - self._first
        return [(held.arrival, self._first + number) for number, held in enumerate(self._held) if number >= start]

    def take_all(self) -> list[tuple[int, JsonValue]]:
        """List what is held, as pairs of arrival and payload, for a handler that has just been registered."""
        return [(held.arrival, held.payload) for held in self._held]

    def note_heard(self) -> None:
        """Note that handlers have been called with all that is held."""
        self._heard = self.received
        self.trim()

    def trim(self) -> None:
        """Let go of what everybody has read, and of the oldest where nobody listens and the bound is passed."""
        passed = min([cursor.next for cursor in self._cursors]) if self._cursors else self._heard
        while self._held and self._first < passed:
            self._let_go()
        if not self._cursors or self._is_lossy:
            before = self.dropped
            while len(self._held) > self._max_messages or self.held_bytes > self._max_bytes:
                self._let_go()
                self.dropped += 1
            if self.dropped and not before:
                _log.warning(
                    "process %s: nobody reads its messages in time, and the oldest are being dropped", self.process_id
                )
        if self._room and self.room:
            self._room.unpark_all()

    def _let_go(self) -> None:
        self.held_bytes -= self._held.popleft().size
        self._first += 1


class _InboxChannel(trio.abc.ReceiveChannel[T], Generic[T]):
    """What both kinds of message channel share: waiting, closing, and giving up cursors when collected."""

    def __init__(self, readers: trio.lowlevel.ParkingLot, give_up: Callable[[], None]) -> None:
        self._is_closed = False
        self._readers = readers
        self._give_up = give_up  # must not hold the channel, which could not be collected then
        self._token = trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_run() else None

    async def receive(self) -> T:
        """Wait for the next message and return it. If cancelled, nothing is lost.

        Raises:
            trio.EndOfChannel: nothing more will come, and all has been received.
            trio.ClosedResourceError: this channel was closed.
            LaggedError: only at the far end of a stream: messages were dropped; the next call goes on.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            message = self.receive_nowait()
        except trio.WouldBlock:
            pass
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return message
        while True:
            await self._readers.park()
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                continue

    def receive_nowait(self) -> T:
        """Return the next message if there is one.

        Raises:
            trio.WouldBlock: there is none now.
            trio.EndOfChannel: as in `receive`.
            trio.ClosedResourceError: as in `receive`.
            LaggedError: as in `receive`.
        """
        if self._is_closed:
            raise trio.ClosedResourceError
        return self._next()

    def close(self) -> None:
        """Give up this subscription. Who waits in `receive` gets `trio.ClosedResourceError`. May be called twice."""
        if not self._is_closed:
            self._is_closed = True
            self._give_up()
            self._readers.unpark_all()

    async def aclose(self) -> None:
        """Close, and execute a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __del__(self) -> None:
        # A channel that nobody holds is one that nobody reads: without this its cursor would hold up the child. A
        # collection may happen in any thread and in the middle of anything, an inbox's own work too: so not just now.
        if getattr(self, "_is_closed", True):
            return
        if self._token is None:
            self._give_up()
            return
        try:
            self._token.run_sync_soon(self._give_up)
        except trio.RunFinishedError:
            pass

    @abstractmethod
    def _next(self) -> T:
        """Read one message, or raise what `receive_nowait` does."""


def _waker(lot: trio.lowlevel.ParkingLot) -> Callable[[], None]:
    """Make what wakes a channel's readers without holding the channel, so that it can be collected."""

    def wake() -> None:
        lot.unpark_all()

    return wake


class MessageChannel(_InboxChannel[JsonValue]):
    """The payloads of one process, from the oldest that is still held. Ends when the process has."""

    def __init__(self, inbox: Inbox) -> None:
        readers = trio.lowlevel.ParkingLot()
        self._inbox = inbox
        self._cursor = inbox.open_cursor(_waker(readers))
        super().__init__(readers, partial(inbox.close_cursor, self._cursor))

    def __repr__(self) -> str:
        return f"<MessageChannel {'closed ' if self._is_closed else ''}of {self._inbox!r}>"

    def _next(self) -> JsonValue:
        return self._inbox.read(self._cursor)


class _Arrivals:
    """What a hub's channel has still to read, in the order of arrival, with its cursors."""

    def __init__(self) -> None:
        self.lot: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self.cursors: dict[Inbox, _Cursor] = {}
        self.queue: deque[tuple[Inbox, int]] = deque()
        self._sweep_at = _SMALL_QUEUE

    def follow(self, inbox: Inbox) -> None:
        """Open a cursor in an inbox; each message that arrives there is queued here."""

        def arrived() -> None:
            if inbox.is_closed:
                self.lot.unpark_all()
                self.forget_if_read(inbox)
                return
            self.queue.append((inbox, inbox.received - 1))
            if len(self.queue) >= self._sweep_at:
                self._forget_dropped()
            self.lot.unpark_all()

        self.cursors[inbox] = inbox.open_cursor(arrived)

    def _forget_dropped(self) -> None:
        """Let go of the places of messages that lossy inboxes have dropped: a queue that nobody reads stays bounded.

        The place of the next message of each inbox stays, also if that one was dropped: there the reader learns of it.
        """
        self.queue = deque(
            (inbox, number)
            for inbox, number in self.queue
            if (cursor := self.cursors.get(inbox)) is not None and (number >= inbox._first or number == cursor.next)
        )
        self._sweep_at = max(_SMALL_QUEUE, 2 * len(self.queue))

    def forget_if_read(self, inbox: Inbox) -> None:
        """Give up the cursor in an inbox from which nothing more can come."""
        cursor = self.cursors.get(inbox)
        if cursor is not None and inbox.is_closed and cursor.next >= inbox.received:
            inbox.close_cursor(self.cursors.pop(inbox))

    def close(self) -> None:
        """Give up every cursor."""
        for inbox, cursor in self.cursors.items():
            inbox.close_cursor(cursor)
        self.cursors.clear()
        self.queue.clear()


class WorkerMessageChannel(_InboxChannel[ProcessMessage]):
    """The messages of all processes of one worker, in order of arrival. Ends when the worker has."""

    def __init__(self, hub: MessageHub, arrivals: _Arrivals) -> None:
        super().__init__(arrivals.lot, partial(hub._leave, arrivals))
        self._hub = hub
        self._arrivals = arrivals

    def __repr__(self) -> str:
        return f"<WorkerMessageChannel {'closed ' if self._is_closed else ''}waiting={len(self._arrivals.queue)}>"

    def _next(self) -> ProcessMessage:
        queue = self._arrivals.queue
        while queue:
            inbox, number = queue[0]
            cursor = self._arrivals.cursors.get(inbox)
            if cursor is None or cursor.next > number:
                # Dropped, and reported as missed; or here twice, since a handler that it was given to subscribed.
                queue.popleft()
                self._arrivals.forget_if_read(inbox)
                continue
            payload = inbox.read(cursor)
            queue.popleft()
            self._arrivals.forget_if_read(inbox)
            return ProcessMessage(inbox.process_id, payload, inbox.user_id)
        raise trio.EndOfChannel if self._hub.is_closed else trio.WouldBlock


class MessageHub:
    """All messages of one worker's processes."""

    def __init__(self) -> None:
        """Begin with no processes and no subscribers."""
        self.handlers: Handlers[ProcessMessage] = Handlers[ProcessMessage]("messages")
        self.arrivals: itertools.count[int] = itertools.count()
        self.is_closed: bool = False
        self._inboxes: dict[Inbox, None] = {}
        self._channels: list[_Arrivals] = []

    def subscribe(self) -> WorkerMessageChannel:
        """Open a channel over the inboxes of all live processes and those to come, from the oldest message held."""
        arrivals = _Arrivals()
        waiting: list[tuple[int, Inbox, int]] = []
        for inbox in self._inboxes:
            arrivals.follow(inbox)
            waiting += [(arrival, inbox, number) for arrival, number in inbox.arrivals_after(arrivals.cursors[inbox])]
        arrivals.queue.extend((inbox, number) for _, inbox, number in sorted(waiting, key=lambda entry: entry[0]))
        self._channels.append(arrivals)
        return WorkerMessageChannel(self, arrivals)

    def add_handler(self, handler: Callable[[ProcessMessage], object]) -> Callable[[], None]:
        """Register a function to call with each message; it is called at once with those that are held.

        See `Handlers.add`.
        """
        had_handlers = bool(self.handlers)
        unsubscribe = self.handlers.add(handler)
        if not had_handlers:
            # Whoever came first has all that was kept while nobody listened; it would be read twice by a second one.
            held = [(arrival, inbox, payload) for inbox in self._inboxes for arrival, payload in inbox.take_all()]
            for _, inbox, payload in sorted(held, key=lambda entry: entry[0]):
                self.call_handlers(inbox, payload)
            for inbox in list(self._inboxes):
                inbox.note_heard()
        return unsubscribe

    def call_handlers(self, inbox: Inbox, payload: JsonValue) -> None:
        """Tell the handlers of one message."""
        self.handlers.call(ProcessMessage(inbox.process_id, payload, inbox.user_id), inbox.process_id)

    def close(self) -> None:
        """Say that no process will send any more: channels end once they have read what there is."""
        self.is_closed = True
        for arrivals in self._channels:
            arrivals.lot.unpark_all()

    def _attach(self, inbox: Inbox) -> None:
        self._inboxes[inbox] = None
        for arrivals in self._channels:
            arrivals.follow(inbox)

    def _detach(self, inbox: Inbox) -> None:
        self._inboxes.pop(inbox, None)

    def _leave(self, arrivals: _Arrivals) -> None:
        self._channels.remove(arrivals)
        arrivals.close()
