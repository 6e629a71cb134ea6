"""The one task that sends on a channel, and the two lanes that wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from spindle_trio._errors import PayloadError
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._worker_protocol._stream_channel import WireMessage

T = TypeVar("T")


@uninterrupted
class TwoLaneWriter(Generic[T]):
    """Sends what was put first before what was put last, each lane in order.

    Only `run` sends, and it is cancelled only when the connection has no future: a channel over a stream is broken by
    a send that is cancelled.
    """

    def __init__(
        self,
        channel: trio.abc.SendChannel[WireMessage],
        *,
        finish: Callable[[T], WireMessage | None],
        refuse: Callable[[T, PayloadError], object],
        max_last_bytes: int,
    ) -> None:
        """Begin with nothing to send.

        Args:
            channel: nobody else may send on it.
            finish: makes of a value what is sent, at the moment when its turn has come; `None` leaves it out.
            refuse: is told of a value that the channel cannot carry.
            max_last_bytes: how many bytes may wait in the last lane. One value may, however large it is.
        """
        self._channel = channel
        self._finish = finish
        self._refuse = refuse
        self._max_last_bytes = max_last_bytes
        self._first: deque[T] = deque()
        self._last: deque[tuple[T, int]] = deque()
        self._last_bytes = 0
        self._is_sending = False
        self.sent = 0
        """How many values have left, or were refused by the channel."""
        self.is_closed = False
        """Whether nothing can be sent any more."""
        self._work = trio.lowlevel.ParkingLot()
        self._turn = trio.StrictFIFOLock()
        self._room = trio.lowlevel.ParkingLot()
        self._flushed = trio.lowlevel.ParkingLot()
        self._progress = trio.lowlevel.ParkingLot()

    @property
    def waiting_first(self) -> int:
        """How many values wait in the first lane."""
        return len(self._first)

    @property
    def waiting_last(self) -> int:
        """How many values wait in the last lane."""
        return len(self._last)

    @property
    def waiting_last_bytes(self) -> int:
        """Their size in bytes."""
        return self._last_bytes

    def put_urgent(self, value: T) -> None:
        """Queue a value in the first lane. Does nothing once nothing can be sent any more."""
        if not self.is_closed:
            self._first.append(value)
            self._work.unpark_all()

    async def put_bulk(self, value: T, size: int) -> None:
        """Queue a value in the last lane as soon as there is room, first come, first served.

        If it is cancelled, the value was not queued.

        Raises:
            trio.BrokenResourceError: nothing can be sent any more.
        """
        async with self._turn:
            while True:
                try:
                    self._put_bulk(value, size)
                except trio.WouldBlock:
                    await self._room.park()
                else:
                    return

    def put_bulk_nowait(self, value: T, size: int) -> None:
        """Queue a value in the last lane if there is room.

        Raises:
            trio.WouldBlock: there is no room, or a task waits in `put_bulk` already.
            trio.BrokenResourceError: nothing can be sent any more.
        """
        if self._turn.locked() and not self.is_closed:
            raise trio.WouldBlock
        self._put_bulk(value, size)

    def _put_bulk(self, value: T, size: int) -> None:
        if self.is_closed:
            raise trio.BrokenResourceError("the connection is lost")
        if self._last and self._last_bytes + size > self._max_last_bytes:
            raise trio.WouldBlock
        self._last.append((value, size))
        self._last_bytes += size
        self._work.unpark_all()

    async def run(self) -> None:
        """Send until the channel is closed or broken, or this writer is closed."""
        try:
            while not self.is_closed:
                value = self._next()
                if value is None:
                    self._flushed.unpark_all()
                    await self._work.park()
                    continue
                self._is_sending = True
                try:
                    if (message := self._finish(value)) is not None:
                        await self._channel.send(message)
                except PayloadError as error:
                    self._refuse(value, error)
                self._is_sending = False
                self.sent += 1
                self._progress.unpark_all()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.close()

    async def wait_flushed(self) -> None:
        """Wait until all that was put has been sent, or cannot be any more."""
        await trio.lowlevel.checkpoint()
        while (self._first or self._last or self._is_sending) and not self.is_closed:
            await self._flushed.park()

    async def wait_progress(self) -> None:
        """Wait until one more value has left, or none can any more. May return early; a checkpoint in any case."""
        if self.is_closed:
            await trio.lowlevel.checkpoint()
        else:
            await self._progress.park()

    def close(self) -> None:
        """Forget what waits; tasks that wait for room get `trio.BrokenResourceError`. May be called twice."""
        self.is_closed = True
        self._first.clear()
        self._last.clear()
        self._last_bytes = 0
        for lot in (self._work, self._room, self._flushed, self._progress):
            lot.unpark_all()

    def _next(self) -> T | None:
        if self._first:
            return self._first.popleft()
        if self._last:
            value, size = self._last.popleft()
            self._last_bytes -= size
            self._room.unpark()
            return value
        return None
