"""`StreamChannel`: the worker protocol over any Trio stream, one JSON object a line."""

from __future__ import annotations

import json
from typing import Final, TypeAlias

import trio

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._model import MEBIBYTE, HostToWorker, WorkerToHost
from spindle_trio._protocol._frames import READ_BYTES
from spindle_trio._trio_rules import uninterrupted
from spindle_trio.wire import JsonObject, to_json

WireMessage: TypeAlias = WorkerToHost | HostToWorker | JsonObject
"""What a channel of the worker protocol carries: the attrs values, or their wire forms."""

WireChannel: TypeAlias = trio.abc.Channel[WireMessage]
"""What host and worker may talk over: a `StreamChannel`, or any Trio channel of such messages."""

MAX_LINE_BYTES: Final = 5 * MEBIBYTE
"""Bytes in one line, unless told otherwise: room for a payload at the default limit of 1 MiB, even if the peer writes
it in ASCII with escapes (three times as long), and for metadata of the same size beside it."""


@uninterrupted
class StreamChannel(WireChannel):
    r"""A channel of the worker protocol over a stream: one JSON object a line, in UTF-8, ended by ``\n``.

    Any stream will do: a socket, TLS, a process's pipes stapled together. Several tasks may send; one receives.
    """

    def __init__(self, stream: trio.abc.Stream, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        """Take over a stream: nobody else may use it, and closing the channel closes it.

        Args:
            stream: connected, and at the beginning of a line both ways.
            max_line_bytes: bytes that one line may have, its end not counted, both ways.

        Raises:
            ValueError: `max_line_bytes` is not positive.
        """
        if max_line_bytes < 1:
            raise ValueError(f"max_line_bytes must be positive, not {max_line_bytes}")
        self._stream = stream
        self._max_line_bytes = max_line_bytes
        self._sending = trio.StrictFIFOLock()
        self._buffer = bytearray()
        self._searched = 0  # how far the buffer is known to hold no end of line
        self._broken_by: str | None = None
        self._is_cut_off = False  # whether a message is, or was left, half sent
        self._has_ended = False
        self._is_closed = False

    def __repr__(self) -> str:
        state = f"broken: {self._broken_by}" if self._broken_by else "ended" if self._has_ended else "open"
        return f"<StreamChannel {state} over {self._stream!r}>"

    async def send(self, value: WireMessage) -> None:
        """Send one message; when this returns, all of its line is with the stream.

        If it is cancelled, the line may be half out, and so nothing can be sent any more. Whoever has to be able
        to give up leaves the sending to a task that is not cancelled.

        Args:
            value: an attrs value of the protocol, or its wire form.

        Raises:
            PayloadError: it cannot be written as JSON, or its line would be too long; nothing was sent.
            trio.BrokenResourceError: the peer is gone, or the channel, or its sending end, was broken before.
            trio.ClosedResourceError: this channel was closed.
        """
        line = _line_of(value)
        if len(line) - 1 > self._max_line_bytes:
            await trio.lowlevel.checkpoint()
            raise PayloadError(f"a message of {len(line) - 1} bytes, more than {self._max_line_bytes} in one line")
        async with self._sending:
            self._check_usable()
            if self._is_cut_off:
                raise trio.BrokenResourceError("an earlier message was not sent whole")
            # Receiving goes on after a failure here: the peer's last words may be waiting.
            self._is_cut_off = True
            await self._stream.send_all(line)
            self._is_cut_off = False

    async def receive(self) -> JsonObject:
        """Wait for the next message and return it in its wire form. If cancelled, nothing is lost.

        NaN and the infinities, which JSON cannot spell but some writers do, are read as numbers: so a request that
        has one in its payload can be told what is wrong with it.

        Raises:
            PeerProtocolError: a line is no JSON object; the next call goes on with the line after it. Or a line is too
                long, or is cut off by the end of the stream; then the next call raises what follows here.
            trio.EndOfChannel: the peer has sent its last message.
            trio.BrokenResourceError: the connection was lost, or the channel was broken before.
            trio.ClosedResourceError: this channel was closed.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self._check_usable()
            line = self._take_line()
            if line is not None:
                return _object_in(line)
            if self._has_ended:
                raise trio.EndOfChannel
            data = await self._stream.receive_some(READ_BYTES)
            if data:
                self._buffer += data
                continue
            self._has_ended = True
            if self._buffer:
                self._buffer.clear()
                raise PeerProtocolError("the stream ended within a line")

    async def aclose(self) -> None:
        """Close the stream. What was sent before is delivered if the stream's own closing does that."""
        self._is_closed = True
        await self._stream.aclose()

    def _check_usable(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError
        if self._broken_by is not None:
            raise trio.BrokenResourceError(f"the channel is broken: {self._broken_by}")

    def _take_line(self) -> bytes | None:
        """Take a whole line out of the buffer, without its end; `None` if there is none yet."""
        end = self._buffer.find(b"\n", self._searched)
        if (end if end >= 0 else len(self._buffer)) > self._max_line_bytes:
            self._buffer.clear()
            self._broken_by = f"the peer sent a line of more than {self._max_line_bytes} bytes"
            raise PeerProtocolError(self._broken_by)
        if end < 0:
            self._searched = len(self._buffer)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line


def _line_of(value: WireMessage) -> bytes:
    data = value if isinstance(value, dict) else to_json(value)
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        # A lone surrogate's UnicodeEncodeError is a ValueError, as is the refusal of NaN or of a cycle.
        raise PayloadError(f"the message cannot be written as JSON: {error}") from None


def _object_in(line: bytes) -> JsonObject:
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        # UnicodeDecodeError, JSONDecodeError and the interpreter's own limit on digits are ValueErrors.
        raise PeerProtocolError(f"a line that is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise PeerProtocolError(f"a line that is a JSON {type(value).__name__}, not an object")
    return value
