"""The bounds on what host and processes exchange."""

from __future__ import annotations

from typing import Final

import attrs

from spindle_trio._model._field_docs import show_fields
from spindle_trio._model._values import is_number

MEBIBYTE: Final = 1024 * 1024


@show_fields
@attrs.frozen
class Limits:
    """Bounds on what host and processes exchange; the defaults are the contract's.

    Raises:
        ValueError: a bound is no whole number, or so small that nothing at all could pass.
    """

    frame_bytes: int = 16 * MEBIBYTE
    """Bytes in the body of one frame, and so in one payload, result or metadata.

    Frames above 1 MiB are for messages that are that large, not for floods: inbox and outbox hold at least one of any
    allowed size. Nothing is allocated ahead. While the host reads a frame of n bytes it holds about 3 n, for one frame
    a process at a time. One step of the event loop takes up to 15 ms for 1 MiB, and longer in proportion.
    """
    depth: int = 64
    """How many containers may enclose a value; the outermost value is at depth 0."""
    values: int = 100_000
    """Values in one payload, containers included."""
    inbox_messages: int = 1_024
    """Messages of one process that wait in the host for their readers."""
    inbox_bytes: int = 4 * MEBIBYTE
    """Bytes of such messages of one process; one message may be larger, up to `frame_bytes`."""
    outbox_bytes: int = MEBIBYTE
    """Bytes of messages that wait in the host for a process to read them; beside them, one that is larger than this."""
    lifecycle_events: int = 1_024
    """Events that wait in one lifecycle subscription before the oldest are dropped."""
    ending_bytes: int = 64 * MEBIBYTE
    """Bytes of messages taken in from a process once it is stopping or ending."""
    frame_seconds: float = 5.0
    """Seconds from a frame's first byte until it must be complete."""
    recent: int = 100
    """Ended processes that `host.recent()` lists, each with all its metadata; 0 for none.

    There are fewer where those take more than 16 MiB.
    """
    text_bytes: int | None = None
    """Bytes of UTF-8 in all strings and names of one payload."""
    container_entries: int | None = None
    """Entries in one list or dict."""
    kind_bytes: int | None = None
    """Bytes of UTF-8 in a kind."""
    key_bytes: int | None = None
    """Bytes of UTF-8 in a key."""
    entry_bytes: int | None = None
    """Bytes of UTF-8 in an entry."""
    reason_bytes: int | None = None
    """Bytes of UTF-8 in the reason of a stop."""
    error_bytes: int | None = None
    """Bytes of UTF-8 in the text of `fail`; a longer one is replaced by a general text."""
    binary_bytes: int = 256 * MEBIBYTE
    """Bytes in all `bytes` values of one payload, which travel behind its frame; 0 for none.

    Nothing is allocated before it arrives. What is on its way counts like one frame against the other bounds.
    """

    log_lines: int = 100
    """Lines that one process prints in a second and that reach the log; the others are counted there."""

    def __repr__(self) -> str:
        fields = attrs.fields(Limits)
        changed = {
            field.name: getattr(self, field.name) for field in fields if getattr(self, field.name) != field.default
        }
        return f"Limits({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def __attrs_post_init__(self) -> None:
        # A bound of nothing would not bound but wedge: an inbox that never has room, a channel that cannot be fed.
        for field in attrs.fields(Limits):
            value: object = getattr(self, field.name)
            if field.name == "frame_seconds":
                if not (is_number(value) and isinstance(value, int | float) and value > 0):
                    raise ValueError(f"frame_seconds must be a positive number of seconds, not {value!r}")
            elif value is not None or field.default is not None:
                least = (
                    0 if field.default is None or field.name in ("binary_bytes", "depth", "recent") else 1
                )  # these bound the content of a value
                if type(value) is not int or value < least:
                    raise ValueError(f"{field.name} must be an integer, {least} or more, not {value!r}")


REFERENCE_LIMITS: Final = Limits(
    depth=32,
    values=10_000,
    text_bytes=256 * 1024,
    container_entries=1_000,
    kind_bytes=128,
    key_bytes=256,
    entry_bytes=4_096,
    reason_bytes=4_096,
    error_bytes=4_096,
)
"""Narrow bounds, as one unreleased state of the reference host had them.

No release of the reference bounds messages, texts or names, and none checks that a payload is JSON. So nothing needs
these bounds to be compatible. Use them to be strict with what processes and workers say.
"""
