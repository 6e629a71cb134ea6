"""Frame lanes inside one Trio run: what sockets are to real processes, without the operating system.

The bodies travel through Trio memory channels with a small buffer, so that a reader who pauses holds up the sender.
Whoever waits for frames does not wait in the channel but beside it: a memory channel hands a value to a waiting task
before that runs, where `receive_nowait` cannot see it any more, and a deadline that fires in the same tick would judge
a peer without what it has sent (contract, rule 7).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import trio

from spindle_trio._errors import PeerProtocolError
from spindle_trio._frames import READ_BYTES
from spindle_trio.abc import FrameLane

BUFFER_FRAMES: Final = 16
"""Frames that are with the "operating system": sent, and not yet received."""


def memory_lane_pair(max_bytes: int | None, *, buffer_frames: int = BUFFER_FRAMES) -> tuple[MemoryLane, MemoryLane]:
    """Make both ends of a lane: first the host's, then the child's.

    Args:
        max_bytes: how long the body of a frame to the host may be; `None` for no bound. The child trusts its host.
        buffer_frames: how many frames may be under way, each way.
    """
    down, up = _Way(buffer_frames), _Way(buffer_frames)
    return MemoryLane(down, up, max_bytes), MemoryLane(up, down, None)


class MemoryLane(FrameLane):
    """One end of a lane between two tasks."""

    __slots__ = ("_breach", "_inbound", "_is_silenced", "_max_bytes", "_outbound", "_pending")

    def __init__(self, outbound: _Way, inbound: _Way, max_bytes: int | None) -> None:
        """Made by `memory_lane_pair`."""
        self._outbound = outbound
        self._inbound = inbound
        self._max_bytes = max_bytes
        self._pending: deque[bytes] | None = None
        self._breach: str | None = None
        self._is_silenced = False

    def __repr__(self) -> str:
        return f"<MemoryLane {self._inbound.frames} frames in, {self._outbound.frames} out>"

    async def receive(self, max_frames: int) -> list[bytes]:
        """Wait for frames; see `FrameLane.receive`."""
        await trio.lowlevel.checkpoint()  # before, so that no frame is on its way while another task looks for it
        while True:
            try:
                return self.receive_nowait(max_frames)
            except trio.WouldBlock:
                pass  # not waiting in here: the exception and its frames would live as long as the wait
            await self._inbound.arrival.park()

    def receive_nowait(self, max_frames: int) -> list[bytes]:
        """Return what has arrived; see `FrameLane.receive_nowait`."""
        bodies: list[bytes] = []
        size = 0
        while len(bodies) < max_frames and size < READ_BYTES and self._breach is None:
            try:
                body = self._inbound.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                if bodies:
                    break
                raise
            if self._max_bytes is not None and len(body) > self._max_bytes:
                self._breach = f"a frame of {len(body)} bytes, more than {self._max_bytes}"
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
        try:
            self._outbound.send_nowait(body)
        except trio.WouldBlock:
            return False
        return True

    async def send_pending(self, bodies: Sequence[bytes] = ()) -> None:
        """Send what is pending and then these frames; see `FrameLane.send_pending`."""
        pending = self._pending = self._pending or deque()
        pending.extend(bodies)
        await trio.lowlevel.checkpoint()
        while pending and not self._is_silenced:
            try:
                self._outbound.send_nowait(pending[0])
            except trio.WouldBlock:
                await self._outbound.send(pending[0])
            pending.popleft()
        self._pending = None

    def close(self) -> None:
        """Close this end; see `FrameLane.close`. What it has sent can still be received."""
        self._outbound.close_sender()
        self._inbound.close_receiver()

    def silence(self) -> None:
        """Let nothing more out, as if the process behind this end did not exist any more; it stays open."""
        self._is_silenced = True


class _Way:
    """One direction of a lane: a memory channel that is opened for the first frame, and who waits for frames.

    Most processes never exchange a message, and an open channel costs more than all the rest of a lane.
    """

    __slots__ = ("_buffer_frames", "_ends", "_is_receiver_closed", "_is_sender_closed", "arrival")

    def __init__(self, buffer_frames: int) -> None:
        self._buffer_frames = buffer_frames
        self._ends: tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]] | None = None
        self._is_sender_closed = self._is_receiver_closed = False
        self.arrival: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()

    @property
    def frames(self) -> int:
        """How many frames have been sent and not received."""
        return 0 if self._ends is None else self._ends[1].statistics().current_buffer_used

    def send_nowait(self, body: bytes) -> None:
        self._sender().send_nowait(body)
        self.arrival.unpark_all()

    async def send(self, body: bytes) -> None:
        """Wait for room. Nobody is woken for the frame: whoever makes the room receives it."""
        await self._sender().send(body)

    def receive_nowait(self) -> bytes:
        if self._ends is not None:
            return self._ends[1].receive_nowait()
        if self._is_receiver_closed:
            raise trio.ClosedResourceError
        raise trio.EndOfChannel if self._is_sender_closed else trio.WouldBlock

    def close_sender(self) -> None:
        self._is_sender_closed = True
        if self._ends is not None:
            self._ends[0].close()
        self.arrival.unpark_all()

    def close_receiver(self) -> None:
        self._is_receiver_closed = True
        if self._ends is not None:
            self._ends[1].close()
        self.arrival.unpark_all()

    def _sender(self) -> trio.MemorySendChannel[bytes]:
        if self._ends is None:
            if self._is_sender_closed:
                raise trio.ClosedResourceError
            if self._is_receiver_closed:
                raise trio.BrokenResourceError
            self._ends = trio.open_memory_channel[bytes](self._buffer_frames)
        return self._ends[0]
