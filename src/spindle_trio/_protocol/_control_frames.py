"""The control lane's frames as the host sees them: what it sends to a child, and what a child may send.

`notes/protocol.md` has the same in prose, with test vectors. Unknown fields are ignored; an unknown type, a
missing field or a field of a wrong type breaks the protocol.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, TypeAlias

import attrs

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._model import OMITTED, JsonValue, Limits
from spindle_trio._protocol._frames import encode_body
from spindle_trio._protocol._json_codec import RichWalk, decode_body, write_body
from spindle_trio._protocol._payload import PayloadBounds, check_payload

PROTOCOL_VERSION: Final = 1

NEWEST_PROTOCOL: Final = 2
"""What `init` offers; a process accepts it in `ready`, or goes on with protocol 1."""

_LARGEST_EXIT_CODE: Final = 255


@attrs.frozen
class Ready:
    """The entry has started up."""

    protocol: int = 1
    """The protocol that the child speaks from now on."""
    takes_calls: bool = False
    """Whether it has a handler for calls by now."""
    concurrency: int | None = None
    """How many calls it serves at a time, at most; `None` if it does not say."""
    takes_bytes: bool = False
    """Whether its runtime takes bytes that follow a frame."""


@attrs.frozen
class TakesCalls:
    """The entry has registered its first handler for calls, after `ready`, or has another `concurrency` from now on."""

    concurrency: int | None = None
    """How many calls it serves at a time, at most; `None` if it does not say."""


@attrs.frozen
class Heartbeat:
    """The entry is alive. Only children without a shared page send it."""


@attrs.frozen
class Complete:
    """The entry has done its work."""

    result: JsonValue
    """The entry's result."""
    messages: int
    """How many messages the child has sent so far."""


@attrs.frozen
class Fail:
    """The entry cannot do its work."""

    error: str
    """Why: the text given to `fail`, or an exception in one line."""
    messages: int
    """How many messages the child has sent so far."""
    traceback: str | None = None
    """The traceback of that exception, if there is one."""


@attrs.frozen
class Stopped:
    """The runtime has ended the entry because of a stop."""

    messages: int
    """How many messages the child has sent so far."""


@attrs.frozen
class Exiting:
    """The child's last frame: its work is done, and the host may end its tree at once."""

    messages: int
    """How many messages the child has sent in all."""
    code: int
    """The exit code that it uses if the host does not end it."""


@attrs.frozen
class Status:
    """The process says in a line what it is doing."""

    text: str | None
    """At most `STATUS_BYTES` long; `None` takes the last one back."""


@attrs.frozen
class Extend:
    """The process needs more time to start, or to end."""

    seconds: float
    """From now on."""


ChildFrame: TypeAlias = Ready | TakesCalls | Heartbeat | Complete | Fail | Stopped | Exiting | Status | Extend

_LONGEST_EXTENSION: Final = 1e9

STATUS_BYTES: Final = 256
"""Of a longer status, the end is cut off."""

_FRAME_VALUES: Final = 64
"""Values that a frame may have around its result: its own fields, and some of later protocols."""

_DEFAULT_FAILURE: Final = "the process failed and gave no reason"


def encode_init(
    *,
    process_id: str,
    entry: str,
    kind: str,
    key: str | None,
    user_id: str | None,
    payload: object,
    metadata: object,
    heartbeat_timeout: float,
    limits: Limits,
) -> bytes:
    """Write the first frame that a child reads.

    Args:
        process_id: the host's id for it.
        entry: what it runs.
        kind: its label.
        key: its key, if it has one.
        user_id: the owner, if there is one.
        payload: for the entry, checked or already encoded; `OMITTED` for none.
        metadata: an object, checked or already encoded; `None` for none.
        heartbeat_timeout: in seconds; `math.inf` for no watchdog.
        limits: the host's; the frame has those that bind the child.
    """
    milliseconds = heartbeat_timeout * 1000
    frame: dict[str, object] = {
        "type": "init",
        "protocol": PROTOCOL_VERSION,
        "offers": NEWEST_PROTOCOL,
        "processId": process_id,
        "entry": entry,
        "kind": kind,
        "heartbeatTimeoutMs": 0 if math.isinf(milliseconds) else milliseconds,
        "limits": {
            "frameBytes": limits.frame_bytes,
            "depth": limits.depth,
            "values": limits.values,
            "textBytes": limits.text_bytes,
            "containerEntries": limits.container_entries,
            "binaryBytes": limits.binary_bytes,
        },
    }
    optional = {"key": key, "userId": user_id, "metadata": metadata}
    frame |= {name: value for name, value in optional.items() if value is not None}
    if payload is not OMITTED:
        frame["payload"] = payload
    return write_body(frame)


def encode_stop(reason: str | None) -> bytes:
    """Write the frame that asks a child to stop."""
    return encode_body({"type": "stop"} if reason is None else {"type": "stop", "reason": reason})


