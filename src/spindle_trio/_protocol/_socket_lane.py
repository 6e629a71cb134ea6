"""A frame lane over a Unix stream socket: the host's end of a real process, and the end of an `async` child.

Each turn has one `recv` of at most 64 KiB, all whole frames in it, and a checkpoint: reading until nothing is left
would let one flooding peer starve all others. Frames that came with earlier ones wait in the decoder, and need no read.
Writes are joined. The lane keeps what the system does not take at once, so a cancelled task never leaves half a frame
behind.

The frame deadline binds the peer, so only waiting inside `receive` counts, and it counts in slices: a pause of this
side's own event loop, however long, costs the peer one slice at most.
"""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from spindle_trio._errors import PeerProtocolError
from spindle_trio._linux._readiness import LOOK_SECONDS, wait_readable, wait_writable
from spindle_trio._protocol._frames import FrameDecoder, with_header
from spindle_trio.abc import FrameLane

__all__ = ["SocketLane"]

_SLICES: Final = 20
"""How many slices a frame deadline has. A pause of this side may cost the peer one slice."""

_NO_MEMORY: Final = (errno.ENOMEM, errno.ENOBUFS)
"""The system has no memory for a frame at the moment, and may have some at the next attempt."""

_NOTHING: Final = memoryview(b"")


