"""What waits to be sent on one lane: in order, bounded in bytes, and drained by a task only while there is something.

Both ends use it. A frame goes out inline where the lane takes it at once, so that most sends start no task.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from spindle_trio.abc import FrameLane


class Outbox:
    """A queue of frames in front of a lane."""

    __slots__ = ("_is_broken", "_is_draining", "_lane", "_max_bytes", "_queue", "_start_soon")

    def __init__(
        self,
        lane: FrameLane,
        start_soon: Callable[[Callable[[], Awaitable[object]]], None],
        max_bytes: float = math.inf,
    ) -> None:
        """Begin empty.

        Args:
            lane: where the frames go; nobody else may send on it.
            start_soon: starts the draining task, in a nursery that lives as long as the lane.
            max_bytes: how many bytes may wait behind the frame that is partly sent. One frame may, however long it is.
        """
        self._lane = lane
        self._start_soon = start_soon
        self._max_bytes = max_bytes
        self._is_draining = False
        self._is_broken = False
        # Made when somebody first has to wait. Of ten thousand processes that is a few, and it is most of the memory.
        self._queue: _Queue | None = None

    @property
    def messages(self) -> int:
        """How many frames wait, without the one that is partly sent."""
        return 0 if self._queue is None else len(self._queue.frames)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait, without the frame that is partly sent."""
        return 0 if self._queue is None else self._queue.size

    @property
    def is_flushed(self) -> bool:
        """Whether all that was sent has left for the peer's system, or cannot any more."""
        return self._is_broken or not self._is_draining

    def send_nowait(self, body: bytes) -> None:
        """Send a frame, or let it wait behind earlier ones.

        Raises:
            trio.WouldBlock: there is no room for it now, or somebody waits in `send` already.
            trio.BrokenResourceError: the other end is gone, or this outbox was closed.
        """
        if self._queue is not None and self._queue.turn.locked() and not self._is_broken:
            raise trio.WouldBlock
        self._put(body)

    async def send(self, body: bytes) -> None:
        """Send a frame as soon as there is room for it, first come, first served. If cancelled, it was not sent.

        Raises:
            trio.BrokenResourceError: the other end is gone, or goes while this waits.
        """
        queue = self._waiting()
        async with queue.turn:
            while True:
                try:
                    return self._put(body)
                except trio.WouldBlock:
                    pass  # not waiting in here: the exception and its frames would live as long as the wait
                await queue.room.park()

    def _put(self, body: bytes) -> None:
        if self._is_broken:
            raise trio.BrokenResourceError("the other end of the lane is gone")
        if not self._is_draining:
            try:
                all_left = self._lane.send_nowait(body)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.close()
                raise trio.BrokenResourceError("the other end of the lane is gone") from None
            if not all_left:
                self._is_draining = True
                self._start_soon(self._drain)
            return
        queue = self._waiting()
        if queue.frames and queue.size + len(body) > self._max_bytes:
            raise trio.WouldBlock
        queue.frames.append(body)
        queue.size += len(body)

    async def wait_flushed(self) -> None:
        """Wait until all that was sent has left for the peer's system, or cannot any more."""
        await trio.lowlevel.checkpoint()
        while not self.is_flushed:
            await self._waiting().flushed.park()

    def close(self) -> None:
        """Forget what waits; whoever waits for room gets `trio.BrokenResourceError`."""
        self._is_broken = True
        if self._queue is not None:
            self._queue.take()
            self._queue.room.unpark_all()
            self._queue.flushed.unpark_all()

    def _waiting(self) -> _Queue:
        if self._queue is None:
            self._queue = _Queue()
        return self._queue

    @trio.lowlevel.enable_ki_protection
    async def _drain(self) -> None:
        """Send what waits, all of it at a time, until nothing does."""
        queue = self._waiting()
        try:
            await self._lane.send_pending()
            while queue.frames:
                bodies = queue.take()
                queue.room.unpark()
                await self._lane.send_pending(bodies)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close()
        except BaseException:
            self.close()  # cancelled in the middle: the lane has no future, and neither has whoever waits for room
            raise
        finally:
            self._is_draining = False
            queue.room.unpark()
            queue.flushed.unpark_all()


class _Queue:
    """The frames that wait, and the tasks."""

    __slots__ = ("flushed", "frames", "room", "size", "turn")

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.size = 0
        self.turn = trio.StrictFIFOLock()
        self.room = trio.lowlevel.ParkingLot()
        self.flushed = trio.lowlevel.ParkingLot()

    def take(self) -> list[bytes]:
        """Take all frames."""
        bodies = list(self.frames)
        self.frames.clear()
        self.size = 0
        return bodies
