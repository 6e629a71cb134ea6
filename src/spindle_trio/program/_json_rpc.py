"""JSON-RPC as bytes: both framings, the messages of a server, and what a client writes. Does no I/O.

A program may print anything. What is no JSON-RPC counts as its plain output, and what it says after that is read as
ever. Only a message that is longer than the bound breaks the protocol: nobody could pass it on, and a caller may be
waiting for it. No more than one message of that length is ever held. Standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from spindle_trio._protocol._json_text import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, TypeAlias

    from spindle_trio._model import JsonValue

MOST_CALLS: Final = 65_536
"""As many as a host has under way: it is the program that decides how many it works on at a time."""

_HEADER_BYTES: Final = 8 * 1024
"""How long one line of a header may be; a longer one is plain output."""

_LENGTH: Final = b"content-length:"

_LENGTH_DIGITS: Final = 19
"""Digits of a length that is certainly too long."""

_INFINITY: Final = float("inf")  # which 1e999 is

_SHOWN_BYTES: Final = 200
"""How much of a broken message an error shows."""


# What is read from the stream.


class PlainText(NamedTuple):
    """What a program has printed that belongs to no message."""

    data: bytes


Piece: TypeAlias = "bytes | PlainText"
"""The JSON of a message, or plain output."""


class LineFraming:
    """One message a line, as MCP has it. The reader of a message decides whether a line is one."""

    name = "one JSON object a line"
    is_sure = False
    """Whether a piece of bytes is certainly meant as a message."""

    def __init__(self, most_bytes: int) -> None:
        """Begin at the beginning of a line.

        Args:
            most_bytes: how long a message may be.
        """
        self._most_bytes = most_bytes
        self._rest = bytearray()
        self._is_plain = False  # in the middle of a line that is too long to be a message
        self.breach: str | None = None
        """How the program has broken the protocol: nothing that follows counts."""

    def feed(self, data: bytes) -> list[Piece]:
        """Take in what has been read, and return what has become whole by it."""
        pieces: list[Piece] = []
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line, pieces)
            self._finish(pieces)
        self._add(rest, pieces)
        return pieces

    def end(self) -> list[Piece]:
        """Return what is left when the stream has ended."""
        pieces: list[Piece] = []
        self._finish(pieces)
        return pieces

    def _add(self, data: bytes, pieces: list[Piece]) -> None:
        if not data or self.breach is not None:
            return
        if self._is_plain:
            pieces.append(PlainText(data))
            return
        self._rest += data
        if len(self._rest) <= self._most_bytes:
            return
        if self._rest[:_SHOWN_BYTES].lstrip().startswith((b"{", b"[")):
            self.breach = f"it sent a message of more than {self._most_bytes} bytes"
        else:
            self._is_plain = True
            pieces.append(PlainText(bytes(self._rest)))
        self._rest = bytearray()

    def _finish(self, pieces: list[Piece]) -> None:
        if self._is_plain:
            pieces.append(PlainText(b"\n"))
        elif not self._rest.isspace() and self._rest:
            pieces.append(bytes(self._rest))
        self._is_plain = False
        self._rest = bytearray()

    @staticmethod
    def frame(text: str) -> bytes:
        """Write a message; its JSON has no end of a line."""
        return text.encode(errors="replace") + b"\n"


class HeaderFraming:
    """Messages that follow a header with their length, as LSP has it.

    Text between two messages is plain output, also if the header begins in the middle of its line.
    """

    name = "messages behind a Content-Length"
    is_sure = True
    """See `LineFraming`."""

    def __init__(self, most_bytes: int) -> None:
        """Begin before a header.

        Args:
            most_bytes: how long a message may be.
        """
        self._most_bytes = most_bytes
        self._rest = bytearray()
        self._length: int | None = None  # what the header says, once it has
        self._is_body = False
        self._is_plain = False  # in the middle of a line that is too long for a header
        self.breach: str | None = None
        """See `LineFraming.breach`."""

    def feed(self, data: bytes) -> list[Piece]:
        """Take in what has been read; see `LineFraming.feed`."""
        self._rest += data
        pieces: list[Piece] = []
        taken = 0
        while self.breach is None:
            if self._is_body:
                assert self._length is not None, "a body follows a header"
                if len(self._rest) - taken < self._length:
                    break
                pieces.append(bytes(self._rest[taken : taken + self._length]))
                taken += self._length
                self._length, self._is_body = None, False
                continue
            end = self._rest.find(b"\n", taken)
            if end < 0:
                break
            self._take_line(bytes(self._rest[taken : end + 1]), pieces)
            taken = end + 1
        del self._rest[:taken]
        if not self._is_body and len(self._rest) > _HEADER_BYTES:
            pieces.append(PlainText(bytes(self._rest)))
            self._rest, self._is_plain, self._length = bytearray(), True, None
        return pieces

    def end(self) -> list[Piece]:
        """Return what is left when the stream has ended."""
        rest, self._rest = b"" if self.breach else bytes(self._rest), bytearray()
        return [PlainText(rest)] if rest else []

    def _take_line(self, line: bytes, pieces: list[Piece]) -> None:
        """Take in one whole line outside of a body."""
        was_plain, self._is_plain = self._is_plain, False
        if not line.strip() and not was_plain:
            self._is_body = self._length is not None
            return
        at = line.lower().find(_LENGTH)
        length = None if at < 0 else line[at + len(_LENGTH) :].strip()
        if length is not None and length.isdigit():
            if at:
                pieces.append(PlainText(line[:at]))
            self._length = int(length[: _LENGTH_DIGITS + 1])
            if self._length > self._most_bytes:
                self.breach = f"it announced a message of {self._length} bytes, more than {self._most_bytes}"
        elif self._length is None or not _is_field(line):
            self._length = None
            pieces.append(PlainText(line))

    @staticmethod
    def frame(text: str) -> bytes:
        """Write a message behind its header."""
        data = text.encode(errors="replace")
        return b"Content-Length: %d\r\n\r\n%b" % (len(data), data)


Framing: TypeAlias = "LineFraming | HeaderFraming"


def _is_field(line: bytes) -> bool:
    """Whether a line may be a field of a header."""
    name, colon, _ = line.partition(b":")
    return bool(colon) and name.replace(b"-", b"").isalnum()


def looks_foreign(framing: Framing, data: bytes) -> bool:
    """Whether plain output looks like messages in the other framing."""
    if isinstance(framing, LineFraming):
        return data[: len(_LENGTH)].lower() == _LENGTH
    return data.startswith((b'{"jsonrpc"', b'{"id"', b'{"method"'))


# What a server says.


class Answer(NamedTuple):
    """A server's answer to a request."""

    request_id: int | None
    """The client's id for it; `None` for one that no client like this has given."""
    result: JsonValue


