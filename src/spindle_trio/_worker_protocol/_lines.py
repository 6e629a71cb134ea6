"""Lines of the worker protocol as they come in: cut out of a stream, bounded before they are parsed, and read as JSON.

The peer is not trusted. A line over the bound on bytes is skipped while it comes in, and the next one is read as
usual. The brackets and commas of a line are counted before it is parsed, since a mebibyte of brackets becomes 24 MiB of
objects. A bounded scan looks for the request's id in such a line, and in one that the parser gives up on, so that the
request can be answered.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from spindle_trio._errors import PeerProtocolError
from spindle_trio._protocol._json_codec import has_too_many_values, read_large
from spindle_trio.wire import request_id_of

if TYPE_CHECKING:
    from spindle_trio.wire import JsonObject

MAX_LINE_VALUES: Final = 300_000
"""Values in one line, unless told otherwise: room for a payload and metadata at the default limits, and some more."""

_TAIL_BYTES: Final = 2 * 1024
"""Bytes at the end of a line that are looked at for a request's id, and kept of one that is skipped."""

_SCANNED_TOKENS: Final = 20_000
"""Texts and runs of brackets that are looked at for a request's id: some milliseconds."""

_TEXT: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN: Final = re.compile(_TEXT + rb"|[\[{]++|[\]}]++", re.DOTALL)
_VALUE: Final = re.compile(rb"\s*+:\s*+(" + _TEXT + rb")", re.DOTALL)
_LAST_FIELD: Final = re.compile(rb'[,{]\s*+"requestId"\s*+:\s*+(' + _TEXT + rb")\s*+\}\s*+\Z", re.DOTALL)


class UnreadableLineError(PeerProtocolError):
    """A line that is no message. The line after it can be read."""

    def __init__(self, message: str, request_id: str | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id
        """The id of the request that it is, where one was found: that request is owed an answer."""


class LineReader:
    """Cuts a stream of bytes into lines, and reads each as a JSON object."""

    def __init__(self, max_bytes: int, max_values: int) -> None:
        """Begin an empty stream.

        Args:
            max_bytes: bytes that one line may have, its end not counted.
            max_values: values that one line may have.
        """
        self._max_bytes = max_bytes
        self._max_values = max_values
        self._buffer = bytearray()
        self._searched = 0  # how far the buffer is known to hold no end of line
        self._skipped: _SkippedLine | None = None

    @property
    def is_mid_line(self) -> bool:
        """Whether a line has begun that is not whole."""
        return bool(self._buffer) or self._skipped is not None

    def feed(self, data: bytes | bytearray) -> None:
        """Add what has been read."""
        self._buffer += data

    def take(self) -> JsonObject | None:
        """Take the next whole line as an object; `None` if there is none yet.

        Raises:
            UnreadableLineError: the next line is not a JSON object, or over a bound; it has been consumed.
        """
        end = self._buffer.find(b"\n", self._searched)
        if self._skipped is not None:
            self._skip(end)
            return None
        if (end if end >= 0 else len(self._buffer)) > self._max_bytes:
            self._skipped = _SkippedLine(bytes(self._buffer[: self._max_bytes]))
            self._skip(end)
            return None
        if end < 0:
            self._searched = len(self._buffer)
            return None
        line = bytes(memoryview(self._buffer)[:end])
        self._drop(end + 1)
        return _object_in(line, self._max_values)

    def _skip(self, end: int) -> None:
        assert self._skipped is not None, "a line is being skipped"
        self._skipped.add(self._buffer if end < 0 else self._buffer[:end])
        self._drop(len(self._buffer) if end < 0 else end + 1)
        if end >= 0:
            request_id = self._skipped.request_id
            self._skipped = None
            raise UnreadableLineError(f"a line of more than {self._max_bytes} bytes", request_id)

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._searched = 0


class _SkippedLine:
    """What is kept of a line that is too long."""

    def __init__(self, head: bytes) -> None:
        self._id = _id_at_the_beginning(head)
        self._tail = b""

    def add(self, data: bytearray) -> None:
        self._tail = (self._tail + bytes(data[-_TAIL_BYTES:]))[-_TAIL_BYTES:]

    @property
    def request_id(self) -> str | None:
        return self._id or _id_at_the_end(self._tail)


def _object_in(line: bytes, max_values: int) -> JsonObject:
    """Read one line.

    NaN and the infinities, which JSON cannot spell but some writers do, are read as numbers: so a request that has one
    in its payload can be told what is wrong with it.
    """
    if has_too_many_values(line, max_values):
        raise UnreadableLineError(f"a line with more than {max_values} values", find_request_id(line))
    try:
        value: object = read_large(lambda: json.loads(line.decode()))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnreadableLineError(f"a line that is not JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        # The interpreter's limits on digits and depth: JSON for all that is known, and a request is owed its answer.
        raise UnreadableLineError(f"a line that cannot be read as JSON: {error}", find_request_id(line)) from None
    if not isinstance(value, dict):
        raise UnreadableLineError(f"a line that is a JSON {type(value).__name__}, not an object")
    return value


def find_request_id(line: bytes) -> str | None:
    """Look for the `requestId` of an object that cannot be parsed; `None` if it is not found at either end."""
    return _id_at_the_beginning(line) or _id_at_the_end(line[-_TAIL_BYTES:])


def _id_at_the_beginning(line: bytes) -> str | None:
    """Look for it among the outermost fields, as far as a bounded number of texts and brackets reaches."""
    depth = 0
    tokens = _TOKEN.finditer(line)
    for _, token in zip(range(_SCANNED_TOKENS), tokens, strict=False):
        begin = token.start()
        match line[begin : begin + 1]:
            case b'"':
                # Only a name is followed by a colon.
                if depth == 1 and token.group() == b'"requestId"' and (value := _VALUE.match(line, token.end())):
                    return _read_id(value)
            case b"[" | b"{":
                depth += token.end() - begin
            case _:
                depth -= token.end() - begin
    return None


def _id_at_the_end(tail: bytes) -> str | None:
    """Look for it as the last field: one closing bracket follows, which is the object's own."""
    value = _LAST_FIELD.search(tail)
    return None if value is None else _read_id(value)


def _read_id(value: re.Match[bytes]) -> str | None:
    written = value.group(1)
    if len(written) > _TAIL_BYTES:
        return None
    try:
        return request_id_of({"requestId": json.loads(written)})
    except ValueError:
        return None
