"""Bodies of frames in the host: written with msgspec, and read from children that are not trusted.

Theory of operation
-------------------

What is refused on receipt is fixed by `check_payload`: what is not JSON-safe, and what is over a bound. Walking over a
value costs more than reading it, and most frames cannot be over any bound, simply because they are short. So the checks
are proved from the bytes if possible:

* *JSON-safe*: msgspec reads JSON in UTF-8, and refuses lone surrogates, control characters and numbers that
  are no finite float. It takes integers of any size, so a body with nineteen digits in a row is looked at further.
* *Values, depth, and where they are bounded, texts and entries*: a body that is short enough cannot be over any of
  these bounds, and a longer one not over those on values and depth if its commas and brackets say so. A body that has
  too many values even without what stands in its texts is refused before it is parsed: 1 MiB of it can become
  24 MiB of objects.

Where a proof fails, `check_payload` walks over the value, and decides. Each proof errs on the side of the walk, and a
test holds both against each other on bodies of all kinds.

A body that no JSON text can be, since it begins with ``$``, is in the *tagged* form: JSON follows, in which an object
with one name that begins with ``$`` stands for another value. Any other body costs nothing for that.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, cast

import msgspec

from spindle_trio._errors import PeerProtocolError
from spindle_trio._model._rich_values import value_from_text
from spindle_trio._protocol._frames import check_size
from spindle_trio._protocol._payload import SMALLEST_INTEGER, PayloadBounds, PayloadWalk, check_payload

if TYPE_CHECKING:
    from spindle_trio._model import JsonValue

EncodedValue: TypeAlias = msgspec.Raw
"""A value that is JSON already: made from its bytes, and put into a larger value as it is."""

T = TypeVar("T")

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def write_body(value: object, max_bytes: int | None = None, name: str = "payload") -> bytes:
    """Write a JSON-safe value as the body of a frame: as `encode_body` does, and faster.

    Args:
        value: checked by `check_payload` before; may have an `EncodedValue` in it.
        max_bytes: how long the body may be; `None` for no bound.
        name: what the error calls the value.

    Raises:
        PayloadError: the body would be longer.
    """
    return check_size(_encode(value), max_bytes, name)


class BodyReader:
    """Reads bodies of frames under one set of bounds."""

    __slots__ = ("_bounds", "_counted_bytes", "_proven_bytes")

    def __init__(self, bounds: PayloadBounds) -> None:
        """Work out up to which length a body proves what.

        Args:
            bounds: what the values must keep to.
        """
        self._bounds = bounds
        # The most that n bytes can say: a list of (n - 1) / 2 digits, which are (n + 1) / 2 values with the list; a
        # digit within (n - 1) / 2 lists; and n bytes of text, since no text is longer in UTF-8 than as JSON.
        entries = math.inf if bounds.container_entries is None else 2 * bounds.container_entries + 1
        text = math.inf if bounds.text_bytes is None else bounds.text_bytes
        self._counted_bytes = min(2 * bounds.values - 1, entries, text)
        """Bytes up to which a body can be over no bound but the one on depth."""
        self._proven_bytes = min(self._counted_bytes, 2 * bounds.depth + 1)
        """Bytes up to which a body can be over no bound at all."""

    def read(self, body: bytes) -> JsonValue:
        """Read one body.

        Raises:
            PeerProtocolError: not JSON, not JSON-safe, or over a bound; says which.
        """
        is_proven = len(body) <= self._proven_bytes or self._is_within_bounds(body)
        try:
            value: JsonValue = _decode(body) if len(body) < _LARGE_BYTES else read_large(partial(_decode, body))
            if not is_proven or (type(value) is not str and _may_have_large_integer(body)):
                check_payload(value, self._bounds, "frame")
        except (ValueError, RecursionError) as error:
            # The errors of msgspec, UnicodeDecodeError and PayloadError are ValueErrors.
            if body.startswith(_TAGGED):
                return self._read_tagged(body[len(_TAGGED) :])
            raise PeerProtocolError(f"a frame that is not JSON-safe: {error}") from None
        return value

    def _read_tagged(self, text: bytes) -> JsonValue:
        try:
            value = read_large(lambda: _untagged(_decode(text)))
            check_payload(value, self._bounds, "frame", RichWalk)
        except (ValueError, RecursionError) as error:
            raise PeerProtocolError(f"a tagged frame that is not JSON-safe: {error}") from None
        return value

    def _is_within_bounds(self, body: bytes) -> bool:
        """Whether the commas and brackets of a body prove that it is over no bound; refuse one with too many values.

        Those within texts count as well at first: only a body that has too many of them is looked at more closely.
        """
        bounds = self._bounds
        if len(body) <= self._counted_bytes and body.count(b"[") + body.count(b"{") <= bounds.depth:
            return True
        marks = _marks_of(body)
        containers = marks.count(b"[")
        # A value either follows a comma, or is the first in its container, or is the outermost.
        if containers + marks.count(b",") + 1 > bounds.values:
            _refuse_too_many_values(marks, bounds)
            return False
        return bounds.are_plain and (containers <= bounds.depth or _is_shallow(marks, bounds.depth))


class RichWalk(PayloadWalk):
    """A walk over a payload that has been received, which may hold times, and bytes, which count as text."""

    __slots__ = ()

    def visit_other(self, value: object) -> None:
        """Allow for times and bytes: nothing else can come out of JSON and its tags."""
        if type(value) is bytes:
            self.count_text(len(value))


def _untagged(value: JsonValue) -> JsonValue:
    """Put what they stand for in the place of tags.

    Raises:
        ValueError: there is an unknown tag.
    """
    # Only containers cost a call: a body may have a hundred thousand values.
    if type(value) is list:
        return [_untagged(item) if type(item) in _CONTAINERS else item for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        ((name, item),) = value.items()
        if name.startswith("$$"):
            return {name[1:]: _untagged(item)}
        if name.startswith("$"):
            return cast("JsonValue", value_from_text(name[1:], item))
    return {name: _untagged(item) if type(item) in _CONTAINERS else item for name, item in value.items()}


def read_large(read: Callable[[], T]) -> T:
    """Read what may be large with the garbage collector held back, and no deeper than any stack allows.

    It may make many thousand objects, none of which is garbage before they have been read. A collection for them would
    look at all the objects of the program, and hold up the host for ten milliseconds and more. And it may be that many
    lists within one another: a program that has raised its limit on recursion would die of reading them.
    """
    was_enabled, limit = gc.isenabled(), sys.getrecursionlimit()
    gc.disable()
    if limit > _SAFE_RECURSION:
        sys.setrecursionlimit(_SAFE_RECURSION)
    try:
        return read()
    finally:
        if limit > _SAFE_RECURSION:
            sys.setrecursionlimit(limit)
        if was_enabled:
            gc.enable()


def has_too_many_values(text: bytes, most: int) -> bool:
    """Whether a JSON text has more than so many values, told before it is parsed; up to twice as many may pass."""
    marks = 2 * most - 1  # empty containers count twice
    if text.count(b",") + text.count(b"[") + text.count(b"{") <= marks:
        return False
    return _count_outside_texts(_marks_of(text)) > marks


def _may_have_large_integer(body: bytes) -> bool:
    """Whether so many digits stand in a row, wherever that is, as an integer has that is not JSON-safe."""
    return len(body) >= _DIGITS_OF_LARGE and _LARGE_INTEGER in body.translate(_DIGITS_AS_ZEROS)


def _marks_of(body: bytes) -> bytes:
    """Leave nothing of a body but brackets, all of them square, commas, and the quotes around texts."""
    if b"\\" in body:
        body = body.replace(rb"\\", b"").replace(rb"\"", b"")
    return body.translate(_SQUARE, _NO_MARKS)


def _is_shallow(marks: bytes, depth: int) -> bool:
    """Whether the brackets prove that no value is within more containers than this.

    Where no text has marks of its own, the quotes of each stand next to one another. Then what is left without them are
    the brackets of containers, and what is left without the innermost ones, as often as the depth says, is nothing.
    """
    brackets = marks.replace(b",", b"").replace(b'""', b"")
    for _ in range(depth):
        if not brackets or b'"' in brackets:
            break
        brackets = brackets.replace(b"[]", b"")
    return not brackets


def _refuse_too_many_values(marks: bytes, bounds: PayloadBounds) -> None:
    """Raise `PeerProtocolError` if a body has too many values for sure, by its marks outside of texts."""
    if _count_outside_texts(marks) + 1 > 2 * bounds.values:  # empty containers count twice; the walk is exact
        raise PeerProtocolError(f"a frame with more than {bounds.values} values")


def _count_outside_texts(marks: bytes) -> int:
    """Count the commas and opening brackets outside of texts.

    A part of them at a time: what is parted by quotes may be half a million pieces, and they cost more than the body.
    """
    found = within = 0  # what stands for a value each; and 1 within a text
    for begin in range(0, len(marks), _MARKS_AT_A_TIME):
        parts = marks[begin : begin + _MARKS_AT_A_TIME].split(b'"')
        outside = b"".join(parts[within::2])
        found += outside.count(b",") + outside.count(b"[")
        within = (within + len(parts) - 1) % 2
    return found


def decode_body(body: bytes, bounds: PayloadBounds) -> JsonValue:
    """Read one body under bounds that are not used again; see `BodyReader.read`."""
    return BodyReader(bounds).read(body)


_TAGGED: Final = b"$"
"""What a body in the tagged form begins with."""

_CONTAINERS: Final = frozenset({list, dict})

_LARGE_BYTES: Final = 16 * 1024
"""Bytes from which on a body may be large enough for the garbage collector to take an interest, or to end a stack."""

_SAFE_RECURSION: Final = 10_000
"""Calls within one another that the stack of a thread of the usual 8 MiB has room for, twice over."""

_DIGITS_AS_ZEROS: Final = bytes(ord("0") if chr(byte).isdecimal() else byte for byte in range(256))
_DIGITS_OF_LARGE: Final = len(str(-SMALLEST_INTEGER))
"""Digits that an integer outside the bounds of JSON-safe ones has at least: as many as the smaller bound."""
_LARGE_INTEGER: Final = b"0" * _DIGITS_OF_LARGE

_MARKS_AT_A_TIME: Final = 16 * 1024

_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_MARKS: Final = bytes(set(range(256)) - set(b'[]{},"'))
