"""Frames that wait to be sent on one lane: in order, bounded in bytes, with a draining task only while some wait.

Both ends use it. A frame leaves inline if the lane takes it at once. So most sends start no task, and a process that is
killed right after a send has still sent it. But a write for each frame is most of the cost of sending. So frames of a
fast sender may be *joined*: those behind the first leave together, at the latest when other tasks have had their turn.
The draining task sees to that. Until it begins, the lane is free, and joined frames leave inline once there are enough.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

import trio

if TYPE_CHECKING:
    from spindle_trio._protocol._binary import BinaryBody
    from spindle_trio.abc import FrameLane


_IN_A_ROW: Final = 128
"""How many frames leave inline before the next ones are joined. An answer of a few messages leaves at once, a flood
does not, and at most one frame in so many starts a task."""

_JOINED_BYTES: Final = 32 * 1024
"""Bytes of joined frames that leave at once: some hundred small messages, to keep the reader busy."""


def is_within(sizes: Sequence[int], max_bytes: float) -> bool:
    """Whether frames of these sizes may wait under a bound. One frame that is longer than the bound does not count."""
    longest = max(sizes)
    return sum(sizes) - (longest if longest > max_bytes else 0) <= max_bytes


class Outbox:
    """A queue of frames in front of a lane."""

    __slots__ = (
        "_in_a_row",
        "_is_broken",
        "_is_draining",
        "_is_joining",
        "_lane",
        "_max_bytes",
        "_most_in_a_row",
        "_queue",
        "_rest",
        "_start_soon",
        "dropped",
    )

    def __init__(
        self,
        lane: FrameLane,
        start_soon: Callable[[Callable[[], Awaitable[object]]], None],
        max_bytes: float = math.inf,
        in_a_row: int = _IN_A_ROW,
    ) -> None:
        """Begin empty.

        Args:
            lane: sends the frames; nothing else may send on it.
            start_soon: starts the draining task, in a nursery that lives as long as the lane.
            max_bytes: how many bytes may wait behind the frame that is partly sent, besides one longer frame.
            in_a_row: how many frames that may be joined leave inline before the next ones are.
        """
        self._lane = lane
        self._most_in_a_row = in_a_row
        self._start_soon = start_soon
        self._max_bytes = max_bytes
        self._is_broken = False
        self._is_draining = False
        self._is_joining = False  # the draining task is started, but has not begun: the lane is free
        self._rest: list[bytes] | None = None  # the lane holds a frame that is partly sent, and what belongs behind it
        self.dropped: int = 0
        """How many frames were dropped before they had begun to leave."""
        self._in_a_row = 0  # frames that might have been joined, and have left inline
        # Made when a task first has to wait: few of ten thousand outboxes need it, and it is most of the memory.
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
        """Whether everything sent is with the peer's system, or is lost."""
        return self._is_broken or not self._is_draining

    def send_nowait(self, body: bytes, *, joins: bool = False) -> None:
        """Send a frame, or let it wait behind earlier ones.

        Args:
            body: the frame's.
            joins: whether it may wait until other tasks have had their turn, to leave with the frames that follow.

        Raises:
            trio.WouldBlock: there is no room for it now, or a task waits in `send` already.
            trio.BrokenResourceError: the other end is gone, or this outbox was closed.
        """
        if self._has_senders:
            raise trio.WouldBlock
        self._put(body, joins)

    async def send(self, body: bytes) -> None:
        """Send a frame as soon as there is room for it, first come, first served. If cancelled, it was not sent.

        Raises:
            trio.BrokenResourceError: the other end is gone, or goes while this waits.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._has_senders:
            try:
                self._put(body)
            except trio.WouldBlock:
                pass  # not waiting in here: the exception and its frames would live as long as the wait
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return
        await self.send_in_turn(lambda: body)

    async def send_in_turn(self, make: Callable[[], bytes]) -> None:
        """Wait for room, first come, first served, and send a frame; one that is made anew for each attempt.

        If cancelled, it was not sent. After the frame has been taken no other task runs before this returns.

        Args:
            make: writes the frame's body; what it raises is raised here.

        Raises:
            trio.BrokenResourceError: as in `send`.
        """
        queue = self._waiting()
        async with queue.turn:
            while True:
                try:
                    self._put(make())
                except trio.WouldBlock:
                    pass  # as above
                else:
                    return
                await queue.room.park()

    @property
    def _has_senders(self) -> bool:
        """Whether a task waits in `send`, which must not be overtaken."""
        return self._queue is not None and self._queue.turn.locked() and not self._is_broken

    def _put(self, body: bytes, joins: bool = False) -> None:
        if self._is_broken:
            raise trio.BrokenResourceError("the other end of the lane is gone")
        if type(body) is not bytes:
            self._put_binary(cast("BinaryBody", body))
            return
        if not self._is_draining:
            if not joins or self._in_a_row < self._most_in_a_row:
                self._in_a_row = self._in_a_row + 1 if joins else 0
                self._send_inline([body])
                return
            self._is_joining = True
            self._start_draining()
        queue = self._waiting()
        size = queue.size + len(body)
        if self._is_joining and queue.frames and size > min(_JOINED_BYTES, self._max_bytes):
            self._send_inline(queue.take())
            size = queue.size + len(body)
        if size > self._max_bytes:
            self._check_room(queue, len(body))
        queue.frames.append(body)
        queue.size = size
        if self._is_joining and not joins:
            self._send_inline(queue.take())

    def _put_binary(self, body: BinaryBody) -> None:
        """Put a frame that has bytes behind it, which stay together: a short one leaves at once, others in pieces."""
        if not self._is_draining and body.size <= _JOINED_BYTES:
            self._send_inline(list(body.bodies()), is_one=True)
            return
        queue = self._waiting()
        self._check_room(queue, body.size)
        queue.frames.append(body)
        queue.size += body.size
        queue.binaries += 1
        self._is_joining = False
        self._start_draining()

    def _check_room(self, queue: _Queue, length: int) -> None:
        """Raise `trio.WouldBlock` if so many bytes more may not wait."""
        most = self._max_bytes
        if queue.frames and queue.size + length > most and not is_within([length, *map(_size_of, queue.frames)], most):
            raise trio.WouldBlock

    def send_joined(self) -> None:
        """Send now what waits to be joined with more."""
        if self._is_joining and self._queue is not None and self._queue.frames:
            try:
                self._send_inline(self._queue.take())
            except trio.BrokenResourceError:
                pass  # whoever sends next is told

    def _send_inline(self, bodies: list[bytes], *, is_one: bool = False) -> None:
        """Send frames, or the parts of one, as far as the lane takes them now; the draining task sends the rest."""
        try:
            lane = self._lane
            left = lane.send_many_nowait(bodies) if len(bodies) > 1 else int(lane.send_nowait(bodies[0]))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close()
            raise trio.BrokenResourceError("the other end of the lane is gone") from None
        if left < len(bodies):
            self._is_joining = False
            self._rest = bodies[left + 1 :] if is_one else []
            if not is_one:
                self._waiting().put_back(bodies[left + 1 :])
            self._start_draining()

    def _start_draining(self) -> None:
        if not self._is_draining:
            self._is_draining = True
            self._start_soon(self._drain)

    def try_again(self) -> None:
        """Have the task whose turn it is make its frame anew, though there may be no room."""
        if self._queue is not None:
            self._queue.room.unpark_all()

    async def wait_flushed(self) -> None:
        """Wait until everything sent is with the peer's system, or is lost."""
        await trio.lowlevel.checkpoint()
        while not self.is_flushed:
            await self._waiting().flushed.park()

    def close(self) -> None:
        """Drop the frames that wait; tasks that wait for room get `trio.BrokenResourceError`."""
        self._is_broken = True
        self._start_soon = _start_nothing  # the other one may lead back to whoever owns this outbox
        if self._queue is not None:
            self.dropped += len(self._queue.take())
            self._queue.room.unpark_all()
            self._queue.flushed.unpark_all()

    def _waiting(self) -> _Queue:
        if self._queue is None:
            self._queue = _Queue()
        return self._queue

    @trio.lowlevel.enable_ki_protection
    async def _drain(self) -> None:
        """Send all that waits, at once each time, until nothing waits."""
        queue = self._waiting()
        self._is_joining = False
        try:
            if self._rest is not None:
                rest, self._rest = self._rest, None
                await self._lane.send_pending(rest)
            while queue.frames:
                bodies = queue.take_run()
                queue.room.unpark()
                if isinstance(bodies, list):
                    await self._lane.send_pending(bodies)
                else:
                    for body in bodies.bodies():
                        await self._lane.send_pending([body])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close()
        except BaseException:
            self.close()  # cancelled midway: the lane is broken, and so are tasks that wait for room
            raise
        finally:
            self._is_draining = False
            self._in_a_row = 0
            queue.room.unpark()
            queue.flushed.unpark_all()


