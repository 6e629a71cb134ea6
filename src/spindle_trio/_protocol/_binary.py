"""Bytes out of band: what a payload has of them follows its body, in frames of their own.

The body is in the tagged form, with ``{"$raw": n}`` in place of each value of n bytes. Directly behind it, on the same
lane, come frames of the kind `BYTES` until all of them are there, in the order in which the body names them. So they
are never text, and the sender and the receiver handle a piece at a time, however many there are.

Loaded when the first value of this kind is sent or received. Standard library only, since children use it too.
"""

from __future__ import annotations

from io import BytesIO

from spindle_trio._errors import PeerProtocolError
from spindle_trio._protocol._frames import BYTES, HEADER_BYTES, TAGGED, encode_body
from spindle_trio._protocol._json_text import read_json
from spindle_trio._protocol._payload import LentBytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Final, TypeAlias

    from spindle_trio._model import JsonValue

    Place: TypeAlias = tuple[object, object, int]
    """A container, the index or name of a value in it, and how many bytes the value has."""

PIECE_BYTES: Final = 128 * 1024
"""Bytes in one frame behind a body: what a socket takes in one write. Half and twice as many take longer."""

RAW: Final = "$raw"


class BinaryBody(bytes):
    """The body of a frame, and the bytes that follow it in frames of their own."""

    raws: Sequence[bytes | memoryview]
    size: int
    """Bytes in all: the body's own, and those that follow."""
    piece: int
    """Bytes of the latter in one frame."""

    @classmethod
    def of(cls, body: bytes, raws: Sequence[bytes | memoryview], max_bytes: int) -> BinaryBody:
        """Put a body and the bytes that it names together, for frames whose bodies may have so many bytes."""
        whole = cls(body)
        whole.raws = raws
        whole.size = len(body) + sum(map(len, raws))
        whole.piece = min(PIECE_BYTES, max_bytes - len(BYTES))
        return whole

    @property
    def framed_size(self) -> int:
        """How many bytes all these frames have, with their headers."""
        pieces = -((len(self) - self.size) // self.piece)
        return HEADER_BYTES + self.size + pieces * (HEADER_BYTES + len(BYTES))

    def bodies(self) -> Iterator[bytes]:
        """Write the bodies of all frames, one after another: first its own, and then the pieces behind it."""
        yield bytes(self)
        parts: list[bytes | memoryview] = [BYTES]
        room = self.piece
        for raw in self.raws:
            view = memoryview(raw)
            begin = 0
            while begin < len(raw):
                part = view[begin : begin + room]
                parts.append(part)
                begin += len(part)
                room -= len(part)
                if not room:
                    yield b"".join(parts)
                    parts, room = [BYTES], self.piece
        if len(parts) > 1:
            yield b"".join(parts)


class Tagged:
    """A value whose bytes are taken out: JSON with tags in their places."""

    __slots__ = ("raws", "value")

    def __init__(self, value: object, raws: Sequence[bytes | memoryview]) -> None:
        self.value: object = value
        self.raws: Sequence[bytes | memoryview] = raws


def take_bytes_out(value: object) -> Tagged:
    """Put tags in the places of bytes, in a copy; `BinaryWalk` has found the value fit.

    What its owner could change is copied.
    """
    raws: list[bytes | memoryview] = []
    return Tagged(_tagged(value, raws), raws)


def _tagged(value: object, raws: list[bytes | memoryview]) -> object:
    if isinstance(value, list):
        return [_tagged(item, raws) for item in value]
    if isinstance(value, dict):
        items = {name: _tagged(item, raws) for name, item in value.items()}
        if len(items) == 1:
            ((name, item),) = items.items()
            if name.startswith("$"):
                return {f"${name}": item}
        return items
    if isinstance(value, LentBytes):
        raws.append(value.view)
        return {RAW: len(value.view)}
    if isinstance(value, bytes | bytearray | memoryview):
        raws.append(value.tobytes() if isinstance(value, memoryview) else bytes(value))
        return {RAW: len(raws[-1])}
    return value


def encode_binary(
    value: object,
    max_bytes: int,
    name: str = "payload",
    *,
    kind: bytes = b"",
    write: Callable[[object, int | None, str], bytes] = encode_body,
) -> BinaryBody:
    """Write a value that has bytes as a body with these behind it.

    Args:
        value: checked by a `BinaryWalk`.
        max_bytes: how long the body may be, without what follows.
        name: what the error calls the value.
        kind: begins the body.
        write: writes JSON; `encode_body` or `write_body`.

    Raises:
        PayloadError: the body would be longer.
    """
    tagged = take_bytes_out(value)
    before = kind + TAGGED
    return BinaryBody.of(before + write(tagged.value, max_bytes - len(before), name), tagged.raws, max_bytes)


class Gathering:
    """A value whose bytes are still to come."""

    __slots__ = ("_buffer", "_filled", "_next", "_outermost", "_places", "left", "size")

    def __init__(self, value: JsonValue, read_tag: Callable[[str, object], object]) -> None:
        """Find the places of the bytes, and replace all other tags.

        Args:
            value: as the JSON of the body has it. It is changed in place.
            read_tag: reads a tag of another kind, from its name without the ``$`` and what it holds.

        Raises:
            ValueError: a tag gives no number of bytes, or is unknown.
        """
        self._outermost: list[object] = [value]
        self._places = _places_in(self._outermost, read_tag)
        self._next = self._filled = 0
        self._buffer: BytesIO | None = None
        self.size: int = sum(size for _, _, size in self._places)
        """How many bytes there are in all."""
        self.left: int = self.size
        """How many are still to come."""

    @property
    def value(self) -> JsonValue:
        """The value, which is whole once nothing is left to come."""
        return self._outermost[0]  # type: ignore[return-value]  # bytes have no place in the type; see `JsonValue`

    def add(self, body: bytes) -> bool:
        """Take in a frame's body, and say whether that was the last.

        Raises:
            PeerProtocolError: it is no piece of these bytes.
        """
        if not body.startswith(BYTES):
            raise PeerProtocolError(f"another frame where {self.left} bytes of the one before were to come")
        view = memoryview(body)[len(BYTES) :]
        if not view:
            raise PeerProtocolError("a frame of bytes without any")
        self.left -= len(view)
        if self.left < 0:
            raise PeerProtocolError(f"{-self.left} bytes more than the frame before them has announced")
        while view:
            owner, place, size = self._places[self._next]
            part = view[: size - self._filled]
            view = view[len(part) :]
            if len(part) == size:
                self._put(owner, place, bytes(part))
                continue
            if self._buffer is None:
                self._buffer = BytesIO()  # grows with what is there, and gives it away without a copy
            self._buffer.write(part)
            self._filled += len(part)
            if self._filled == size:
                self._put(owner, place, self._buffer.getvalue())
                self._buffer, self._filled = None, 0
        return not self.left

    def _put(self, owner: object, place: object, data: bytes) -> None:
        owner[place] = data  # type: ignore[index]  # it was found there
        self._next += 1


def gather_text(text: bytes) -> Gathering:
    """Begin to gather a value from a peer that is trusted: the JSON behind the sign of the tagged form.

    Raises:
        ValueError: it is not JSON, or has tags of other kinds.
    """
    return Gathering(read_json(text), _refuse_tag)


def gather(gathering: Gathering | None, body: bytes) -> Gathering:
    """Take in the next frame of a message from a peer that is trusted; the message is whole if nothing is left.

    Args:
        gathering: the message; `None` before its first frame, which has the tagged form.
        body: the frame's.

    Raises:
        ValueError: see `gather_text`.
        PeerProtocolError: see `Gathering.add`.
    """
    if gathering is None:
        return gather_text(body[len(TAGGED) :])
    gathering.add(body)
    return gathering


def _refuse_tag(name: str, _: object) -> object:
    raise ValueError(f"an unknown tag {name[:20]!a}")


def _places_in(outermost: list[object], read_tag: Callable[[str, object], object]) -> list[Place]:
    """List the places of bytes in the order of the text, and replace all tags; those of no bytes at once as well.

    Raises:
        ValueError: see `Gathering`.
    """
    places: list[Place] = []
    walks: list[tuple[object, Iterator[tuple[object, object]]]] = [(outermost, iter(enumerate(outermost)))]
    while walks:
        owner, items = walks[-1]
        for place, item in items:
            if type(item) is dict and len(item) == 1:
                ((name, value),) = item.items()
                if name == RAW:
                    if type(value) is not int or value < 0:
                        raise ValueError(f"{RAW} is not a number of bytes")
                    owner[place] = b""  # type: ignore[index]  # it was found there
                    if value:
                        places.append((owner, place, value))
                    continue
                if name.startswith("$") and not name.startswith("$$"):
                    owner[place] = read_tag(name[1:], value)  # type: ignore[index]  # it was found there
                    continue
                if name.startswith("$"):
                    item = owner[place] = {name[1:]: value}  # type: ignore[index]  # noqa: PLW2901  # as above
            if type(item) is dict:
                walks.append((item, iter(item.items())))
                break
            if type(item) is list:
                walks.append((item, iter(enumerate(item))))
                break
        else:
            walks.pop()
    return places
