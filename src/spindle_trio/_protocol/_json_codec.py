"""Bodies of frames in the host: written with msgspec, and read from children that are not trusted.

Theory of operation
-------------------

`check_payload` defines what the host refuses: values that are not JSON-safe or over a bound. Walking over a value costs
more than reading it, and most frames are too short to exceed any bound. So the codec proves the checks from the bytes
if it can:

* *JSON-safe*: msgspec reads JSON in UTF-8, and refuses lone surrogates, control characters and numbers that
  are no finite float. It takes integers of any size, so a body with nineteen digits in a row needs another look.
* *Values, depth, and texts and entries if they are bounded*: a short body cannot exceed any of these bounds. The
  commas and brackets of a longer one may prove that it keeps the bounds on values and depth. A body with too many
  values, not counting marks within texts, is refused before it is parsed: 1 MiB of it can become 24 MiB of objects.

If a proof fails, `check_payload` walks over the value, and decides. A proof in doubt fails, and a test compares both on
bodies of all kinds.

A body that begins with ``$``, which begins no JSON text, is in the *tagged* form: JSON follows, in which an object
with one name that begins with ``$`` stands for another value. Other bodies cost nothing more for that. A tag is a
container with a text, so what the bytes prove about it holds for the value as well.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, cast

import msgspec

from spindle_trio._errors import PeerProtocolError
from spindle_trio._model._rich_values import DATE, check_dates, value_from_text
from spindle_trio._protocol._binary import Gathering
from spindle_trio._protocol._frames import BYTES, TAGGED, check_size
from spindle_trio._protocol._payload import LARGEST_INTEGER, SMALLEST_INTEGER, PayloadBounds, PayloadWalk, check_payload

if TYPE_CHECKING:
    from spindle_trio._model import JsonValue

EncodedValue: TypeAlias = msgspec.Raw
"""A value that is JSON already. It goes into a larger value as it is."""

T = TypeVar("T")

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def write_body(value: object, max_bytes: int | None = None, name: str = "payload") -> bytes:
    """Write a JSON-safe value as the body of a frame, like `encode_body` but faster.

    Args:
        value: already checked by `check_payload`; may have an `EncodedValue` in it.
        max_bytes: how long the body may be; `None` for no bound.
        name: what the error calls the value.

    Raises:
        PayloadError: the body would be longer.
    """
    return check_size(_encode(value), max_bytes, name)


class BytesFollowError(Exception):
    """No error: a value is not whole before the bytes are there that follow its frame."""

    def __init__(self, gathering: Gathering) -> None:
        self.gathering = gathering
        """What they go into."""


class BodyReader:
    """Reads bodies of frames under one set of bounds."""

    __slots__ = ("_bounds", "_counted_bytes", "_proven_bytes")

    def __init__(self, bounds: PayloadBounds) -> None:
        """Work out which lengths of a body prove which bounds.

        Args:
            bounds: the bounds on the values.
        """
        self._bounds = bounds
        # The most that n bytes can hold: a list of (n - 1) / 2 digits, which are (n + 1) / 2 values with the list; a
        # digit within (n - 1) / 2 lists; or n bytes of text, since no text is longer in UTF-8 than as JSON.
        entries = math.inf if bounds.container_entries is None else 2 * bounds.container_entries + 1
        text = math.inf if bounds.text_bytes is None else bounds.text_bytes
        self._counted_bytes = min(2 * bounds.values - 1, entries, text)
        """Up to this many bytes, a body can only exceed the bound on depth."""
        self._proven_bytes = min(self._counted_bytes, 2 * bounds.depth + 1)
        """Up to this many bytes, a body can exceed no bound at all."""

    def read(self, body: bytes) -> JsonValue:
        """Read one body.

        Raises:
            PeerProtocolError: not JSON, not JSON-safe, or over a bound; says which.
            BytesFollowError: bytes of it are in the frames that follow.
        """
        is_proven = len(body) <= self._proven_bytes or self._is_within_bounds(body)
        try:
            value: JsonValue = _decode(body) if len(body) < _LARGE_BYTES else read_large(partial(_decode, body))
            if not is_proven or (type(value) is not str and _may_have_large_integer(body)):
                check_payload(value, self._bounds, "frame")
        except (ValueError, RecursionError) as error:
            # The errors of msgspec, UnicodeDecodeError and PayloadError are ValueErrors.
            if body.startswith(TAGGED):
                return self._read_tagged(body[len(TAGGED) :], is_proven)
            if body.startswith(BYTES):
                raise PeerProtocolError("bytes that no frame has announced") from None
            raise PeerProtocolError(f"a frame that is not JSON-safe: {error}") from None
        return value

    def _read_tagged(self, text: bytes, is_proven: bool) -> JsonValue:
        gathering: Gathering | None = None
        try:
            value: JsonValue
            if _RAW_NAME in text:  # perhaps within another text
                gathering = read_large(lambda: Gathering(_decode(text), value_from_text))
                value = gathering.value
                is_proven = is_proven and not _may_have_large_integer(text)
            else:
                value = read_large(lambda: _untagged(_decode(text)))
            if not is_proven:
                check_payload(value, self._bounds, "frame", RichWalk)
        except (ValueError, RecursionError) as error:
            raise PeerProtocolError(f"a tagged frame that is not JSON-safe: {error}") from None
        if gathering is None or not gathering.left:
            return value
        if gathering.left > self._bounds.binary_bytes:
            most = self._bounds.binary_bytes
            raise PeerProtocolError(f"a frame that announces {gathering.left} bytes, more than {most}")
        raise BytesFollowError(gathering)

    def _is_within_bounds(self, body: bytes) -> bool:
        """Whether the commas and brackets of a body prove that it keeps the bounds. Refuse one with too many values.

        At first those within texts count as well; only a body with too many gets a closer look.
        """
        bounds = self._bounds
        if len(body) <= self._counted_bytes and body.count(b"[") + body.count(b"{") <= bounds.depth:
            return True
        marks = _marks_of(body)
        containers = marks.count(b"[")
        # A value follows a comma, or is the first in its container, or is the outermost.
        values = containers + marks.count(b",") + 1
        if values > bounds.values and values - _count_empty(body) > bounds.values:
            _refuse_too_many_values(marks, bounds)
            return False
        return bounds.are_plain and (containers <= bounds.depth or _is_shallow(marks, bounds.depth))


class RichWalk(PayloadWalk):
    """A walk over a received payload, which may hold times and bytes. Bytes count as text."""

    __slots__ = ()

    def visit_other(self, value: object) -> None:
        """Allow times and bytes; JSON and its tags can yield nothing else."""
        if type(value) is bytes:
            self.count_text(len(value))


def _untagged(value: JsonValue) -> JsonValue:
    """Replace tags by what they stand for, in place.

    Raises:
        ValueError: a tag is unknown.
    """
    dates: list[JsonValue] = []
    try:
        return _replace_tags(value, dates)
    finally:
        check_dates(dates)


def _replace_tags(value: JsonValue, dates: list[JsonValue]) -> JsonValue:
    """Do as `_untagged`, and add the texts of all times to `dates`, whose shapes are not checked.

    A body may have thirty thousand times, so each is read here: a call for each would take twice as long.
    """
    outermost = [value]
    level: list[list[JsonValue] | dict[str, JsonValue]] = [outermost]
    read_date = cast("Callable[[JsonValue], JsonValue]", datetime.fromisoformat)  # see `JsonValue`
    # A place is a number in a list and a name in an object. The type checker cannot know which of both an owner is.
    while level:
        below: list[list[JsonValue] | dict[str, JsonValue]] = []
        for owner in level:
            items: Iterable[tuple[str | int, JsonValue]]
            items = owner.items() if isinstance(owner, dict) else enumerate(owner)
            for place, item in items:
                if type(item) is dict and len(item) == 1:
                    if (text := item.get(_DATE_TAG)) is not None:
                        dates.append(text)
                        owner[place] = read_date(text)  # type: ignore[index]
                        continue
                    ((name, text),) = item.items()
                    if name.startswith("$") and not name.startswith("$$"):
                        owner[place] = cast("JsonValue", value_from_text(name[1:], text))  # type: ignore[index]
                        continue
                    if name.startswith("$"):
                        item = owner[place] = {name[1:]: text}  # type: ignore[index]  # noqa: PLW2901
                    below.append(item)
                elif type(item) is dict or type(item) is list:
                    below.append(item)
                elif type(item) is int and not SMALLEST_INTEGER <= item <= LARGEST_INTEGER:
                    raise ValueError("an integer is outside -2^63…2^64-1")
        level = below
    return outermost[0]


def read_large(read: Callable[[], T]) -> T:
    """Read a body that may be large, without the garbage collector, and no deeper than any stack allows.

    The body may become many thousand objects, none of which is garbage before it has been read. A collection would look
    at all objects of the program, and hold up the host for ten milliseconds and more. And they may be thousands of
    nested lists: a program that has raised its recursion limit would crash on them.
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
    """Whether a JSON text has more values than that, found before it is parsed; up to twice as many may pass."""
    marks = 2 * most - 1  # empty containers count twice
    if text.count(b",") + text.count(b"[") + text.count(b"{") <= marks:
        return False
    return _count_outside_texts(_marks_of(text)) > marks


