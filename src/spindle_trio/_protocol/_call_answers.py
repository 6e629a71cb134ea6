"""The calls lane as the host sees it: what it sends to a child, and what a child may send; see `_call_frames`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, TypeAlias

import attrs

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._model import JsonValue
from spindle_trio._protocol._binary import BinaryBody, Gathering, Tagged, take_bytes_out
from spindle_trio._protocol._call_frames import ANSWER, CALL, END, FAILURE, ITEM
from spindle_trio._protocol._frames import BYTES, TAGGED
from spindle_trio._protocol._json_codec import BodyReader, BytesFollowError, EncodedValue, write_body
from spindle_trio._protocol._payload import BinaryWalk, NoBytesWalk, PayloadBounds, check_payload


@attrs.frozen
class Answer:
    """What the handler of a call has returned."""

    call_id: int
    value: JsonValue


@attrs.frozen
class Item:
    """What the generator of a stream has yielded."""

    call_id: int
    value: JsonValue


@attrs.frozen
class StreamEnd:
    """The generator of a stream has ended."""

    call_id: int


@attrs.frozen
class Failure:
    """A call or a stream has ended without what was asked for."""

    call_id: int
    error_type: str = ""
    """The name of the exception's class."""
    text: str = ""
    """The exception's message."""
    traceback: str | None = None
    """Its traceback."""
    known: tuple[str, ...] | None = None
    """The names of all handlers, if that is what was wrong."""
    is_cancelled: bool = False
    """Whether it ended because it was cancelled."""
    code: int | None = None
    """The code of an error that comes from elsewhere, as from a JSON-RPC server."""
    data: JsonValue = None
    """What such an error has beside its code and its message."""


CallFrame: TypeAlias = Answer | Item | StreamEnd | Failure


def name_of(frame: CallFrame) -> str:
    """Say what a frame is, for an error."""
    match frame:
        case Answer():
            return "an answer"
        case Item():
            return "an item"
        case StreamEnd():
            return "an end"
        case Failure():
            return "a failure"


_PLAIN: Final = PayloadBounds(depth=1_000_000, values=1 << 62)
"""Only plain JSON; what is read has its bounds already."""

_SURROUNDINGS: Final = 2
"""Values around the one that counts: the array, and the id."""


def encode_call(
    call_id: int, method: str, seconds: float, payload: object, window: int | None, max_bytes: int
) -> bytes:
    """Write the frame that begins a call.

    Args:
        call_id: identifies it; larger than all before.
        method: which handler is to be called.
        seconds: how much time is left; `math.inf` for any.
        payload: already checked by `check_payload`; one with bytes as `Tagged`.
        window: how many items of a stream may be under way; `None` for a call with one answer.
        max_bytes: how long the body may be.

    Raises:
        PayloadError: it would be longer.
    """
    left = None if math.isinf(seconds) else max(0.0, round(seconds * 1000, 3))
    tagged = payload if type(payload) is Tagged else None
    value = payload if tagged is None else tagged.value
    frame = [call_id, method, left, value] if window is None else [call_id, method, left, value, window]
    if tagged is None:
        return CALL + write_body(frame, max_bytes - 1)
    return BinaryBody.of(CALL + TAGGED + write_body(frame, max_bytes - 2), tagged.raws, max_bytes)


def encode_payload(payload: object, bounds: PayloadBounds, *, takes_bytes: bool) -> object:
    """Write the payload of a call once, for any number of attempts to send it.

    Raises:
        PayloadError: it is not JSON-safe; or it has bytes, and the process takes none.
    """
    if not check_payload(payload, bounds, walk=BinaryWalk if takes_bytes else NoBytesWalk):
        return EncodedValue(write_body(payload))
    tagged = take_bytes_out(payload)
    return Tagged(EncodedValue(write_body(tagged.value)), tagged.raws)


class CallReader:
    """Reads what one child sends on its calls lane."""

    __slots__ = ("_gathering", "_kind", "_reader")

    def __init__(self, bounds: PayloadBounds) -> None:
        """Prepare.

        Args:
            bounds: on answers and items; the array around them comes on top.
        """
        self._gathering: Gathering | None = None  # a frame of a kind whose bytes follow
        self._kind = b""
        entries = bounds.container_entries
        self._reader = BodyReader(
            PayloadBounds(
                bounds.depth + 1,
                bounds.values + _SURROUNDINGS,
                bounds.text_bytes,
                None if entries is None else max(entries, _SURROUNDINGS),
                bounds.binary_bytes,
            )
        )

    def read(self, body: bytes) -> CallFrame | None:
        """Read one body; `None` if bytes of it are in the frames that follow, the last of which returns the frame.

        Raises:
            PeerProtocolError: a child may not send this frame; says why.
        """
        gathering = self._gathering
        if gathering is not None:
            if not gathering.add(body):
                return None
            self._gathering = None
            return _read_frame(self._kind, gathering.value)
        kind = body[:1]
        if kind not in _KINDS:
            known = "bytes that no frame has announced" if kind == BYTES else f"a frame of unknown kind {kind!r}"
            raise PeerProtocolError(f"{known} on the calls lane")
        try:
            return _read_frame(kind, self._reader.read(body[1:]))
        except BytesFollowError as follow:
            self._gathering, self._kind = follow.gathering, kind
            return None


def _read_frame(kind: bytes, frame: JsonValue) -> CallFrame:
    """Read a frame of a kind from the value that it holds; raises as `CallReader.read` does."""
    if not isinstance(frame, list) or len(frame) != _KINDS[kind]:
        raise PeerProtocolError(f"a frame of kind {kind!r} that is not an array of {_KINDS[kind]}")
    call_id = frame[0]
    if type(call_id) is not int or call_id < 1:
        raise PeerProtocolError(f"a frame of kind {kind!r} whose id is not an integer, 1 or more")
    if kind == ANSWER:
        return Answer(call_id, frame[1])
    if kind == ITEM:
        return Item(call_id, frame[1])
    if kind == END:
        return StreamEnd(call_id)
    about = frame[1]
    if not isinstance(about, dict):
        raise PeerProtocolError("a failure that is not an object")
    return _read_failure(call_id, about)


_KINDS: Final[Mapping[bytes, int]] = {ANSWER: 2, ITEM: 2, END: 1, FAILURE: 2}
"""How long the array of each kind is."""


def _read_failure(call_id: int, about: Mapping[str, JsonValue]) -> Failure:
    if about.get("cancelled") is True:
        return Failure(call_id, is_cancelled=True)
    known = about.get("known")
    if known is not None:
        if not isinstance(known, list):
            raise PeerProtocolError("a failure whose known names are not an array")
        names = [name for name in known if isinstance(name, str)]
        if len(names) < len(known):
            raise PeerProtocolError("a failure whose known names are not strings")
        return Failure(call_id, known=tuple(names))
    error, text, traceback = about.get("error"), about.get("text"), about.get("traceback")
    if not (isinstance(error, str) and isinstance(text, str)):
        raise PeerProtocolError("a failure without error and text")
    if not (traceback is None or isinstance(traceback, str)):
        raise PeerProtocolError("a failure whose traceback is not a string")
    code = about.get("code")
    if not (code is None or type(code) is int):
        raise PeerProtocolError("a failure whose code is not an integer")
    data = about.get("data")
    try:
        check_payload(data, _PLAIN, "data")
    except PayloadError as unfit:
        raise PeerProtocolError(f"a failure whose {unfit}") from None
    return Failure(call_id, error, text, traceback, code=code, data=data)
