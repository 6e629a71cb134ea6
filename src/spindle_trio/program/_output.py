"""What a program writes, as the shim reads it.

A pipe may stay open after the program's end: what it has left behind holds it. So a program's output ends with the
program, once what it has written by then has been read.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._linux._readiness import wait_readable, wait_writable

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES: Final = 64 * 1024
_FIONREAD: Final = 0x541B  # of `termios`, which nothing else here needs


class ProgramOutput(trio.abc.ReceiveStream):
    """The reading end of a program's stdout or stderr."""

    def __init__(self, fd: int) -> None:
        """Take over a descriptor."""
        os.set_blocking(fd, False)
        self._fd = fd
        self._left: int | None = None
        """How many bytes the program has written that have not been read; `None` while it lives."""
        self.watch: Callable[[bytes], None] | None = None
        """Sees all that is read; set while somebody looks for a line in it."""

    def end(self) -> None:
        """Note that the program has ended: what is in the pipe now is its last output."""
        if self._fd >= 0 and self._left is None:
            (self._left,) = struct.unpack("i", fcntl.ioctl(self._fd, _FIONREAD, b"\0" * 4))
            trio.lowlevel.notify_closing(self._fd)  # wakes who waits for more

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what the program has written, waiting while there is nothing; ``b""`` at the end."""
        await trio.lowlevel.checkpoint()
        while True:
            size = max_bytes or _READ_BYTES
            if self._left is not None:
                size = min(size, self._left)
            try:
                data = os.read(self._fd, size) if size else b""
            except BlockingIOError:
                if self._left is not None:
                    return b""
                try:
                    await wait_readable(self._fd)
                except trio.ClosedResourceError:
                    if self._fd < 0:
                        raise
                continue
            if self._left is not None:
                self._left -= len(data)
            if data and self.watch is not None:
                self.watch(data)
            return data

    async def aclose(self) -> None:
        """Close the descriptor."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            trio.lowlevel.notify_closing(fd)
            os.close(fd)


async def relay(output: ProgramOutput, target: int) -> None:
    """Pass on all that the program writes, until its output ends.

    Args:
        output: where it comes from.
        target: a descriptor that is non-blocking; the host always reads its other end.
    """
    while data := await output.receive_some():
        await write_all(target, data)


async def write_all(fd: int, data: bytes) -> bool:
    """Write to a pipe that is non-blocking; returns whether all was written, since the reader may be gone."""
    await trio.lowlevel.checkpoint()
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            await wait_writable(fd)
        except BrokenPipeError:
            return False
    return True


class LineCutter:
    """Cuts a stream of bytes into lines."""

    def __init__(self, most_bytes: int) -> None:
        """Begin with none.

        Args:
            most_bytes: how long the rest without a newline may become before `is_too_long`.
        """
        self._most_bytes = most_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes, and return the lines that are complete now, without their ends."""
        head, newline, rest = data.rpartition(b"\n")
        if newline:
            lines = (b"".join(self._parts) + head).split(b"\n")
            self._parts, self._size = [], 0
        else:
            lines = []
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
        return [line.removesuffix(b"\r") for line in lines]

    @property
    def is_too_long(self) -> bool:
        """Whether the line that has begun is longer than it may be."""
        return self._size > self._most_bytes

    def take_rest(self) -> bytes:
        """Take the line that has begun, without an end."""
        rest = b"".join(self._parts)
        self._parts, self._size = [], 0
        return rest
