"""Frames, as bytes: a 4-byte big-endian length and then a body of that many bytes, which is one JSON value.

Both ends and every lane use this module; `notes/protocol.md` describes what the bodies say. Sans-IO, and standard
library only, since children use it too.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, NoReturn

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._payload import PayloadBounds, check_payload

if TYPE_CHECKING:
    from spindle_trio._model import JsonValue

HEADER_BYTES: Final = 4
READ_BYTES: Final = 64 * 1024
"""Bytes asked for in one read: larger reads gain nothing, and a flood must not starve others (performance notes)."""


def encode_body(value: object, max_bytes: int | None = None, name: str = "payload") -> bytes:
    """Write a JSON-safe value as the body of a frame.

    Args:
        value: checked by `check_payload` before.
        max_bytes: how long the body may be; `None` for no bound.
        name: what the error calls the value.

    Raises:
        PayloadError: the body would be longer.
    """
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode()
    if max_bytes is not None and len(body) > max_bytes:
        raise PayloadError(f"{name}: {len(body)} bytes as JSON, more than {max_bytes} in one frame")
    return body


def with_header(body: bytes) -> bytes:
    """Put a body's length in front of it."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def decode_body(body: bytes, bounds: PayloadBounds) -> JsonValue:
    """Read the body of a frame from somebody who is not trusted.

    Brackets and commas are counted before anything is parsed, since a body of 1 MiB can become 24 MiB of objects.

    Raises:
        PeerProtocolError: not JSON, not JSON-safe, or over a bound; says which.
    """
    _check_brackets(body, bounds)
    try:
        value: JsonValue = json.loads(body.decode(), parse_constant=_refuse_constant)
        check_payload(value, bounds, "frame")
    except (ValueError, RecursionError) as error:
        # UnicodeDecodeError, JSONDecodeError, PayloadError and the interpreter's own limit on digits are ValueErrors.
        raise PeerProtocolError(f"a frame that is not JSON-safe: {error}") from None
    return value


_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, or the beginning of one to the end of the body. It never fails once it has begun, and never goes back:
otherwise a body of backslashes and quotes alone would take time that grows with the square of its length."""


def _check_brackets(body: bytes, bounds: PayloadBounds) -> None:
    """Refuse too many values or too deep a nesting, by an estimate first and exactly where that is not enough."""
    if _most_values(body) <= bounds.values and body.count(b"[") + body.count(b"{") <= bounds.depth:
        return
    bare = _STRINGS.sub(b"", body)
    if _most_values(bare) > 2 * bounds.values:  # an empty container counts twice here: the walk afterwards is exact
        raise PeerProtocolError(f"a frame with more than {bounds.values} values")
    depth = 0
    for bracket in bare.translate(None, _NO_BRACKETS):
        if bracket in b"[{":
            depth += 1
            if depth > bounds.depth + 1:
                raise PeerProtocolError(f"a frame nested more than {bounds.depth} deep")
        else:
            depth -= 1
            if depth <= 0:
                return  # the value is over: if anything follows that is no white space, the parser refuses it


_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def _most_values(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{") + 1


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class FrameDecoder:
    """Cuts a stream of bytes into the bodies of frames."""

    def __init__(self, max_bytes: int | None) -> None:
        """Begin an empty stream.

        Args:
            max_bytes: how long one body may be; `None` trusts the peer.
        """
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._start = 0

    @property
    def is_mid_frame(self) -> bool:
        """Whether the bytes at hand begin a frame that is not whole."""
        size = self._next_size()
        at_hand = len(self._buffer) - self._start
        return at_hand > 0 and (size is None or at_hand < HEADER_BYTES + size)

    def feed(self, data: bytes) -> None:
        """Add what has been read."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def take(self, max_frames: int) -> list[bytes]:
        """Take up to `max_frames` whole frames, oldest first; none if none is whole.

        Raises:
            PeerProtocolError: the next frame says that it is longer than allowed. Frames before it come first, and
                nothing is allocated for it.
        """
        bodies: list[bytes] = []
        while len(bodies) < max_frames:
            size = self._next_size()
            if size is None:
                break
            if self._max_bytes is not None and size > self._max_bytes:
                if bodies:
                    break
                raise PeerProtocolError(f"a frame of {size} bytes, more than {self._max_bytes}")
            body_start = self._start + HEADER_BYTES
            if len(self._buffer) < body_start + size:
                break
            bodies.append(bytes(self._buffer[body_start : body_start + size]))
            self._start = body_start + size
        return bodies

    def _next_size(self) -> int | None:
        header = self._buffer[self._start : self._start + HEADER_BYTES]
        return int.from_bytes(header, "big") if len(header) == HEADER_BYTES else None
