"""Messages to an `async` entry: read from the lane once the entry asks, and held until every reader has them.

Theory of operation
-------------------

Until the entry has asked for messages, by `messages()` or `on_message`, nothing is read: they wait in the lane, and
behind it in the host. From then on one task reads a batch at a time and numbers the messages. Each open channel is a
cursor, and the handlers together are one more, which is never behind. A message is held until every cursor has passed
it; while any is held, the next batch is not read, so that a slow reader holds up its sender and not this
process's memory. A later reader begins with the oldest message still held: an entry may leave an ``async for``
by ``break`` and go on in a new one without losing what had been read for the first.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._errors import PeerProtocolError
from spindle_trio._linux._spinning import Spinning
from spindle_trio._messages._channel import MessageReceiveChannel, check_most, take_or_wait
from spindle_trio._protocol._frames import TAGGED
from spindle_trio._protocol._json_text import read_json
from spindle_trio.child._handlers import Handlers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from spindle_trio._model import JsonValue
    from spindle_trio._protocol._binary import Gathering
    from spindle_trio.abc import FrameLane

_BATCH_FRAMES: Final = 1024


class MessageIntake:
    """The messages read for an entry, with a cursor for each of its channels."""

    def __init__(
        self,
        lane: FrameLane,
        start_soon: Callable[[Callable[[], Awaitable[object]]], None],
        report: Callable[[str], None],
        exited: Callable[[SystemExit], None],
    ) -> None:
        """Begin without reading.

        Args:
            lane: the messages lane; nothing else may receive on it.
            start_soon: starts the reading task.
            report: called with a text when a handler raises or the host sends something that is not JSON.
            exited: called when a handler raises `SystemExit`.
        """
        self._lane = lane
        self._start_soon = start_soon
        self._report = report
        self._exited = exited
        self._token = trio.lowlevel.current_trio_token()
        # The messages held, and the number of the first; the cursors; the waiting tasks.
        self._held: deque[JsonValue] = deque()
        self._first = 0
        self._gathering: Gathering | None = None  # a message whose bytes are still to come
        self._handlers: Handlers[JsonValue] | None = None
        self._handled = 0
        self._cursors: dict[int, int] = {}
        self._collected: deque[int] = deque()  # cursors of collected channels
        self._next_cursor = 0
        self._is_reading = self._has_ended = False
        self.spinning: Spinning = Spinning()
        """Decides whether a channel's reader looks again before it sleeps."""
        self._arrived = trio.lowlevel.ParkingLot()
        self._passed = trio.lowlevel.ParkingLot()

    @property
    def has_handlers(self) -> bool:
        """Whether a message handler is registered."""
        return bool(self._handlers)

    def add_handler(self, handler: Callable[[JsonValue], object]) -> Callable[[], None]:
        """Call this function with each message, from the oldest still held on; see `ProcessContext.on_message`."""
        self._give_up_collected()
        handlers = self._handlers
        if handlers is None:
            handlers = self._handlers = Handlers("on_message", self._report)
        was_empty = not handlers
        unsubscribe = handlers.add(handler)
        if was_empty:
            self._handled = max(self._handled, self._first)
        self._read_from_now_on()

        def take_back() -> None:
            unsubscribe()
            self._let_go_of_passed()

        return take_back

    def open_channel(self) -> MessageChannel:
        """Open a channel with a cursor of its own; see `ProcessContext.messages`."""
        self._give_up_collected()
        cursor = self._next_cursor
        self._next_cursor += 1
        self._cursors[cursor] = self._first
        self._read_from_now_on()
        return MessageChannel(self, cursor)

    def take(self, cursor: int) -> JsonValue:
        """Take the next message for one cursor.

        Raises:
            trio.WouldBlock: none has arrived.
            trio.EndOfChannel: none will arrive any more.
            trio.ClosedResourceError: the cursor was given up.
        """
        offset = self._offset_of(cursor)
        payload = self._held[offset]
        self._cursors[cursor] += 1
        if offset == 0:
            self._let_go_of_passed()
        return payload

    def take_many(self, cursor: int, most: int | None) -> list[JsonValue]:
        """Take all messages for one cursor, at most `most`. Raises what `take` does."""
        offset = self._offset_of(cursor)
        payloads = list(islice(self._held, offset, None if most is None else offset + most))
        self._cursors[cursor] += len(payloads)
        if offset == 0:
            self._let_go_of_passed()
        return payloads

    def _offset_of(self, cursor: int) -> int:
        """Find the index of a cursor's next message. Raises what `take` does."""
        number = self._cursors.get(cursor)
        if number is None:
            raise trio.ClosedResourceError
        offset = number - self._first
        if offset >= len(self._held):
            raise trio.EndOfChannel if self._has_ended else trio.WouldBlock
        return offset

    def look(self) -> bool:
        """Read what has arrived, without waiting for it, and say whether there was anything; for a channel's owner."""
        try:
            self._take(self._lane.receive_nowait(_BATCH_FRAMES))
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            return False
        except (ValueError, PeerProtocolError):
            return False  # the task that reads comes to it as well, and reports it
        return True

    def is_open(self, cursor: int) -> bool:
        """Whether this cursor still counts."""
        return cursor in self._cursors

    def retire_handlers(self) -> None:
        """Stop calling handlers: the entry has said its final word."""
        self._handlers = None

    async def wait_arrival(self) -> None:
        """Wait until something has arrived, a cursor was given up, or nothing will arrive any more."""
        await self._arrived.park()

    def give_up(self, cursor: int) -> None:
        """Forget a cursor: its channel was closed."""
        self._cursors.pop(cursor, None)
        self._arrived.unpark_all()
        self._let_go_of_passed()

    def give_up_later(self, cursor: int) -> None:
        """Forget a cursor whose channel was collected, which may happen at any moment and in any thread."""
        self._collected.append(cursor)
        try:
            self._token.run_sync_soon(self._give_up_collected)
        except trio.RunFinishedError:
            pass

    def _give_up_collected(self) -> None:
        """Forget these cursors now."""
        while self._collected:
            self.give_up(self._collected.popleft())

    def _read_from_now_on(self) -> None:
        if self._is_reading:
            self._passed.unpark_all()
        else:
            self._is_reading = True
            self._start_soon(self._read)

    async def _read(self) -> None:
        """Read while there are readers, a batch at a time."""
        try:
            while True:
                self._hand_over()
                if self._held or not (self._cursors or self._handlers):
                    await self._passed.park()
                    continue
                self._take(await self._lane.receive(_BATCH_FRAMES))
                self._arrived.unpark_all()
        except (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the host has closed this lane, and ends the process; the control lane shows the rest
        except (ValueError, PeerProtocolError) as error:
            self._report(f"the host sent a message that is not JSON: {error}")
        finally:
            self._has_ended = True
            self._arrived.unpark_all()

    def _take(self, bodies: list[bytes]) -> None:
        """Take in messages.

        Raises:
            ValueError: one is not JSON; those before it are there.
        """
        before = len(self._held)
        if self._gathering is None:
            try:
                self._held.extend(map(read_json, bodies))
            except ValueError:
                bodies = bodies[len(self._held) - before :]
                if not bodies[0].startswith(TAGGED):
                    raise
            else:
                return
        from spindle_trio._protocol._binary import gather

        for body in bodies:
            if self._gathering is None and not body.startswith(TAGGED):
                self._held.append(read_json(body))
                continue
            gathering = gather(self._gathering, body)
            self._gathering = gathering if gathering.left else None
            if not gathering.left:
                self._held.append(gathering.value)

    def _hand_over(self) -> None:
        """Call the handlers with the messages that they have not had."""
        try:
            while self._handlers and self._handled < self._first + len(self._held):
                payload = self._held[self._handled - self._first]
                self._handled += 1
                self._handlers.call(payload)
        except SystemExit as asked:
            self._exited(asked)
        self._let_go_of_passed()

    def _let_go_of_passed(self) -> None:
        """Drop what every cursor has passed, and wake the reading task once nothing is left."""
        places = list(self._cursors.values())
        if self._handlers:
            places.append(self._handled)
        if not places or not self._held:
            return
        passed = min(places) - self._first
        self._first += passed
        if passed == len(self._held):
            self._held.clear()
        for _ in range(min(passed, len(self._held))):
            self._held.popleft()
        if not self._held:
            self._passed.unpark_all()


class MessageChannel(MessageReceiveChannel["JsonValue"]):
    """The messages of a process as a Trio channel. Several tasks may share one; each message goes to one of them."""

    def __init__(self, intake: MessageIntake, cursor: int) -> None:
        self._intake = intake
        self._cursor = cursor

    def __repr__(self) -> str:
        return f"<MessageChannel {'open' if self._intake.is_open(self._cursor) else 'closed'}>"

    def receive_nowait(self) -> JsonValue:
        """Return the next message if it has been read already; see `MessageReceiveChannel.receive_nowait`."""
        return self._intake.take(self._cursor)

    async def receive(self) -> JsonValue:
        """Wait for the next message and return it; see `MessageReceiveChannel.receive`."""
        return await take_or_wait(self.receive_nowait, self._intake.wait_arrival, self._intake.spinning)

    async def receive_many(self, most: int | None = None) -> list[JsonValue]:
        """Wait for messages and return all that have been read; see `MessageReceiveChannel.receive_many`."""
        check_most(most)
        take = partial(self._intake.take_many, self._cursor, most)
        return await take_or_wait(take, self._intake.wait_arrival, self._intake.spinning)

    def close(self) -> None:
        """Give up this channel's place: messages that it has not received only wait for other channels and handlers."""
        self._intake.give_up(self._cursor)

    async def aclose(self) -> None:
        """Close, and let other tasks run."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __del__(self) -> None:
        # Nobody can read it any more: without this its place would hold up the sender for good.
        intake = getattr(self, "_intake", None)
        if intake is not None and intake.is_open(self._cursor):
            intake.give_up_later(self._cursor)