class Refusal(NamedTuple):
    """A server's error in place of an answer."""

    request_id: int | None
    """As in `Answer`; `None` also if the server could not read the request."""
    text: str
    code: int | None = None
    """The code of JSON-RPC; `None` if the server has given none."""
    data: JsonValue = None


class Said(NamedTuple):
    """A request or a notification from a server."""

    message: dict[str, JsonValue]
    """With `method`, `params` if there are any, and `id` for a request."""

    @property
    def is_request(self) -> bool:
        """Whether the server waits for an answer."""
        return "id" in self.message


Incoming: TypeAlias = "Answer | Refusal | Said"


class NoJsonRpcError(ValueError):
    """A text is no message of JSON-RPC."""


def read_messages(data: bytes) -> list[Incoming | NoJsonRpcError]:
    """Read one text: a message, or a batch, whose broken members leave the others alone; the first of them is named.

    Raises:
        NoJsonRpcError: it is neither.
    """
    try:
        value = read_json(data)
    except (ValueError, RecursionError) as error:
        raise NoJsonRpcError(f"no JSON: {_one_line(error)}: {_shown(data)}") from None
    if not isinstance(value, list):
        return [_read_message(value, data)]
    if not value:
        raise NoJsonRpcError("an empty batch")
    read: list[Incoming | NoJsonRpcError] = []
    broken: NoJsonRpcError | None = None
    for member in value:
        try:
            if isinstance(member, dict):
                read.append(_read_message(member, data))
            else:
                broken = broken or NoJsonRpcError(f"no object: {_shown(data)}")
        except NoJsonRpcError as error:
            broken = broken or error
    if not read:
        raise NoJsonRpcError(f"no JSON-RPC: {_shown(data)}")
    return read if broken is None else [*read, broken]


def _read_message(value: JsonValue, data: bytes) -> Incoming:
    if not isinstance(value, dict):
        raise NoJsonRpcError(f"no object: {_shown(data)}")
    method = value.get("method")
    if method is not None:
        if not isinstance(method, str) or not _may_be_id(value.get("id")):
            raise NoJsonRpcError(f"a method or an id that is none: {_shown(data)}")
        return Said({name: value[name] for name in ("id", "method", "params") if name in value})
    if "id" not in value:
        raise NoJsonRpcError(f"neither a method nor an id: {_shown(data)}")
    request_id = _own_id(value["id"])
    error = value.get("error")
    if error is not None:
        return _read_refusal(request_id, error, data)
    if "result" in value:
        return Answer(request_id, value["result"])
    if "jsonrpc" not in value:
        raise NoJsonRpcError(f"an object that only has an id: {_shown(data)}")
    return Refusal(request_id, "the answer has neither a result nor an error")


