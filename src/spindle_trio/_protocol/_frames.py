"""Frames, as bytes: a 4-byte big-endian length and then a body of that many bytes, which is one JSON value.

Both ends and every lane use this module; `notes/protocol.md` describes the bodies. The host reads bodies from children
with `_json_codec`. Sans-IO, and standard library only, since children use it too.
"""

from __future__ import annotations

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._protocol._json_text import write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from typing import Final
else:
    from _collections import deque  # `collections` would have to be loaded for it

HEADER_BYTES: Final = 4
TOO_LARGE_ADVICE: Final = "raise Limits(frame_bytes=…), or write it to a file and send its path"
"""The advice for a payload or result over `Limits.frame_bytes`."""
TAGGED: Final = b"$"
"""Begins a body in the tagged form, and no JSON text."""
BYTES: Final = b"\x05"
"""Begins the body of a frame that is no JSON, but a piece of the bytes that the frame before has announced."""
READ_BYTES: Final = 64 * 1024
"""Bytes to ask for in one read. Larger reads gain nothing, and a flood must not starve others."""
_LONG_READ_BYTES: Final = 256 * 1024
"""The same where half of that is missing of a frame: then larger reads gain a third."""


def encode_body(value: object, max_bytes: int | None = None, name: str = "payload") -> bytes:
    """Write a JSON-safe value as the body of a frame.

    Args:
        value: already checked by `check_payload`.
        max_bytes: how long the body may be; `None` for no bound.
        name: what the error calls the value.

    Raises:
        PayloadError: the body would be longer.
    """
    return check_size(write_json(value).encode(), max_bytes, name)


def check_size(body: bytes, max_bytes: int | None, name: str) -> bytes:
    """Return a body, unless it is too long; see `encode_body`."""
    if max_bytes is not None and len(body) > max_bytes:
        size = len(body)
        raise PayloadError(
            f"{name}: {size} bytes as JSON, more than {max_bytes} in one frame; {TOO_LARGE_ADVICE}",
            size=size,
            limit=max_bytes,
        )
    return body


def with_header(body: bytes) -> bytes:
    """Put a body's length in front of it."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def too_long(size: int, max_bytes: int | None) -> str:
    """Say that a peer's frame is too long, and what to do about it."""
    return f"a frame of {size} bytes, more than {max_bytes}; {TOO_LARGE_ADVICE}"


class FrameDecoder:
    """Cuts a stream of bytes into the bodies of frames.

    It cuts all frames of a read at once, without another copy of the bytes. Only an incomplete frame is kept in pieces,
    which are joined once the last piece is there. So the cost of a long frame depends on its length, not on the number
    of reads.
    """

    __slots__ = ("_max_bytes", "_missing", "_pieces", "_too_long", "_whole")

    def __init__(self, max_bytes: int | None) -> None:
        """Begin an empty stream.

        Args:
            max_bytes: how long one body may be; `None` trusts the peer.
        """
        self._max_bytes = max_bytes
        self._whole: deque[bytes] = deque()
        self._pieces: list[bytes] = []
        self._missing = 0  # bytes that must still arrive before joining the pieces makes sense
        self._too_long: int | None = None

    @property
    def is_mid_frame(self) -> bool:
        """Whether the decoder has only part of a frame."""
        return bool(self._pieces) and not self._whole

    @property
    def is_empty(self) -> bool:
        """Whether the decoder has no bytes at all."""
        return not self._whole and not self._pieces

    @property
    def read_size(self) -> int:
        """How many bytes to ask for in the next read."""
        return READ_BYTES if self._missing < _LONG_READ_BYTES // 2 else _LONG_READ_BYTES

    def feed(self, data: bytes) -> None:
        """Add bytes that have been read."""
        if self._too_long is not None:
            return
        pieces = self._pieces
        if pieces:
            self._missing -= len(data)
            if self._missing > 0:
                pieces.append(data)
                return
            self._pieces = []
            first = pieces[0]
            if len(first) < HEADER_BYTES:
                data = b"".join((*pieces, data))
            else:
                end = len(data) + self._missing  # of the frame
                self._whole.append(b"".join((memoryview(first)[HEADER_BYTES:], *pieces[1:], memoryview(data)[:end])))
                data = data[end:]
        self._cut(data)

    def take(self, max_frames: int) -> list[bytes]:
        """Take up to `max_frames` whole frames, oldest first; none if none is whole.

        Raises:
            PeerProtocolError: the header of the next frame exceeds the limit. Frames before it come first, and nothing
                is allocated for it.
        """
        whole = self._whole
        if self._too_long is not None and not whole:
            raise PeerProtocolError(too_long(self._too_long, self._max_bytes))
        if len(whole) > max_frames:
            return [whole.popleft() for _ in range(max_frames)]
        bodies = list(whole)
        whole.clear()
        return bodies

    def take_one(self) -> bytes | None:
        """Take the oldest whole frame, from a trusted peer; `None` if none is whole."""
        return self._whole.popleft() if self._whole else None

    def _cut(self, data: bytes) -> None:
        """Take the whole frames out of bytes that begin with a header, and keep the rest."""
        most = self._max_bytes
        begin = HEADER_BYTES  # of the body
        while begin <= len(data):
            size = int.from_bytes(data[begin - HEADER_BYTES : begin], "big")
            end = begin + size
            if most is not None and size > most:
                self._too_long = size
                break
            if end > len(data):
                self._missing = end - len(data)
                break
            self._whole.append(data[begin:end])
            begin = end + HEADER_BYTES
        else:
            self._missing = begin - len(data)
        rest = data[begin - HEADER_BYTES :]
        if rest:
            self._pieces.append(rest)
