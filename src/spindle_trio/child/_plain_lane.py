"""Frames over a bare descriptor, without an event loop, for a blocking child.

Nothing here waits. The descriptor is non-blocking; to wait, poll it.
"""

from __future__ import annotations

import os

from spindle_trio._protocol._frames import FrameDecoder, with_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterator
    from typing import NoReturn

    from spindle_trio._protocol._binary import BinaryBody
else:
    from _collections import deque  # `collections` would have to be loaded for it


def end_without_host() -> NoReturn:
    """End this process at once: its host is gone."""
    os._exit(1)


class PlainLane:
    """The child's end of one lane. It trusts the host; if the host ends, this process ends."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)  # a process that the entry starts must not keep the lane open
        self.fd = fd
        """The socket."""
        self.decoder: FrameDecoder = FrameDecoder(None)
        """Cuts the bytes read into frames."""
        self.written: int = 0
        """Bytes that have left for the host's system."""
        self.queued: int = 0
        """Bytes that were given to `push`."""
        self._pending = memoryview(b"")
        self._behind: deque[bytes | Iterator[bytes]] = deque()  # what goes after it: frames, and frames in pieces

    @property
    def is_flushed(self) -> bool:
        """Whether everything given to `push` has left."""
        return not self._pending

    def take(self) -> bytes | None:
        """Take the body of the next frame that has been read; `None` if there is none."""
        return self.decoder.take_one()

    def fill(self) -> bool:
        """Read once, and return whether anything came. If the host has closed the lane, this process ends."""
        try:
            data = os.read(self.fd, self.decoder.read_size)
        except BlockingIOError:
            return False
        except OSError:
            end_without_host()
        if not data:
            end_without_host()
        self.decoder.feed(data)
        return True

    def push(self, body: bytes) -> None:
        """Send a frame behind what is pending, as far as the system takes it now."""
        if type(body) is not bytes:
            self._push_binary(body)  # type: ignore[arg-type]  # there is no other subclass
            return
        frame = with_header(body)
        size = len(frame)
        self.queued += size
        if self._pending:
            self._behind.append(frame)
            self.flush()
            return
        sent = self._write(frame)
        if sent < size:
            self._pending = memoryview(frame)[sent:]

    def _push_binary(self, body: BinaryBody) -> None:
        """Send a frame and the bytes behind it, in pieces, as far as the system takes them now."""
        self.queued += body.framed_size
        self._behind.append(map(with_header, body.bodies()))
        if not self._pending:
            self._pending = self._next()
        self.flush()

    def flush(self) -> None:
        """Send what is pending, as far as the system takes it now."""
        if self._pending:
            self._pending = self._pending[self._write(self._pending) :]
            if self._behind and not self._pending:
                self._pending = self._next()

    def _next(self) -> memoryview[int]:
        """Take what goes next: a piece, or all frames before the first piece; empty if that was all."""
        frames: list[bytes] = []
        while self._behind:
            frame = self._behind[0]
            if isinstance(frame, bytes):
                frames.append(frame)
            elif frames:
                break
            else:
                piece = next(frame, None)
                if piece is not None:
                    return memoryview(piece)
            self._behind.popleft()
        return memoryview(b"".join(frames))

    def _write(self, data: bytes | memoryview) -> int:
        """Write once, and return how many bytes the system has taken."""
        try:
            sent = os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            end_without_host()
        self.written += sent
        return sent
