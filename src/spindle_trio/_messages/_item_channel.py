"""The reader's end of a stream of a process: the same where its host is and at the far end of a connection."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from spindle_trio._messages._channel import MessageReceiveChannel, check_most, take_or_wait
from spindle_trio._model import JsonValue
from spindle_trio._trio_rules import uninterrupted

T = TypeVar("T")


@uninterrupted
class ItemChannel(MessageReceiveChannel[JsonValue]):
    """The items of one stream, oldest first; and after them, what has ended it.

    Its source may send `window` items beyond those that were received here. Credit goes back in
    thirds of that, so that the source goes on while credit is under way.
    """

    def __init__(self, *, window: int, deadline: float) -> None:
        """Begin without items.

        Args:
            window: how many items may be under way.
            deadline: when its time is over, on Trio's clock.
        """
        self.deadline: float = deadline
        self.is_over: bool = False
        """Whether its source has ended it; the reader hears of that after the items."""
        self.is_given_up: bool = False
        """Whether it was cancelled here before its end."""
        self.is_relayed: bool = False
        """Whether its reader is elsewhere, and credit comes from there by `grant`."""
        self._window = self._credit = window  # items that the source may still send
        self._received = 0  # items since credit was given the last time
        self._items: deque[JsonValue] = deque()
        self._is_timed_out = False
        self._is_closed = False
        self._readers = trio.lowlevel.ParkingLot()

    # What each kind of stream does.

    @abstractmethod
    def _give_credit(self, items: int) -> None:
        """Let the source send so many items more."""

    @abstractmethod
    def _give_up(self) -> None:
        """Cancel it at its source, unless what has arrived here ends it."""

    @abstractmethod
    def _make_error(self) -> Exception | None:
        """Make the error of a stream that is over; `None` if it has ended well."""

    @abstractmethod
    def _make_timeout(self) -> Exception:
        """Make the error of a stream whose time is over."""

    # What comes from its source.

    def _put(self, item: JsonValue) -> bool:
        """Take in an item, and say whether there was credit for it."""
        if not self._credit:
            return False
        self._credit -= 1
        if not self.is_given_up:
            self._items.append(item)
            self._wake()
        return True

    def _end(self) -> None:
        """Note that nothing more comes."""
        self.is_over = True
        self._wake()

    def _wake(self) -> None:
        if self._readers:
            self._readers.unpark_all()

    # What its reader does.

    async def receive(self) -> JsonValue:
        """Wait for the next item; see `ProcessHandle.stream` for what is raised after the last one."""
        return await self._receive(self.receive_nowait)

    async def receive_many(self, most: int | None = None) -> list[JsonValue]:
        """Wait for items and return all that are there; see `MessageReceiveChannel.receive_many`."""
        check_most(most)
        return await self._receive(partial(self._take, most))

    def receive_nowait(self) -> JsonValue:
        """Return the next item if there is one; see `MessageReceiveChannel.receive_nowait`."""
        return self._take(1)[0]

    async def _receive(self, take: Callable[[], T]) -> T:
        if self.deadline == math.inf or self.is_over or self._is_timed_out:
            return await take_or_wait(take, self._readers.park)
        with trio.CancelScope(deadline=self.deadline):
            return await take_or_wait(take, self._readers.park)
        self._time_out()
        return take()

    def _take(self, most: int | None) -> list[JsonValue]:
        if self._is_closed:
            raise trio.ClosedResourceError("this stream is closed: its block was left, or close() was called")
        held = self._items
        if not held:
            self._raise_end()
        if most is None or most >= len(held):
            items = list(held)
            held.clear()
        else:
            items = [held.popleft() for _ in range(most)]
        self._received += len(items)
        if 3 * self._received >= self._window and not self.is_relayed:
            self.grant(self._received)
        return items

    def grant(self, items: int) -> None:
        """Let the source send so many items more, but no more than were received here."""
        items = min(items, self._received)
        if items and not self.is_over and not self.is_given_up:
            self._give_credit(items)
            self._credit += items
            self._received -= items

    def _raise_end(self) -> None:
        """Raise what has ended the stream, or `trio.WouldBlock` if nothing has."""
        if not self.is_over and not self._is_timed_out and trio.current_time() >= self.deadline:
            self._time_out()
        if self._is_timed_out:
            raise self._make_timeout()
        if not self.is_over:
            raise trio.WouldBlock
        raise self._make_error() or trio.EndOfChannel

    def _time_out(self) -> None:
        """Cancel it, since its time is over, unless what has arrived ends it."""
        self._give_up()
        self._is_timed_out = self._is_timed_out or not self.is_over

    def close(self) -> None:
        """End the stream, and cancel it at its source unless it has ended. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._items.clear()
        if not self.is_over and not self.is_given_up:
            self._give_up()
        self._wake()

    async def aclose(self) -> None:
        """Close, and execute a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()