def _may_have_large_integer(body: bytes) -> bool:
    """Whether there are as many digits in a row, anywhere, as in an integer that is not JSON-safe."""
    return len(body) >= _DIGITS_OF_LARGE and _LARGE_INTEGER in body.translate(_DIGITS_AS_ZEROS)


def _count_empty(body: bytes) -> int:
    """Count empty containers, which have no first value. Within texts, each has a bracket that counts as a value."""
    return body.count(b"[]") + body.count(b"{}")


def _marks_of(body: bytes) -> bytes:
    """Reduce a body to its brackets, all made square, its commas, and the quotes around texts."""
    if b"\\" in body:
        body = body.replace(rb"\\", b"").replace(rb"\"", b"")
    return body.translate(_SQUARE, _NO_MARKS)


def _is_shallow(marks: bytes, depth: int) -> bool:
    """Whether the brackets prove that no value is nested deeper than this.

    If no text has marks of its own, the quotes of each are adjacent. Without them only the brackets of containers are
    left; after removing the innermost pairs as often as the depth allows, nothing is left.
    """
    brackets = marks.translate(None, b",")
    if 2 * brackets.count(b'""') != brackets.count(b'"'):
        return False
    brackets = brackets.translate(None, b'"')
    for _ in range(depth):
        if not brackets:
            break
        brackets = brackets.replace(b"[]", b"")
    return not brackets