def parse_child_frame(body: bytes, bounds: PayloadBounds) -> ChildFrame:
    """Read a frame that a child has sent on its control lane.

    Args:
        body: the body of one frame.
        bounds: the bounds on payloads; the frame around a result comes on top.

    Raises:
        PeerProtocolError: a child may not send this frame; says why.
        BytesFollowError: bytes of it are in the frames that follow.
    """
    # The bounds hold for the result. Only the length of the frame bounds the rest of it, and an error's text.
    around = PayloadBounds(bounds.depth + 1, bounds.values + _FRAME_VALUES, binary_bytes=bounds.binary_bytes)
    return read_child_frame(decode_body(body, around), bounds)


def read_child_frame(frame: JsonValue, bounds: PayloadBounds) -> ChildFrame:
    """Make a frame of the value that a body holds; raises as `parse_child_frame` does."""
    if not isinstance(frame, dict):
        raise PeerProtocolError(f"a control frame that is a {type(frame).__name__}, not an object")
    match frame.get("type"):
        case "ready":
            return _ready(frame)
        case "calls":
            return TakesCalls(_concurrency(frame))
        case "heartbeat":
            return Heartbeat()
        case "complete":
            return Complete(_bounded_result(frame, bounds), _count(frame))
        case "fail":
            error = frame.get("error")
            if not isinstance(error, str):
                raise PeerProtocolError("a fail frame whose error is not a string")
            traceback = frame.get("traceback")
            if not (traceback is None or isinstance(traceback, str)):
                raise PeerProtocolError("a fail frame whose traceback is not a string")
            return Fail(error.strip() or _DEFAULT_FAILURE, _count(frame), traceback)
        case "stopped":
            return Stopped(_count(frame))
        case "exiting":
            code = frame.get("code")
            if type(code) is not int or not 0 <= code <= _LARGEST_EXIT_CODE:
                raise PeerProtocolError(f"an exiting frame whose code is not an integer from 0 to {_LARGEST_EXIT_CODE}")
            return Exiting(_count(frame), code)
        case "status":
            return Status(_status(frame))
        case "extend":
            seconds = frame.get("seconds")
            if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:  # type: ignore[operator]  # a number
                raise PeerProtocolError("an extend frame whose seconds are not a number, 0 or more")
            return Extend(min(seconds, _LONGEST_EXTENSION))  # type: ignore[type-var,arg-type]  # as above
        case unknown:
            raise PeerProtocolError(f"a control frame of unknown type {str(unknown)[:60]!r}")


def encode_cancel(call_id: int) -> bytes:
    """Write the frame that cancels a call; the process still ends it, by a frame on its calls lane."""
    return encode_body({"type": "cancel", "call": call_id})


def encode_credit(call_id: int, items: int) -> bytes:
    """Write the frame that lets a stream send so many items more."""
    return encode_body({"type": "credit", "call": call_id, "items": items})


def bounded_error(error: str, limits: Limits) -> str:
    """Replace a failure's text that is over `Limits.error_bytes` by a general one, as the reference does."""
    if limits.error_bytes is not None and len(error.encode()) > limits.error_bytes:
        return _DEFAULT_FAILURE
    return error


def _ready(frame: Mapping[str, JsonValue]) -> Ready:
    protocol, calls = frame.get("protocol", 1), frame.get("calls", False)
    if type(protocol) is not int or not 1 <= protocol <= NEWEST_PROTOCOL:
        raise PeerProtocolError(f"a ready frame whose protocol is not an integer from 1 to {NEWEST_PROTOCOL}")
    if type(calls) is not bool or (calls and protocol == 1):
        raise PeerProtocolError("a ready frame whose calls is not a boolean, or true without protocol 2")
    takes_bytes = frame.get("bytes", protocol > 1)
    if type(takes_bytes) is not bool or (takes_bytes and protocol == 1):
        raise PeerProtocolError("a ready frame whose bytes is not a boolean, or true without protocol 2")
    return Ready(protocol, calls, _concurrency(frame) if calls else None, takes_bytes)


def _concurrency(frame: Mapping[str, JsonValue]) -> int | None:
    concurrency = frame.get("concurrency")
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise PeerProtocolError(f"a {frame['type']} frame whose concurrency is not an integer, 1 or more")
    return concurrency


def _status(frame: Mapping[str, JsonValue]) -> str | None:
    text = frame.get("text")
    if not isinstance(text, str):
        raise PeerProtocolError("a status frame whose text is not a string")
    line = " ".join(text[: 4 * STATUS_BYTES].split())
    if not line.isprintable():
        line = "".join(character if character.isprintable() else " " for character in line)
    return line.encode(errors="replace")[:STATUS_BYTES].decode(errors="ignore") or None


def _bounded_result(frame: Mapping[str, JsonValue], bounds: PayloadBounds) -> JsonValue:
    result = frame.get("result")
    try:
        check_payload(result, bounds, "result", RichWalk)
    except PayloadError as error:
        raise PeerProtocolError(f"a complete frame over a limit: {error}") from None
    return result


def _count(frame: Mapping[str, JsonValue]) -> int:
    messages = frame.get("messages")
    if type(messages) is not int or messages < 0:
        raise PeerProtocolError(f"a frame of type {frame['type']} whose count of messages is missing or wrong")
    return messages