def _read_refusal(request_id: int | None, error: JsonValue, data: bytes) -> Refusal:
    if not isinstance(error, dict):
        return Refusal(request_id, error if isinstance(error, str) else f"an error that is no object: {_shown(data)}")
    code, said = error.get("code"), error.get("message")
    if isinstance(code, float) and code.is_integer():
        code = int(code)
    return Refusal(
        request_id,
        said if isinstance(said, str) else "(the server gave no message)",
        code if type(code) is int and abs(code) < 1 << 63 else None,
        error.get("data"),
    )


def _may_be_id(request_id: JsonValue) -> bool:
    """Whether a server may give a request this id. One that no JSON can give back is none."""
    if isinstance(request_id, float):
        return abs(request_id) < _INFINITY
    return not isinstance(request_id, bool | list | dict)


def _own_id(request_id: JsonValue) -> int | None:
    """Take an id for one of ours: an integer from 1 on. Some servers give it back as text, or as a float."""
    if isinstance(request_id, str) and request_id.isascii() and request_id.isdigit():
        return int(request_id) if len(request_id) < _LENGTH_DIGITS else None
    if isinstance(request_id, float) and request_id.is_integer():
        return int(request_id)
    return request_id if type(request_id) is int else None


def _shown(data: bytes) -> str:
    more = f" … ({len(data)} bytes)" if len(data) > _SHOWN_BYTES else ""
    return ascii(data[:_SHOWN_BYTES].decode(errors="replace")) + more


def _one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:_SHOWN_BYTES]


# What a client says. Values are JSON-safe already.


def request_text(request_id: int, method: str, params: JsonValue) -> str:
    """Write a request; `None` for no params."""
    return write_json({"jsonrpc": "2.0", "id": request_id, "method": method, **_params(params)})


def notification_text(method: str, params: JsonValue) -> str:
    """Write a notification; `None` for no params."""
    return write_json({"jsonrpc": "2.0", "method": method, **_params(params)})


def cancel_text(request_id: int, method: str, *, has_headers: bool) -> str | None:
    """Write that nobody waits for a request any more; `None` for one that may not be cancelled."""
    if has_headers:
        return notification_text("$/cancelRequest", {"id": request_id})
    if method == "initialize":
        return None
    reason = "the caller has given up, or its time is over"
    return notification_text("notifications/cancelled", {"requestId": request_id, "reason": reason})


def message_text(message: Mapping[str, JsonValue]) -> str:
    """Write a notification, or an answer to a request of the server, from its own fields."""
    fields = {name: message[name] for name in message if name != "jsonrpc"}
    if "method" in fields and fields.get("params") is None:
        fields.pop("params", None)  # there are none; JSON-RPC has no null for that
    return write_json({"jsonrpc": "2.0", **fields})


def refusal_text(request_id: JsonValue, code: int, text: str) -> str:
    """Write an error in place of an answer."""
    error: dict[str, JsonValue] = {"code": code, "message": text}
    return write_json({"jsonrpc": "2.0", "id": request_id, "error": error})


def _params(params: JsonValue) -> dict[str, JsonValue]:
    return {} if params is None else {"params": params}


def problem_of_params(params: object) -> str | None:
    """Say why a value cannot be the params of a request; `None` if it can."""
    if params is None or isinstance(params, list | dict):
        return None
    return f"the params of a JSON-RPC request are a dict or a list, or None for none, not {type(params).__name__}"


def problem_of_message(message: JsonValue) -> str | None:
    """Say why a value can be sent neither as a notification nor as an answer; `None` if it can."""
    if not isinstance(message, dict):
        return f"a message to a JSON-RPC program is a dict, not {type(message).__name__}"
    names = {name for name in message if name != "jsonrpc"}
    if isinstance(message.get("method"), str):
        if names <= {"method", "params"}:
            return problem_of_params(message.get("params"))
    elif names in ({"id", "result"}, {"id", "error"}):
        return None
    return "a message to a JSON-RPC program has 'method' and perhaps 'params', or 'id' with 'result' or 'error'"


class Ids:
    """The ids of a client's requests: 1, 2, 3 …; and which of them the server still owes an answer."""

    def __init__(self) -> None:
        self._newest = 0

    def next(self) -> int:
        """Give the next one."""
        self._newest += 1
        return self._newest

    def words_for(self, request_id: int | None) -> str:
        """Say what is wrong with an answer whose request does not wait."""
        if request_id is None:
            return "an answer without an id that was ever given"
        if 1 <= request_id <= self._newest:
            return f"an answer to request {request_id}, which was answered or cancelled before"
        return f"an answer to request {request_id}, which never was"
