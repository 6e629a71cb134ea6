"""The channel that reads the messages of one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from spindle_trio._linux._spinning import Spinning
from spindle_trio._messages._cursors import Cursor, CursorChannel, Subscription
from spindle_trio._model import JsonValue
from spindle_trio._trio_rules import uninterrupted


class _ReadableInbox(Protocol):
    """The side of `Inbox` that this channel reads."""

    @property
    def spinning(self) -> Spinning | None: ...
    def open_cursor(self, subscription: Subscription, wake: Callable[[], None]) -> Cursor: ...
    def close_cursor(self, cursor: Cursor) -> None: ...
    def read(self, cursor: Cursor) -> JsonValue: ...
    def read_many(self, cursor: Cursor, most: int | None) -> list[JsonValue]: ...


@uninterrupted
class ProcessMessageChannel(CursorChannel[JsonValue]):
    """The payloads of one process, from the oldest that is still held. Ends when the process has."""

    def __init__(self, inbox: _ReadableInbox) -> None:
        subscription = Subscription()
        self._inbox = inbox
        self._cursor = inbox.open_cursor(subscription, subscription.wake)
        super().__init__(subscription, partial(inbox.close_cursor, self._cursor))

    def __repr__(self) -> str:
        return f"<ProcessMessageChannel {'closed ' if self._is_closed else ''}of {self._inbox!r}>"

    @property
    def _spinning(self) -> Spinning | None:
        return self._inbox.spinning

    def _next(self) -> JsonValue:
        return self._inbox.read(self._cursor)

    def _next_many(self, most: int | None) -> list[JsonValue]:
        return self._inbox.read_many(self._cursor, most)
