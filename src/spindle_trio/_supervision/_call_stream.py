"""A stream of a process of this host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from spindle_trio._errors import PeerProtocolError
from spindle_trio._messages._item_channel import ItemChannel
from spindle_trio._protocol._call_answers import Failure
from spindle_trio._supervision._pending_call import Lost, Outcome
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._errors import CallError
    from spindle_trio._model import CallRequest, JsonValue


class StreamOwner(Protocol):
    """The calls that a stream belongs to; `ProcessCalls` implements it."""

    def give_up(self, call: CallStream) -> None:
        """Cancel it in the process, unless it has ended."""

    def give_credit(self, stream: CallStream, items: int) -> None:
        """Let it send so many items more."""

    def error_of(self, call: CallStream, outcome: Failure | Lost | None) -> CallError:
        """Make the error for its reader; of `None` for one whose time was over."""


@uninterrupted
class CallStream(ItemChannel):
    """The items that a generator in a process yields."""

    def __init__(self, owner: StreamOwner, request: CallRequest, *, deadline: float) -> None:
        """Begin a stream that has not been sent.

        Args:
            owner: sends what it has to say.
            request: what was asked for.
            deadline: when its time is over, on Trio's clock.
        """
        assert request.window is not None, "a stream has a window"
        super().__init__(window=request.window, deadline=deadline)
        self.method: str = request.method
        self.kills: bool = request.overrun == "kill"
        self.timeout: float = request.timeout
        self.call_id: int = 0
        """Set when it has been sent."""
        self.outcome: Outcome | None = None
        """What ended it."""
        self._owner = owner

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "ended" if self.is_over else "open"
        return f"<CallStream {state} {self.method!r} {len(self._items)} items held>"

    def put(self, item: JsonValue) -> None:
        """Take in an item.

        Raises:
            PeerProtocolError: the process had no credit for it.
        """
        if not self._put(item):
            raise PeerProtocolError(f"an item for call {self.call_id} beyond its credit")

    def finish(self, outcome: Outcome) -> None:
        """Note what has ended it."""
        self.outcome = outcome
        if isinstance(outcome, Failure) and outcome.is_cancelled and trio.current_time() >= self.deadline:
            self._is_timed_out = True  # as its handler has seen first
        self._end()

    def _give_credit(self, items: int) -> None:
        self._owner.give_credit(self, items)

    def _give_up(self) -> None:
        self._owner.give_up(self)

    def _make_error(self) -> CallError | None:
        outcome = self.outcome
        return self._owner.error_of(self, outcome) if isinstance(outcome, Failure | Lost) else None

    def _make_timeout(self) -> CallError:
        return self._owner.error_of(self, None)
