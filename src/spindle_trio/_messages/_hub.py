"""All messages of one worker's processes: joins their inboxes, and keeps the order between processes.

A channel over all processes has a cursor in each inbox, and a queue with the order of arrival. Messages that one
process sent together are one entry there, however many they are. Handlers are called with each message as it arrives,
and count as a cursor that is never behind.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._messages._broadcast import HandlerList
from spindle_trio._messages._cursors import Cursor, CursorChannel, Subscription
from spindle_trio._model import JsonValue, ProcessMessage
from spindle_trio._model._log_attributes import log_attributes
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._messages._inbox import Inbox

_SMALL_QUEUE: Final = 1024
"""Up to this length nobody checks whether the messages in a queue still exist."""


class MergedCursor(Subscription):
    """The cursors of a hub's channel, with the messages still to read in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.cursors: dict[Inbox, Cursor] = {}
        self.queue: deque[tuple[Inbox, int, int]] = deque()
        """Messages that arrived together: an inbox, the number of the first, and the number after the last."""
        self._sweep_at = _SMALL_QUEUE

    @property
    def waiting(self) -> int:
        """How many messages are still to be read, including those that a lossy inbox has dropped."""
        places = ((self.cursors.get(inbox), first, end) for inbox, first, end in self.queue)
        return sum(max(0, end - max(first, cursor.next)) for cursor, first, end in places if cursor is not None)

    def follow(self, inbox: Inbox) -> None:
        """Open a cursor in an inbox; the messages that arrive there from now on are queued here."""
        queued = inbox.received

        def arrived() -> None:
            nonlocal queued
            if inbox.is_closed:
                self.readers.unpark_all()
                self.forget_if_read(inbox)
                return
            if queued < inbox.received:  # false if a handler of these messages has subscribed, and found them held
                self.queue.append((inbox, queued, inbox.received))
                queued = inbox.received
            if len(self.queue) >= self._sweep_at:
                self._forget_dropped()
            self.readers.unpark_all()

        self.cursors[inbox] = inbox.open_cursor(self, arrived)

    def read(self) -> tuple[Inbox, JsonValue] | None:
        """Read the next message; `None` if there is none."""
        while (found := self._find()) is not None:
            inbox, cursor, _ = found
            payload = inbox.read(cursor)
            self.forget_if_read(inbox)
            return inbox, payload
        return None

    def read_many(self, most: int) -> list[tuple[Inbox, JsonValue]]:
        """Read the next messages, at most `most`; an empty list if there is none."""
        read: list[tuple[Inbox, JsonValue]] = []
        while len(read) < most and (found := self._find()) is not None:
            inbox, cursor, end = found
            if read and inbox.has_dropped(cursor):
                break  # the next call reports it
            payloads = inbox.read_many(cursor, min(end - cursor.next, most - len(read)))
            self.forget_if_read(inbox)
            read += [(inbox, payload) for payload in payloads]
        return read

    def _find(self) -> tuple[Inbox, Cursor, int] | None:
        """Find the inbox with the next message, the cursor there, and how far to read."""
        while self.queue:
            inbox, _, end = self.queue[0]
            cursor = self.cursors.get(inbox)
            if cursor is not None and cursor.next < end:
                return inbox, cursor, end
            # Read, or dropped and reported as missed.
            self.queue.popleft()
            self.forget_if_read(inbox)
        return None

    def _forget_dropped(self) -> None:
        """Remove messages that lossy inboxes have dropped, so that a queue that nobody reads stays bounded.

        The next message of each inbox stays, even if it was dropped: there the reader learns of that.
        """
        self.queue = deque(
            (inbox, first, end)
            for inbox, first, end in self.queue
            if (cursor := self.cursors.get(inbox)) is not None and (end > inbox.first or first <= cursor.next < end)
        )
        self._sweep_at = max(_SMALL_QUEUE, 2 * len(self.queue))

    def forget_if_read(self, inbox: Inbox) -> None:
        """Give up the cursor in an inbox from which nothing more can come."""
        if not inbox.is_closed:
            return
        cursor = self.cursors.get(inbox)
        if cursor is not None and cursor.next >= inbox.received:
            inbox.close_cursor(self.cursors.pop(inbox))

    def close(self) -> None:
        """Give up every cursor."""
        for inbox, cursor in self.cursors.items():
            inbox.close_cursor(cursor)
        self.cursors.clear()
        self.queue.clear()


