"""The check of what the connecting end sends, and the copy of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from spindle_trio._protocol._frames import encode_body
from spindle_trio._protocol._payload import PayloadWalk, bounds_of, check_payload

if TYPE_CHECKING:
    from spindle_trio._model import JsonValue, Limits


class _LineWalk(PayloadWalk):
    """Says why there are no bytes in what a worker in another program sends."""

    __slots__ = ()

    instead_of_bytes = "text, as by base64: a worker in another program sends lines of JSON"


def checked_copy(value: object, limits: Limits, name: str) -> tuple[JsonValue, int]:
    """Make sure that a value may be sent, and take a copy that the sender cannot change afterwards.

    Returns:
        The copy, and its size as JSON in bytes.

    Raises:
        PayloadError: it is not JSON-safe or is over a limit; names the path.
    """
    check_payload(value, bounds_of(limits), name, _LineWalk)
    body = encode_body(value, limits.frame_bytes, name)
    copy: JsonValue = json.loads(body)
    return copy, len(body)