def _refuse_too_many_values(marks: bytes, bounds: PayloadBounds) -> None:
    """Raise `PeerProtocolError` if a body's marks outside of texts prove that it has too many values."""
    if _count_outside_texts(marks) + 1 > 2 * bounds.values:  # empty containers count twice; the walk is exact
        raise PeerProtocolError(f"a frame with more than {bounds.values} values")


def _count_outside_texts(marks: bytes) -> int:
    """Count the commas and opening brackets outside of texts.

    It takes part of the body at a time: quotes may split it into half a million pieces, which take more memory than the
    body.
    """
    found = within = 0  # each stands for a value; 1 for a text
    for begin in range(0, len(marks), _MARKS_AT_A_TIME):
        parts = marks[begin : begin + _MARKS_AT_A_TIME].split(b'"')
        outside = b"".join(parts[within::2])
        found += outside.count(b",") + outside.count(b"[")
        within = (within + len(parts) - 1) % 2
    return found


def decode_body(body: bytes, bounds: PayloadBounds) -> JsonValue:
    """Read one body under bounds for this once; see `BodyReader.read`."""
    return BodyReader(bounds).read(body)


_RAW_NAME: Final = b'"$raw"'

_DATE_TAG: Final = f"${DATE}"

_LARGE_BYTES: Final = 16 * 1024
"""From this many bytes on, a body may trigger the garbage collector, or use up a stack."""

_SAFE_RECURSION: Final = 10_000
"""Nested calls that fit twice into the stack of a thread of the usual 8 MiB."""

_DIGITS_AS_ZEROS: Final = bytes(ord("0") if chr(byte).isdecimal() else byte for byte in range(256))
_DIGITS_OF_LARGE: Final = len(str(-SMALLEST_INTEGER))
"""An integer that is not JSON-safe has at least this many digits: as many as the smaller bound."""
_LARGE_INTEGER: Final = b"0" * _DIGITS_OF_LARGE

_MARKS_AT_A_TIME: Final = 16 * 1024

_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_MARKS: Final = bytes(set(range(256)) - set(b'[]{},"'))