@uninterrupted
class WorkerMessageChannel(CursorChannel[ProcessMessage]):
    """The messages of all processes of one worker, in order of arrival. Ends with the worker."""

    def __init__(self, hub: MessageHub, arrivals: MergedCursor) -> None:
        super().__init__(arrivals, partial(hub._leave, arrivals))
        self._hub = hub
        self._arrivals = arrivals

    def __repr__(self) -> str:
        return f"<WorkerMessageChannel {'closed ' if self._is_closed else ''}waiting={self._arrivals.waiting}>"

    def _next(self) -> ProcessMessage:
        read = self._arrivals.read()
        if read is None:
            raise self._nothing()
        return _message(*read)

    def _next_many(self, most: int | None) -> list[ProcessMessage]:
        read = self._arrivals.read_many(sys.maxsize if most is None else most)
        if not read:
            raise self._nothing()
        return [_message(inbox, payload) for inbox, payload in read]

    def _nothing(self) -> Exception:
        return trio.EndOfChannel() if self._hub.is_closed else trio.WouldBlock()


def _message(inbox: Inbox, payload: JsonValue) -> ProcessMessage:
    return ProcessMessage(inbox.process_id, payload, inbox.user_id)


@uninterrupted
class MessageHub:
    """All messages of one worker's processes."""

    def __init__(self, describe: Callable[[str], Mapping[str, object]] | None = None) -> None:
        """Begin with no processes and no subscribers.

        Args:
            describe: makes the attributes of a log record about the process with an id.
        """
        self.describe: Callable[[str], Mapping[str, object]] = describe or partial(log_attributes, None)
        self.handlers: HandlerList[ProcessMessage] = HandlerList(
            "messages", lambda message: self.describe(message.process_id)
        )
        self._arrivals = 0
        self.is_closed: bool = False
        self._inboxes: dict[Inbox, None] = {}
        self._channels: list[MergedCursor] = []

    def subscribe(self) -> WorkerMessageChannel:
        """Open a channel over the inboxes of all live processes and those to come, from the oldest message held."""
        arrivals = MergedCursor()
        for inbox in self._inboxes:
            arrivals.follow(inbox)
        arrivals.queue.extend((inbox, number, number + 1) for inbox, number, _ in self._list_held())
        self._channels.append(arrivals)
        return WorkerMessageChannel(self, arrivals)

    def add_handler(self, handler: Callable[[ProcessMessage], object]) -> Callable[[], None]:
        """Register a function to call with each message. It is called at once with those that are held.

        See `HandlerList.add`.
        """
        had_handlers = bool(self.handlers)
        unsubscribe = self.handlers.add(handler)
        if not had_handlers:
            # The first handler gets all that was held; a second one would get it again.
            for inbox, _, payload in self._list_held():
                self.call_handlers(inbox, payload)
            for inbox in list(self._inboxes):
                inbox.note_heard()
        return unsubscribe

    def call_handlers(self, inbox: Inbox, payload: JsonValue) -> None:
        """Call the handlers with one message."""
        self.handlers.call(_message(inbox, payload), inbox.process_id)

    def number_arrivals(self, count: int) -> int:
        """Give messages their places in the order of all, and return the first place."""
        first = self._arrivals
        self._arrivals += count
        return first

    def close(self) -> None:
        """Note that no process will send any more: channels end once they have read everything."""
        self.is_closed = True
        for arrivals in self._channels:
            arrivals.readers.unpark_all()

    def _list_held(self) -> list[tuple[Inbox, int, JsonValue]]:
        """List all messages that are held, in order of arrival: each with its inbox and its number there."""
        held = [(inbox, *message) for inbox in self._inboxes for message in inbox.list_held()]
        return [(inbox, number, payload) for inbox, _, number, payload in sorted(held, key=itemgetter(1))]

    def attach(self, inbox: Inbox) -> None:
        """Let the open channels read a new inbox."""
        self._inboxes[inbox] = None
        for arrivals in self._channels:
            arrivals.follow(inbox)

    def detach(self, inbox: Inbox) -> None:
        """Forget an inbox that gets nothing more; channels still read what it holds."""
        self._inboxes.pop(inbox, None)

    def _leave(self, arrivals: MergedCursor) -> None:
        self._channels.remove(arrivals)
        arrivals.close()
