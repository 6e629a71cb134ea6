"""Frame lanes inside one Trio run: what sockets are to real processes, without the operating system.

The bodies travel through Trio memory channels with a small buffer, so that a reader who pauses holds up the sender.
A task that waits for frames waits beside the channel, not in it: a memory channel hands a value to a waiting task
before that runs, where `receive_nowait` cannot see it any more, and a deadline that fires in the same tick would judge
a peer without what it has sent (contract, rule 7).

Whatever is only needed once there is a frame, or a task that waits for one, is made then: of ten thousand processes
most say `ready` and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import trio

from spindle_trio._errors import PeerProtocolError
from spindle_trio._protocol._frames import READ_BYTES, too_long
from spindle_trio.abc import ArrivalListener, FrameLane

BUFFER_FRAMES: Final = 16
"""Frames that are with the "operating system": sent, and not yet received."""


def memory_lane_pair(max_bytes: int | None, *, buffer_frames: int = BUFFER_FRAMES) -> tuple[MemoryLane, MemoryLane]:
    """Make both ends of a lane: first the host's, then the child's.

    Args:
        max_bytes: how long the body of a frame to the host may be; `None` for no bound. The child trusts its host.
        buffer_frames: how many frames may be under way, each way.
    """
    host, child = MemoryLane(max_bytes, buffer_frames), MemoryLane(None, buffer_frames)
    host._peer, child._peer = child, host
    return host, child


class MemoryLane(FrameLane):
    """One end of a lane between two tasks. Each end keeps what is on its way to it."""

    __slots__ = (
        "_breach",
        "_buffer_frames",
        "_channel",
        "_frame",
        "_is_closed",
        "_is_silenced",
        "_listener",
        "_max_bytes",
        "_peer",
        "_pending",
        "_readers",
    )

    def __init__(self, max_bytes: int | None, buffer_frames: int) -> None:
        """Made by `memory_lane_pair`, which tells it its peer."""
        self._peer: MemoryLane
        self._max_bytes = max_bytes
        self._buffer_frames = buffer_frames
        # On their way to this end: one frame, and with a second one all of them in a channel that is opened for it. An
        # open channel costs more than all the rest of a lane.
        self._frame: bytes | None = None
        self._channel: _Channel | None = None
        self._listener: ArrivalListener | None = None
        self._readers: trio.lowlevel.ParkingLot | None = None
        self._pending: deque[bytes] | None = None
        self._breach: str | None = None
        self._is_silenced = self._is_closed = False

    def __repr__(self) -> str:
        return f"<MemoryLane {self._frames} frames in, {self._peer._frames} out>"

    def tell_arrival(self, listener: ArrivalListener) -> bool:
        """Have a listener told of the next arrival; see `FrameLane.tell_arrival`."""
        if self._frames or self._peer._is_closed:
            listener.arrived(self)
        else:
            self._listener = listener
        return True

    async def receive(self, max_frames: int) -> list[bytes]:
        """Wait for frames; see `FrameLane.receive`."""
        await trio.lowlevel.checkpoint()  # before, so that no frame is on its way while another task looks for it
        while True:
            try:
                return self.receive_nowait(max_frames)
            except trio.WouldBlock:
                pass  # not waiting in here: the exception and its frames would live as long as the wait
            if self._readers is None:
                self._readers = trio.lowlevel.ParkingLot()
            await self._readers.park()

    def receive_nowait(self, max_frames: int) -> list[bytes]:
        """Return what has arrived; see `FrameLane.receive_nowait`."""
        bodies: list[bytes] = []
        size = 0
        while len(bodies) < max_frames and size < READ_BYTES and self._breach is None:
            try:
                body = self._take_frame()
            except (trio.WouldBlock, trio.EndOfChannel):
                if bodies:
                    break
                raise
            if self._max_bytes is not None and len(body) > self._max_bytes:
                self._breach = too_long(len(body), self._max_bytes)
                break
            bodies.append(body)
            size += len(body)
        if not bodies and self._breach is not None:
            raise PeerProtocolError(self._breach)
        return bodies

    def send_nowait(self, body: bytes) -> bool:
        """Begin to send a frame; see `FrameLane.send_nowait`."""
        if self.offer(body):
            return True
        self._pending = deque([body])
        return False

    def offer(self, body: bytes) -> bool:
        """Send a frame if there is room for it, and say whether there was; nothing is left pending."""
        if self._is_silenced:
            return True
        self._refuse_closed()
        try:
            self._peer._put_frame(body)
        except trio.WouldBlock:
            return False
        return True

    async def send_pending(self, bodies: Sequence[bytes] = ()) -> None:
        """Send what is pending and then these frames; see `FrameLane.send_pending`."""
        pending = self._pending = self._pending or deque()
        pending.extend(bodies)
        await trio.lowlevel.checkpoint()
        while pending and not self._is_silenced:
            if not self.offer(pending[0]):
                # Nobody is told of this frame: whoever makes the room receives it.
                await self._peer._opened_channel().sending.send(pending[0])
            pending.popleft()
        self._pending = None

    def close(self) -> None:
        """Close this end; see `FrameLane.close`. What it has sent can still be received."""
        self._is_closed = True
        self._frame = None
        if self._channel is not None:
            self._channel.receiving.close()
        if self._peer._channel is not None:
            self._peer._channel.sending.close()
        self._listener = None
        self._wake_readers()
        self._peer._tell_of_arrival()
        if self._peer._is_closed:
            self._peer._peer = self._peer = _CLOSED  # neither has anything left from the other

    def silence(self) -> None:
        """Let nothing more out, as if the process behind this end did not exist any more; it stays open."""
        self._is_silenced = True

    # What is on its way to this end.

    @property
    def _frames(self) -> int:
        """How many frames have been sent to this end and not received."""
        if self._channel is None:
            return int(self._frame is not None)
        return self._channel.receiving.statistics().current_buffer_used

    def _put_frame(self, body: bytes) -> None:
        if self._channel is None and self._frame is None:
            self._frame = body
        else:
            self._opened_channel().sending.send_nowait(body)
        self._tell_of_arrival()

    def _take_frame(self) -> bytes:
        if self._channel is not None:
            return self._channel.receiving.receive_nowait()
        if self._is_closed:
            raise trio.ClosedResourceError
        if self._frame is not None:
            body, self._frame = self._frame, None
            return body
        raise trio.EndOfChannel if self._peer._is_closed else trio.WouldBlock

    def _opened_channel(self) -> _Channel:
        if self._channel is None:
            self._channel = _Channel(*trio.open_memory_channel[bytes](self._buffer_frames))
            if self._frame is not None:
                self._channel.sending.send_nowait(self._frame)
                self._frame = None
        return self._channel

    def _tell_of_arrival(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.arrived(self)
        self._wake_readers()

    def _wake_readers(self) -> None:
        if self._readers is not None:
            self._readers.unpark_all()

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError
        if self._peer._is_closed:
            raise trio.BrokenResourceError


class _Channel(NamedTuple):
    sending: trio.MemorySendChannel[bytes]
    receiving: trio.MemoryReceiveChannel[bytes]


_CLOSED: Final = MemoryLane(None, 0)
"""The peer of each lane whose ends are both closed."""
_CLOSED._peer = _CLOSED
_CLOSED.close()
