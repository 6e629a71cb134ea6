"""A stream of a process whose host is at the other end of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from spindle_trio._errors import PeerProtocolError
from spindle_trio._messages._item_channel import ItemChannel
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker_protocol._pending import PendingCall

if TYPE_CHECKING:
    from spindle_trio._errors import CallTimeoutError
    from spindle_trio._model import JsonValue


class StreamOwner(Protocol):
    """What streams belong to; `CallLine` implements it."""

    def give_up(self, request_id: str) -> None:
        """Cancel a stream, unless it has ended."""

    def give_credit(self, request_id: str, items: int) -> None:
        """Let the host send so many items more."""


@uninterrupted
class RemoteStream(ItemChannel):
    """The items that have come over the connection."""

    def __init__(
        self, owner: StreamOwner, request_id: str, window: int, deadline: float, too_late: CallTimeoutError
    ) -> None:
        """Begin without items.

        Args:
            owner: takes credit and the cancellation.
            request_id: the id of the call.
            window: how many items may be under way.
            deadline: when its time is over, on Trio's clock.
            too_late: what is raised then.
        """
        super().__init__(window=window, deadline=deadline)
        self._owner = owner
        self._request_id = request_id
        self._too_late = too_late
        self._error: Exception | None = None

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "ended" if self.is_over else "open"
        return f"<RemoteStream {state} {len(self._items)} items held>"

    def take(self, value: JsonValue) -> None:
        """Take in an item."""
        if not self._put(value):
            self._give_up()
            self.end(PeerProtocolError("the host sent more items of a stream than its window allows"))

    def end(self, error: Exception | None) -> None:
        """Say that no more items come; an error is raised once those have been read."""
        if not self.is_over:
            self._error = error
            self._end()

    def _give_credit(self, items: int) -> None:
        self._owner.give_credit(self._request_id, items)

    def _give_up(self) -> None:
        self.is_given_up = True
        self._owner.give_up(self._request_id)

    def _make_error(self) -> Exception | None:
        return None if self._error is None else self._error.with_traceback(None)

    def _make_timeout(self) -> CallTimeoutError:
        return self._too_late.with_traceback(None)


@attrs.define(eq=False)
class PendingStream(PendingCall):
    """A stream that has not ended."""

    stream: RemoteStream

    def settle(self, error: Exception | None = None) -> None:
        """End the stream, and let no more be heard of it."""
        super().settle(error)
        self.stream.end(error)
