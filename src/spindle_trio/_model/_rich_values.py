"""Times and bytes within payloads: the two kinds of value that JSON has no form for.

They travel as strings, beside a list of the places of these strings. A reader that knows the list restores the values;
any other reader gets the strings. How JavaScript children write them into their frames is in `_protocol/_json_codec`.
"""

from __future__ import annotations

import binascii
import re
from copy import deepcopy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spindle_trio._model._values import JsonValue

Place: TypeAlias = "list[JsonValue]"
"""The place of a text that stands for another value: `date` or `bytes`, and then the path from the outermost value."""

DATE: Final = "date"
BYTES: Final = "bytes"

_DIGITS_AS_ZEROS: Final = bytes(ord("0") if chr(byte).isdecimal() else byte for byte in range(256))
_SHAPE: Final = b"0000-00-00T00:00:00.000Z"
_HOUR_24: Final = b"T24"
_DATES_AT_A_TIME: Final = 1024
"""Their bytes stay in the processor's cache, and in memory that need not be asked for anew."""

_is_date: Final = re.compile(r"\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII).fullmatch


def value_from_text(kind: str, text: object) -> object:
    """Read the value that a text stands for.

    Args:
        kind: `date`, for ISO-8601 in UTC with three decimals and ``Z``, or `bytes`, for base64.
        text: the text.

    Raises:
        ValueError: the text is none of these.
    """
    if isinstance(text, str):
        if kind == DATE:
            check_dates([text])
            return datetime.fromisoformat(text)
        if kind == BYTES:
            return binascii.a2b_base64(text, strict_mode=True)
    raise ValueError(f"no text that stands for {kind[:20]!a}")


def check_dates(texts: Sequence[object]) -> None:
    """Make sure that each text is one of the kind `date`, by its shape; a message may hold thirty thousand.

    Raises:
        ValueError: one is none.
    """
    # Looked at together: a pattern for each takes three times as long as to read it. No text can hide that it is too
    # short or too long: only four digits begin a time, and so each begins where the shape does.
    for begin in range(0, len(texts), _DATES_AT_A_TIME):
        part = texts[begin : begin + _DATES_AT_A_TIME]
        try:
            joined = "".join(cast("Sequence[str]", part)).encode("ascii")
        except (TypeError, UnicodeEncodeError):
            joined = b""
        if joined.translate(_DIGITS_AS_ZEROS) != _SHAPE * len(part) or _HOUR_24 in joined:
            wrong = next((text for text in part if not (isinstance(text, str) and _is_date(text))), joined)
            raise ValueError(f"{ascii(wrong)[:40]} is not a UTC time with three decimals and Z")


def to_plain(value: JsonValue) -> tuple[JsonValue, list[Place]]:
    """Write the times and bytes in a payload as texts.

    Returns:
        The payload with these texts, or the same object if it has neither times nor bytes; and the places of the texts.
    """
    places: list[Place] = []
    return (value if _is_plain(value) else _plain(value, (), places)), places


def from_plain(value: JsonValue, places: object) -> JsonValue:
    """Undo `to_plain`, in a copy.

    Args:
        value: a payload with texts for times and bytes.
        places: the places of these texts.

    Raises:
        ValueError: there is no such place, or no such text there.
    """
    if not isinstance(places, list):
        raise ValueError("expected an array of places")
    outermost: list[object] = [deepcopy(value)]
    for place in places:
        if not isinstance(place, list) or not place or not isinstance(place[0], str):
            raise ValueError("a place is an array of a kind and the steps that lead there")
        kind, *steps = place
        owner: object = outermost
        step: object = 0
        for following in steps:
            owner, step = _item(owner, step), following
        read = value_from_text(kind, _item(owner, step))
        owner[step] = read  # type: ignore[index]  # `_item` has found something there
    return cast("JsonValue", outermost[0])


def _item(owner: object, step: object) -> object:
    if isinstance(owner, list) and type(step) is int and 0 <= step < len(owner):
        return owner[step]
    if isinstance(owner, dict) and isinstance(step, str) and step in owner:
        return owner[step]
    raise ValueError("a place that is not there")


def _is_plain(value: object) -> bool:
    level = [value]
    while level:
        below: list[object] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below += item.values()  # type: ignore[attr-defined]  # a dict
            elif kind is list:
                below += item  # type: ignore[arg-type]  # a list
            elif kind is bytes or kind is datetime:
                return False
        level = below
    return True


def _plain(value: object, path: tuple[str | int, ...], places: list[Place]) -> JsonValue:
    if isinstance(value, datetime):
        places.append([DATE, *path])
        return date_text(value)
    if isinstance(value, bytes):
        places.append([BYTES, *path])
        return binascii.b2a_base64(value, newline=False).decode()
    if isinstance(value, list):
        return [_plain(item, (*path, index), places) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {name: _plain(item, (*path, name), places) for name, item in value.items()}
    return cast("JsonValue", value)


def date_text(time: datetime) -> str:
    """Write an aware time to the millisecond, cut off, not rounded: an effect must not seem to precede its cause."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return time.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
