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
    to_child, from_host = trio.open_memory_channel[bytes](buffer_frames)
    to_host, from_child = trio.open_memory_channel[bytes](buffer_frames)
    host_wake, child_wake = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()
    return (
        MemoryLane(to_child, from_child, host_wake, child_wake, max_bytes),
        MemoryLane(to_host, from_host, child_wake, host_wake, None),
    )


class MemoryLane(FrameLane):
    """One end of a lane between two tasks."""

    __slots__ = ("_breach", "_is_silenced", "_max_bytes", "_pending", "_receive", "_send", "_wake", "_wake_peer")

    def __init__(
        self,
        send: trio.MemorySendChannel[bytes],
        receive: trio.MemoryReceiveChannel[bytes],
        wake: trio.lowlevel.ParkingLot,
        wake_peer: trio.lowlevel.ParkingLot,
        max_bytes: int | None,
    ) -> None:
        """Made by `memory_lane_pair`."""
        self._send = send
        self._receive = receive
        self._wake = wake
        self._wake_peer = wake_peer
        self._max_bytes = max_bytes
        self._pending: deque[bytes] | None = None
        self._breach: str | None = None
        self._is_silenced = False

    def __repr__(self) -> str:
        inbound, outbound = self._receive.statistics(), self._send.statistics()
        return f"<MemoryLane {inbound.current_buffer_used} frames in, {outbound.current_buffer_used} out>"

    async def receive(self, max_frames: int) -> list[bytes]:
        """Wait for frames; see `FrameLane.receive`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                bodies = self.receive_nowait(max_frames)
            except trio.WouldBlock:
                await self._wake.park()
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return bodies

    def receive_nowait(self, max_frames: int) -> list[bytes]:
        """Return what has arrived; see `FrameLane.receive_nowait`."""
        bodies: list[bytes] = []
        size = 0
        while len(bodies) < max_frames and size < READ_BYTES and self._breach is None:
            try:
                body = self._receive.receive_nowait()
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
            self._send.send_nowait(body)
        except trio.WouldBlock:
            return False
        self._wake_peer.unpark_all()
        return True

    async def send_pending(self, bodies: Sequence[bytes] = ()) -> None:
        """Send what is pending and then these frames; see `FrameLane.send_pending`."""
        pending = self._pending = self._pending or deque()
        pending.extend(bodies)
        await trio.lowlevel.checkpoint()
        while pending and not self._is_silenced:
            try:
                self._send.send_nowait(pending[0])
            except trio.WouldBlock:
                await self._send.send(pending[0])
            pending.popleft()
            self._wake_peer.unpark_all()
        self._pending = None

    def close(self) -> None:
        """Close this end; see `FrameLane.close`. What it has sent can still be received."""
        self._send.close()
        self._receive.close()
        self._wake.unpark_all()
        self._wake_peer.unpark_all()

    def silence(self) -> None:
        """Let nothing more out, as if the process behind this end did not exist any more; it stays open."""
        self._is_silenced = True
