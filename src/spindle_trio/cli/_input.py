"""Standard input, line by line, whatever it is: a terminal, a pipe, a file, the null device.

No thread reads it: a thread that waits in a read can be neither cancelled nor joined, and would keep the program alive.
Instead a task waits until the descriptor is readable.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio.cli._arguments import parse_json
from spindle_trio.cli._output import can_wait_for

if TYPE_CHECKING:
    from spindle_trio import JsonValue

_READ_BYTES: Final = 64 * 1024
_LONGEST_LINE: Final = 4 * 1024 * 1024
"""Bytes of one line: more than any message may have, with room for generously spaced JSON."""
_BACKGROUND_PAUSE: Final = 0.5
"""Seconds between two looks whether a terminal has come back to this program."""


class LineTooLongError(Exception):
    """A line is longer than any message may be."""


class Reader:
    """Reads what comes from a descriptor."""

    def __init__(self, descriptor: int) -> None:
        """Begin at what comes first.

        Args:
            descriptor: stays open, and keeps its mode.
        """
        self._descriptor = descriptor
        self._can_wait = can_wait_for(descriptor)

    async def receive_some(self) -> bytes:
        """Wait for the next bytes; none at the end. Unreadable input counts as ended, since a process needs no input.

        If cancelled, nothing is lost.
        """
        if self._can_wait:
            await trio.lowlevel.wait_readable(self._descriptor)
            while self._is_in_background():  # noqa: ASYNC110  # no event tells when the terminal comes back
                await trio.sleep(_BACKGROUND_PAUSE)
        else:
            await trio.lowlevel.checkpoint()
        try:
            return os.read(self._descriptor, _READ_BYTES)
        except OSError:
            return b""

    def _is_in_background(self) -> bool:
        """Whether the terminal belongs to another program just now: then a read would suspend this one."""
        try:
            return os.isatty(self._descriptor) and os.tcgetpgrp(self._descriptor) != os.getpgrp()
        except OSError:
            return False


class LineReader:
    """Reads lines from a descriptor."""

    def __init__(self, descriptor: int) -> None:
        """Begin at the first line.

        Args:
            descriptor: stays open, and keeps its mode.
        """
        self._reader = Reader(descriptor)
        self._buffer = bytearray()
        self._at_end = False

    async def receive(self) -> bytes | None:
        """Wait for the next line, and return it without its end; `None` at the end of the input.

        If cancelled, nothing is lost.

        Raises:
            LineTooLongError: the line was skipped; the next call reads the line after it.
        """
        await trio.lowlevel.checkpoint()
        skipped = False
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0 or self._at_end:
                line = bytes(self._buffer[:end]) if end >= 0 else bytes(self._buffer)
                del self._buffer[: len(line) + 1]
                if skipped or len(line) > _LONGEST_LINE:
                    raise LineTooLongError
                return line.removesuffix(b"\r") if end >= 0 or line else None
            if len(self._buffer) > _LONGEST_LINE:
                skipped = True
                self._buffer.clear()
            data = await self._reader.receive_some()
            self._buffer += data
            self._at_end = not data


def message_from(line: bytes) -> JsonValue:
    """Read a line as JSON if it parses, otherwise as a string.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    text = line.decode()
    try:
        return parse_json(text)
    except ValueError:
        return text
