"""The reader's end of a stream: items that a generator in a process yields."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from spindle_trio._errors import PeerProtocolError
from spindle_trio._messages._channel import MessageReceiveChannel, check_most, take_or_wait
from spindle_trio._model import JsonValue
from spindle_trio._protocol._call_answers import Failure
from spindle_trio._supervision._pending_call import Lost, Outcome
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._errors import CallError
    from spindle_trio._model import CallRequest

T = TypeVar("T")


class StreamOwner(Protocol):
    """The calls that a stream belongs to; `ProcessCalls` implements it."""

    def give_up(self, call: CallStream) -> None:
        """Cancel it in the process, unless it has ended."""

    def give_credit(self, stream: CallStream, items: int) -> None:
        """Let it send so many items more."""

    def error_of(self, call: CallStream, outcome: Failure | Lost | None) -> CallError:
        """Make the error for its reader; of `None` for one whose time was over."""


@uninterrupted
class CallStream(MessageReceiveChannel[JsonValue]):
    """The items of one stream, oldest first; and after them, what has ended it.

    The process may send `window` items beyond those that were received here. Credit goes back in halves of that.
    """

    def __init__(self, owner: StreamOwner, request: CallRequest, *, deadline: float) -> None:
        """Begin a stream that has not been sent.

        Args:
            owner: sends what it has to say.
            request: what was asked for.
            deadline: when its time is over, on Trio's clock.
        """
        assert request.window is not None, "a stream has a window"
        self.method: str = request.method
        self.kills: bool = request.overrun == "kill"
        self.timeout: float = request.timeout
        self.deadline: float = deadline
        self.call_id: int = 0
        """Set when it has been sent."""
        self.outcome: Outcome | None = None
        """What ended it; the reader hears of that after the items."""
        self.is_given_up: bool = False
        """Whether it was cancelled here before its end."""
        self._owner = owner
        self._window = self._credit = request.window  # items that the process may still send
        self._received = 0  # items since credit was given the last time
        self.is_relayed: bool = False
        """Whether its reader is elsewhere, and credit comes from there by `grant`."""
        self._items: deque[JsonValue] = deque()
        self._is_timed_out = False
        self._is_closed = False
        self._readers = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open" if self.outcome is None else "ended"
        return f"<CallStream {state} {self.method!r} {len(self._items)} items held>"

    # What comes from the process.

    def put(self, item: JsonValue) -> None:
        """Take in an item.

        Raises:
            PeerProtocolError: the process had no credit for it.
        """
        if not self._credit:
            raise PeerProtocolError(f"an item for call {self.call_id} beyond its credit")
        self._credit -= 1
        if not self.is_given_up:
            self._items.append(item)
            self._wake()

    def finish(self, outcome: Outcome) -> None:
        """Note what has ended it."""
        self.outcome = outcome
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
        if self.deadline == math.inf or self.outcome is not None or self._is_timed_out:
            return await take_or_wait(take, self._readers.park)
        with trio.CancelScope(deadline=self.deadline):
            return await take_or_wait(take, self._readers.park)
        self._time_out()
        return take()

    def _take(self, most: int | None) -> list[JsonValue]:
        if self._is_closed:
            raise trio.ClosedResourceError
        held = self._items
        if not held:
            self._raise_end()
        if most is None or most >= len(held):
            items = list(held)
            held.clear()
        else:
            items = [held.popleft() for _ in range(most)]
        self._received += len(items)
        if 2 * self._received >= self._window and not self.is_relayed:
            self.grant(self._received)
        return items

    def grant(self, items: int) -> None:
        """Let the process send so many items more, but no more than those that were received here."""
        items = min(items, self._received)
        if items and self.outcome is None and not self.is_given_up:
            self._owner.give_credit(self, items)
            self._credit += items
            self._received -= items

    def _raise_end(self) -> None:
        """Raise what has ended the stream, or `trio.WouldBlock` if nothing has."""
        if self.outcome is None and not self._is_timed_out and trio.current_time() >= self.deadline:
            self._time_out()
        if self._is_timed_out:
            raise self._owner.error_of(self, None)
        match self.outcome:
            case None:
                raise trio.WouldBlock
            case Failure() | Lost() as outcome:
                raise self._owner.error_of(self, outcome)
            case _:
                raise trio.EndOfChannel

    def _time_out(self) -> None:
        """Cancel it, since its time is over, unless what has arrived ends it."""
        self._owner.give_up(self)
        self._is_timed_out = self.outcome is None

    def close(self) -> None:
        """End the stream, and cancel it in the process unless it has ended. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._items.clear()
        if self.outcome is None and not self.is_given_up:
            self._owner.give_up(self)
        self._wake()

    async def aclose(self) -> None:
        """Close, and execute a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()