class SocketLane(FrameLane):
    """One end of a connected Unix stream socket, which belongs to the lane from now on."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        max_bytes: int | None,
        frame_seconds: float = math.inf,
        decoder: FrameDecoder | None = None,
    ) -> None:
        """Take over a socket and make it non-blocking.

        Args:
            sock: closed by `close()`.
            max_bytes: how long the body of a received frame may be; `None` trusts the peer.
            frame_seconds: how many seconds this lane waits for the rest of a frame.
            decoder: one that has got the first bytes already; its `max_bytes` counts then.
        """
        sock.setblocking(False)
        self._socket = sock
        self._decoder = FrameDecoder(max_bytes) if decoder is None else decoder
        self._frame_seconds = frame_seconds
        self._frame_waited = 0.0
        self._is_dry = False  # whether the last read emptied the socket
        self._at_end = False
        self._breach: str | None = None
        self._pending = _NOTHING
        self._closed = False
        self._frames_sent = 0

    def __repr__(self) -> str:
        state = "closed" if self._closed else "at its end" if self._at_end else "open"
        return f"<SocketLane {state}, {self._frames_sent} frames sent, {len(self._pending)} bytes pending>"

    @property
    def frames_sent(self) -> int:
        """How many frames were given to this lane, pending ones included."""
        return self._frames_sent

    async def receive(self, max_frames: int) -> list[bytes]:
        """Wait for frames; see `FrameLane.receive`."""
        # The checkpoint comes before the read. So a cancellation loses nothing, and no frame is on its way to the
        # caller while another task calls `receive_nowait`.
        if self._is_dry and self._decoder.is_empty and self._breach is None:
            # Nothing was left a moment ago. Waiting is a checkpoint too, and saves a turn of the loop and a vain read.
            await wait_readable(self._socket)
        else:
            await trio.lowlevel.checkpoint()
        while True:
            bodies = self._read_once(max_frames)
            if bodies:
                return bodies
            if self._decoder.is_mid_frame and self._frame_seconds < math.inf:
                await self._wait_for_the_rest()
            else:
                await wait_readable(self._socket)

    def receive_nowait(self, max_frames: int) -> list[bytes]:
        """Return what has arrived; see `FrameLane.receive_nowait`."""
        bodies = self._read_once(max_frames)
        while not bodies and self._decoder.is_mid_frame and not self._is_dry:
            bodies = self._read_once(max_frames)  # the rest of a frame that is longer than one read, and no other
        if not bodies:
            raise trio.WouldBlock
        return bodies

    def _read_once(self, max_frames: int) -> list[bytes]:
        """Take whole frames from the decoder, or else from one read; none if none is whole."""
        if self._closed:
            raise trio.ClosedResourceError("this end of the lane was closed")
        if not self._decoder.is_empty or self._breach is not None:
            bodies = self._take(max_frames)
            if bodies:
                return bodies
        if self._at_end:
            raise trio.EndOfChannel
        size = self._decoder.read_size
        try:
            data = self._socket.recv(size)
        except BlockingIOError:
            self._is_dry = True
            return []
        except OSError:
            # ECONNRESET: the peer closed without reading everything. The error comes after the peer's own data.
            data = b""
        if not data:
            self._at_end = True
            self._is_dry = False
            raise trio.EndOfChannel
        self._is_dry = len(data) < size
        self._decoder.feed(data)
        return self._take(max_frames)

    def _take(self, max_frames: int) -> list[bytes]:
        if self._breach is None:
            try:
                bodies = self._decoder.take(max_frames)
            except PeerProtocolError as error:
                self._breach = str(error)
            else:
                if bodies:
                    self._frame_waited = 0.0
                return bodies
        raise PeerProtocolError(self._breach)

    async def _wait_for_the_rest(self) -> None:
        """Wait for more of an incomplete frame, for one slice of its deadline at most."""
        left = self._frame_seconds - self._frame_waited
        if left <= 0:
            # The caller has read once more, without waiting, after the last slice. If that read may have left something
            # behind, the rest of the frame may be there already; otherwise the peer is late.
            if not self._is_dry:
                await trio.lowlevel.checkpoint()
                return
            self._breach = f"a frame was incomplete {self._frame_seconds:g} s after it had begun"
            raise PeerProtocolError(self._breach)
        span = min(left, self._frame_seconds / _SLICES)
        begin = trio.current_time()
        with trio.move_on_after(span) as scope:
            await wait_readable(self._socket)
        if scope.cancelled_caught:
            self._frame_waited += span
        else:
            # If there is data although the slice is over, this side was late, and nobody knows when the data came.
            waited = trio.current_time() - begin
            self._frame_waited += waited if waited < span else 0.0

    def send_nowait(self, body: bytes) -> bool:
        """Begin to send one frame; see `FrameLane.send_nowait`."""
        self._frames_sent += 1
        frame = with_header(body)
        self._write(b"".join((self._pending, frame)) if self._pending else frame)
        return not self._pending

    def send_many_nowait(self, bodies: Sequence[bytes]) -> int:
        """Begin to send frames, in one write; see `FrameLane.send_many_nowait`."""
        frames = list(map(with_header, bodies))
        self._write(b"".join(frames))
        left = len(frames)
        unsent = len(self._pending)
        while unsent > 0:
            left -= 1
            unsent -= len(frames[left])
        if self._pending:  # keeps the rest of one frame; `unsent` is now how much of that one has been sent, negated
            self._pending = self._pending[: len(frames[left]) + unsent]
            self._frames_sent += 1
        self._frames_sent += left
        return left

    async def send_pending(self, bodies: Sequence[bytes] = ()) -> None:
        """Send what is pending and then these frames; see `FrameLane.send_pending`.

        If it is cancelled, the next `send_pending` continues with the rest.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._frames_sent += len(bodies)
        self._write(b"".join((self._pending, *map(with_header, bodies))))
        if not self._pending:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while self._pending:
            await wait_writable(self._socket)
            left = len(self._pending)
            self._write(self._pending)
            if len(self._pending) == left:
                await trio.sleep(LOOK_SECONDS)  # there is room, and no memory

    def _write(self, data: bytes | memoryview) -> None:
        """Write as much as the system takes in one call; the rest is pending."""
        if self._closed:
            raise trio.ClosedResourceError("this end of the lane was closed")
        try:
            sent = self._socket.send(data, socket.MSG_NOSIGNAL) if data else 0
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if error.errno in _NO_MEMORY:
                self._pending = memoryview(data)
                return
            self._pending = _NOTHING
            raise trio.BrokenResourceError(f"the other end of the lane is gone: {error.strerror}") from None
        self._pending = memoryview(data)[sent:] if sent < len(data) else _NOTHING

    def shut(self) -> None:
        """Refuse everything that is sent from the other end from now on.

        What was sent before can still be received; then the lane is at its end.
        """
        with suppress(OSError):  # it is closed, or the system refuses: readers have bounds of their own
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close this end; see `FrameLane.close`."""
        if not self._closed:
            self._closed = True
            self._is_dry = False
            self._pending = _NOTHING
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
