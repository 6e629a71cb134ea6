"""Bodies on the calls lane: one byte that says the kind, and then JSON. `notes/protocol.md` has the same in prose.

Every call is ended by one ANSWER, END or FAILURE, also a cancelled one; only the end of the process ends it as well.
Cancellations and credit are frames of the control lane, which waits for no call. Standard library only, since children
use it too; the host reads what comes from children with `_call_answers`.
"""

from __future__ import annotations

from spindle_trio._protocol._frames import TAGGED, encode_body
from spindle_trio._protocol._json_text import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from spindle_trio._model import JsonValue
    from spindle_trio._protocol._binary import Gathering

CALL: Final = b"\x01"
"""From the host: ``[id, method, milliseconds left or null, payload]``, and a fifth element for a stream: its window."""

ANSWER: Final = b"\x02"
"""From the process: ``[id, value]``. Ends a call."""

ITEM: Final = b"\x03"
"""From the process: ``[id, value]``. The next item of a stream."""

END: Final = b"\x04"
"""From the process: ``[id]``. Ends a stream."""

FAILURE: Final = b"\x06"
"""From the process: ``[id, {…}]``. Ends a call or a stream.

The object has `error` and `text`, and perhaps `traceback`, of what the handler raised, or perhaps `code` and `data` of
an error that a JSON-RPC server gave; or `known`, the names of the handlers, if the method is not among them; or
``"cancelled": true``.
"""


class IncomingCall:
    """A CALL as the process reads it."""

    __slots__ = ("call_id", "gathering", "method", "payload", "seconds", "size", "was_cancelled", "window")

    def __init__(
        self,
        call_id: int,
        method: str,
        seconds: float | None,
        payload: JsonValue,
        window: int | None,
        gathering: Gathering | None = None,
        size: int = 0,
    ) -> None:
        self.call_id: int = call_id
        """Identifies it; each is larger than all before."""
        self.method: str = method
        """Which handler is to be called."""
        self.seconds: float | None = seconds
        """How much time is left for it; `None` for any."""
        self.payload: JsonValue = payload
        """The handler's argument."""
        self.window: int | None = window
        """How many items of a stream may be under way; `None` if one answer is expected."""
        self.gathering: Gathering | None = gathering
        """What takes in the bytes that follow the frame; `None` if none do."""
        self.size: int = size
        """How many bytes its frames have, as far as they have come."""
        self.was_cancelled: bool = False
        """Whether it was cancelled before it came."""

    def add(self, body: bytes) -> bool:
        """Take in a frame of the bytes that follow, and say whether it was the last: then nothing gathers any more.

        Raises:
            PeerProtocolError: it is none.
        """
        assert self.gathering is not None, "bytes follow"
        self.size += len(body)
        if not self.gathering.add(body):
            return False
        frame = self.gathering.value
        assert isinstance(frame, list), "it was read as one"
        self.payload = frame[_PAYLOAD]
        self.gathering = None
        return True


def read_call(body: bytes) -> IncomingCall:
    """Read a frame from the host, which a process trusts.

    Raises:
        ValueError: it is not a CALL.
    """
    if not body.startswith(CALL):
        raise ValueError(f"a frame of kind {body[:1]!r} on the calls lane")
    # A `match` statement would take twice as long, a microsecond more.
    gathering = None
    if body.startswith(TAGGED, 1):
        from spindle_trio._protocol._binary import gather_text

        gathering = gather_text(body[1 + len(TAGGED) :])
        frame = gathering.value
        if not gathering.left:
            gathering = None
    else:
        frame = read_json(body[1:])
    if not (isinstance(frame, list) and _PLAIN_LENGTH <= len(frame) <= _STREAM_LENGTH):
        raise ValueError(_NO_CALL)
    call_id, method, left, payload = frame[:_PLAIN_LENGTH]
    window = frame[_PLAIN_LENGTH] if len(frame) == _STREAM_LENGTH else None
    if not (
        isinstance(call_id, int)
        and isinstance(method, str)
        and (left is None or isinstance(left, int | float))
        and (window is None or isinstance(window, int))
    ):
        raise ValueError(_NO_CALL)
    return IncomingCall(call_id, method, None if left is None else left / 1000, payload, window, gathering, len(body))


class CallIntake:
    """What has come on the calls lane of a process, and which calls were cancelled before they came.

    A cancellation comes on another lane, perhaps before its call.
    """

    __slots__ = ("_early", "_incoming", "_newest")

    def __init__(self) -> None:
        self._incoming: IncomingCall | None = None  # a call whose bytes are still to come
        self._newest = 0
        self._early: set[int] = set()

    def take(self, body: bytes) -> IncomingCall | None:
        """Take in a frame; return the call that is whole by it, if there is one.

        Raises:
            ValueError: see `read_call`. Frames behind it are taken as ever.
            PeerProtocolError: see `IncomingCall.add`.
        """
        call = self._incoming
        if call is None:
            call = read_call(body)
            if call.gathering is not None:
                self._incoming = call
                return None
        elif not call.add(body):
            return None
        self._incoming = None
        self._newest = call.call_id
        if call.call_id in self._early:
            self._early.remove(call.call_id)
            call.was_cancelled = True
        return call

    @property
    def expects_cancelled(self) -> bool:
        """Whether calls were cancelled that have not come yet."""
        return bool(self._early)

    def cancel_early(self, call_id: int) -> bool:
        """Note that a call is cancelled, if it has not come yet; say whether that is so."""
        if call_id <= self._newest:
            return False
        self._early.add(call_id)
        return True


_PAYLOAD: Final = 3
_PLAIN_LENGTH: Final = 4
_STREAM_LENGTH: Final = 5
_NO_CALL: Final = "a CALL that is not [id, method, milliseconds, payload]"


def encode_answer(call_id: int, value: object, max_bytes: int) -> bytes:
    """Write the answer of a call.

    Args:
        call_id: the call's.
        value: already checked by `check_payload`.
        max_bytes: how long the body may be.

    Raises:
        PayloadError: it would be longer.
    """
    return ANSWER + encode_body([call_id, value], max_bytes - 1, "answer")


def encode_item(call_id: int, value: object, max_bytes: int) -> bytes:
    """Write an item of a stream; see `encode_answer`."""
    return ITEM + encode_body([call_id, value], max_bytes - 1, "item")


def encode_end(call_id: int) -> bytes:
    """Write the end of a stream."""
    return END + encode_body([call_id])


def encode_failure(call_id: int, about: dict[str, object]) -> bytes:
    """Write why a call or stream has no answer; see `FAILURE` for the object."""
    return FAILURE + encode_body([call_id, about])
