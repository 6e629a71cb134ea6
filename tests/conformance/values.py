"""Values of steps that the recordings write with placeholders: long strings, and what JSON does not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

UNDEFINED = object()

JAVASCRIPT_VALUES: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "undefined": lambda _: UNDEFINED,
    "NaN": lambda _: math.nan,
    "Date": lambda value: datetime.fromtimestamp(value["ms"] / 1000, UTC),
    "Map": lambda _: MappingProxyType({}),
    "bigint": lambda value: int(value["value"]),
    "Uint8Array": lambda _: b"",
}
"""Stand-ins for values that JSON does not have: the channel in memory carries them, and the host must refuse them."""


def value_of(written: Any) -> Any:
    """Read a value as recorded: long strings and what JSON does not have are placeholders."""
    match written:
        case {"$string": True, "head": head, "length": length}:
            return (head * (length // len(head) + 1))[:length]
        case {"$js": kind}:
            return JAVASCRIPT_VALUES[kind](written)
        case dict():
            read = {name: value_of(value) for name, value in written.items()}
            return {name: value for name, value in read.items() if value is not UNDEFINED}
        case list():
            return [value_of(value) for value in written]
    return written
