"""The facts in a child's first frame: what both kinds of context show, and the bounds on what it sends.

Standard library only and little of it: every child loads this before its entry.
"""

from __future__ import annotations

from spindle_trio._errors import PeerProtocolError
from spindle_trio._protocol._payload import PayloadBounds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from spindle_trio._model import JsonValue

FOREVER = float("inf")
"""Seconds without an end: `math.inf`, without loading `math`."""

PROTOCOL_VERSION = 1
"""The protocol that `init` has to name; `_protocol/_control_frames.py` has the host's side."""

NEWEST_PROTOCOL = 2
"""The protocol of this runtime, which `ready` accepts if `init` offers it."""


class ProcessFacts:
    """The facts of a process, and its payload. Nothing here changes while it lives."""

    __slots__ = (
        "bounds",
        "entry",
        "frame_bytes",
        "has_payload",
        "heartbeat_timeout",
        "key",
        "kind",
        "metadata",
        "payload",
        "process_id",
        "protocol",
        "user_id",
    )

    def __init__(
        self,
        *,
        process_id: str,
        entry: str,
        kind: str,
        bounds: PayloadBounds,
        frame_bytes: int,
        key: str | None = None,
        user_id: str | None = None,
        payload: JsonValue = None,
        has_payload: bool = False,
        metadata: dict[str, JsonValue] | None = None,
        heartbeat_timeout: float = FOREVER,
        protocol: int = 1,
    ) -> None:
        self.process_id: str = process_id
        """The host's id for this process."""
        self.entry: str = entry
        """Path of the entry under the worker's root, with forward slashes."""
        self.kind: str = kind
        """The label given by the spawner, or the entry."""
        self.key: str | None = key
        """The key that this process holds."""
        self.user_id: str | None = user_id
        """The owner of this process."""
        self.payload: JsonValue = payload
        """The start-up value; `None` if it was omitted."""
        self.has_payload: bool = has_payload
        """Whether a payload was given at all."""
        self.metadata: dict[str, JsonValue] | None = metadata
        """The spawner's notes on this process."""
        self.heartbeat_timeout: float = heartbeat_timeout
        """Seconds that may pass between two heartbeats; `math.inf` for no watchdog."""
        self.protocol: int = protocol
        """The newest protocol that both the host and this child speak; 2 has calls."""
        self.bounds: PayloadBounds = bounds
        """The bounds on payloads that this process sends."""
        self.frame_bytes: int = frame_bytes
        """Bytes that the body of one frame may have."""

    @property
    def outbox_bytes(self) -> int:
        """Bytes of messages that may wait in this process; beside them, one message that is larger."""
        return min(self.frame_bytes, 1024 * 1024)

    def __repr__(self) -> str:
        return f"<ProcessFacts {self.entry} {self.process_id}>"


def facts_from_init(frame: JsonValue) -> ProcessFacts:
    """Take the facts from the first frame that a host sends.

    Args:
        frame: the decoded body; unknown fields are ignored.

    Raises:
        PeerProtocolError: it is not an `init` frame of this protocol, or a field is missing or of a wrong type.
    """
    if not isinstance(frame, dict) or frame.get("type") != "init":
        raise PeerProtocolError("the first frame from the host is not an init frame")
    protocol = frame.get("protocol")
    if protocol != PROTOCOL_VERSION:
        raise PeerProtocolError(f"the host speaks protocol {protocol!r}, this child speaks {PROTOCOL_VERSION}")
    limits = frame.get("limits")
    if not isinstance(limits, dict):
        raise PeerProtocolError("an init frame without limits")
    metadata = frame.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise PeerProtocolError("an init frame whose metadata is not an object")
    milliseconds = frame.get("heartbeatTimeoutMs")
    if not isinstance(milliseconds, int | float):
        raise PeerProtocolError("an init frame whose heartbeatTimeoutMs is not a number")
    offers = frame.get("offers")
    return ProcessFacts(
        process_id=_text(frame, "processId"),
        entry=_text(frame, "entry"),
        kind=_text(frame, "kind"),
        key=_optional_text(frame, "key"),
        user_id=_optional_text(frame, "userId"),
        payload=frame.get("payload"),
        has_payload="payload" in frame,
        metadata=metadata,
        heartbeat_timeout=milliseconds / 1000 if milliseconds > 0 else FOREVER,
        bounds=PayloadBounds(
            _count(limits, "depth"),
            _count(limits, "values"),
            _optional_count(limits, "textBytes"),
            _optional_count(limits, "containerEntries"),
            _optional_count(limits, "binaryBytes") or 0,
        ),
        frame_bytes=_count(limits, "frameBytes"),
        protocol=NEWEST_PROTOCOL if isinstance(offers, int) and offers >= NEWEST_PROTOCOL else PROTOCOL_VERSION,
    )


def _text(frame: dict[str, JsonValue], name: str) -> str:
    value = frame.get(name)
    if not isinstance(value, str):
        raise PeerProtocolError(f"an init frame whose {name} is not a string")
    return value


def _optional_text(frame: dict[str, JsonValue], name: str) -> str | None:
    return None if frame.get(name) is None else _text(frame, name)


def _count(limits: dict[str, JsonValue], name: str) -> int:
    value = limits.get(name)
    if type(value) is not int:
        raise PeerProtocolError(f"an init frame whose limit {name} is not an integer")
    return value


def _optional_count(limits: dict[str, JsonValue], name: str) -> int | None:
    return None if limits.get(name) is None else _count(limits, name)
