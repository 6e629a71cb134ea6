"""Cursors: the places of message channels in the inboxes that they read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import attrs
import trio

from spindle_trio._linux._spinning import Spinning
from spindle_trio._messages._channel import MessageReceiveChannel, check_most, take_or_wait
from spindle_trio._trio_rules import uninterrupted

T = TypeVar("T")


@uninterrupted
class Subscription:
    """The state that a channel shares with its cursors. They must not hold the channel, or it is never collected."""

    def __init__(self) -> None:
        self.readers: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        """The tasks that wait in the channel."""
        self.is_collected: bool = False
        """Whether the channel has been collected: its cursors are about to be given up."""

    def wake(self) -> None:
        """Wake the channel's readers."""
        if self.readers:
            self.readers.unpark_all()


@attrs.define(eq=False)
class Cursor:
    """A reader's place in one inbox."""

    subscription: Subscription
    """The channel's state."""
    next: int
    """The number of the next message to read."""
    wake: Callable[[], None]
    """Called when something has arrived, or when nothing more will."""


@uninterrupted
class CursorChannel(MessageReceiveChannel[T]):
    """The base of both kinds of channel: waiting, closing, and giving up cursors when collected."""

    def __init__(self, subscription: Subscription, give_up: Callable[[], None]) -> None:
        self._is_closed = False
        self._subscription = subscription
        self._readers = subscription.readers
        self._give_up = give_up  # must not hold the channel, or it is never collected
        self._token = trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_run() else None

    async def receive(self) -> T:
        """Wait for the next message and return it; see `MessageReceiveChannel.receive`."""
        return await take_or_wait(self.receive_nowait, self._readers.park, self._spinning)

    async def receive_many(self, most: int | None = None) -> list[T]:
        """Wait for messages and return all that are there; see `MessageReceiveChannel.receive_many`."""
        check_most(most)
        return await take_or_wait(partial(self._receive_many_nowait, most), self._readers.park, self._spinning)

    def receive_nowait(self) -> T:
        """Return the next message if there is one; see `MessageReceiveChannel.receive_nowait`."""
        if self._is_closed:
            raise trio.ClosedResourceError
        return self._next()

    def _receive_many_nowait(self, most: int | None) -> list[T]:
        if self._is_closed:
            raise trio.ClosedResourceError
        return self._next_many(most)

    def close(self) -> None:
        """Give up this subscription; see `MessageReceiveChannel.close`."""
        if not self._is_closed:
            self._is_closed = True
            self._give_up()
            self._readers.unpark_all()

    async def aclose(self) -> None:
        """Close, and execute a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __del__(self) -> None:
        # Nobody reads a channel that nobody holds: without this its cursor would hold up the child. A collection may
        # happen in any thread and in the middle of anything, even of an inbox's own work. So the cursors go later, or
        # with the next subscription.
        if getattr(self, "_is_closed", True):
            return
        self._subscription.is_collected = True
        if self._token is None:
            self._give_up()
            return
        try:
            self._token.run_sync_soon(self._give_up)
        except trio.RunFinishedError:
            pass

    @property
    def _spinning(self) -> Spinning | None:
        """Decides whether a reader looks again before it sleeps; `None` for never."""
        return None

    @abstractmethod
    def _next(self) -> T:
        """Read one message, or raise what `receive_nowait` does."""

    @abstractmethod
    def _next_many(self, most: int | None) -> list[T]:
        """Read one message or more, or raise what `receive_nowait` does."""