def _start_nothing(_: Callable[[], Awaitable[object]]) -> None:
    raise AssertionError("an outbox that was closed starts no task")


def _size_of(body: bytes) -> int:
    return len(body) if type(body) is bytes else cast("BinaryBody", body).size


class _Queue:
    """The frames that wait, and the tasks."""

    __slots__ = ("binaries", "flushed", "frames", "room", "size", "turn")

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.size = 0
        self.binaries = 0
        """How many of the frames have bytes behind them."""
        self.turn = trio.StrictFIFOLock()
        self.room = trio.lowlevel.ParkingLot()
        self.flushed = trio.lowlevel.ParkingLot()

    def take(self) -> list[bytes]:
        """Take all frames."""
        bodies = list(self.frames)
        self.frames.clear()
        self.size = self.binaries = 0
        return bodies

    def take_run(self) -> list[bytes] | BinaryBody:
        """Take the first frame if bytes follow it, and else all frames before one of that kind."""
        if not self.binaries:
            return self.take()
        bodies: list[bytes] = []
        while type(self.frames[0]) is bytes:
            bodies.append(self.frames.popleft())
        if not bodies:
            whole = cast("BinaryBody", self.frames.popleft())
            self.size -= whole.size
            self.binaries -= 1
            return whole
        self.size -= sum(map(len, bodies))
        return bodies

    def put_back(self, bodies: list[bytes]) -> None:
        """Put back frames that were taken; no others may wait."""
        self.frames.extend(bodies)
        self.size += sum(map(len, bodies))
