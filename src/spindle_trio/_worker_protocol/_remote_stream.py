"""A stream of the connecting end: the items that have come, until they are read."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from spindle_trio._errors import PeerProtocolError
from spindle_trio._messages._channel import MessageReceiveChannel, check_most, take_or_wait
from spindle_trio._model import JsonValue
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker_protocol._pending import PendingCall

if TYPE_CHECKING:
    from spindle_trio._errors import CallTimeoutError


class StreamOwner(Protocol):
    """What streams belong to; `CallLine` implements it."""

    def give_up(self, request_id: str) -> None:
        """Cancel a stream, unless it has ended."""

    def give_credit(self, request_id: str, items: int) -> None:
        """Let the host send so many items more."""


@uninterrupted
class RemoteStream(MessageReceiveChannel[JsonValue]):
    """The items of one stream, with credit for the host in the measure in which they are read."""

    def __init__(
        self, owner: StreamOwner, request_id: str, window: int, ends_at: float, too_late: CallTimeoutError
    ) -> None:
        """Begin without items.

        Args:
            owner: takes credit and the cancellation.
            request_id: the id of the call.
            window: how many items may be under way.
            ends_at: until when the stream may take, by its own timeout.
            too_late: what is raised then.
        """
        self._owner = owner
        self._request_id = request_id
        self._window = window
        self._ends_at = ends_at
        self._too_late = too_late
        self._held: deque[JsonValue] = deque()
        self._credit = window  # items that the host may still send
        self._error: Exception | None = None
        self._is_over = False
        self._is_closed = False
        self._readers = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "ended" if self._is_over else "open"
        return f"<RemoteStream {state} held={len(self._held)}>"

    async def receive(self) -> JsonValue:
        """Wait for the next item and return it; see `MessageReceiveChannel.receive`."""
        return await take_or_wait(self.receive_nowait, self._wait)

    async def receive_many(self, most: int | None = None) -> list[JsonValue]:
        """Wait for items and return all that are there; see `MessageReceiveChannel.receive_many`."""
        check_most(most)
        return await take_or_wait(partial(self._receive_many_nowait, most), self._wait)

    def receive_nowait(self) -> JsonValue:
        """Return the next item if there is one; see `MessageReceiveChannel.receive_nowait`."""
        return self._receive_many_nowait(1)[0]

    def close(self) -> None:
        """Cancel the stream, unless it has ended, and forget the items that were not read."""
        if not self._is_closed:
            self._is_closed = True
            self._held.clear()
            self._owner.give_up(self._request_id)
            self._readers.unpark_all()

    async def aclose(self) -> None:
        """Close, and execute a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def take(self, value: JsonValue) -> None:
        """Take in an item."""
        if self._credit:
            self._credit -= 1
            self._held.append(value)
            self._readers.unpark_all()
        else:
            self._owner.give_up(self._request_id)
            self.end(PeerProtocolError("the host sent more items of a stream than its window allows"))

    def end(self, error: Exception | None) -> None:
        """Say that no more items come; an error is raised once those have been read."""
        if not self._is_over:
            self._is_over = True
            self._error = error
            self._readers.unpark_all()

    async def _wait(self) -> None:
        with trio.move_on_at(self._ends_at):
            await self._readers.park()

    def _receive_many_nowait(self, most: int | None) -> list[JsonValue]:
        if self._is_closed:
            raise trio.ClosedResourceError
        held = self._held
        if held:
            taken = [held.popleft() for _ in range(len(held) if most is None else min(most, len(held)))]
            read = self._window - self._credit - len(held)
            if read * 2 >= self._window and not self._is_over:
                self._credit += read
                self._owner.give_credit(self._request_id, read)
            return taken
        if not self._is_over and trio.current_time() >= self._ends_at:
            self._owner.give_up(self._request_id)
            self.end(self._too_late)
        if self._error is not None:
            raise self._error.with_traceback(None)
        raise trio.EndOfChannel if self._is_over else trio.WouldBlock


@attrs.define(eq=False)
class PendingStream(PendingCall):
    """A stream that has not ended."""

    stream: RemoteStream

    def settle(self, error: Exception | None = None) -> None:
        """End the stream, and let no more be heard of it."""
        super().settle()
        self.stream.end(error)
