"""`StreamChannel`: the worker protocol over any Trio stream, one JSON object a line."""

from __future__ import annotations

import json
from typing import Final, TypeAlias

import trio

from spindle_trio._errors import PayloadError
from spindle_trio._model import MEBIBYTE, HostToWorker, WorkerToHost
from spindle_trio._protocol._frames import READ_BYTES
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker_protocol._lines import MAX_LINE_VALUES, LineReader, UnreadableLineError
from spindle_trio.wire import JsonObject, to_json

WireMessage: TypeAlias = WorkerToHost | HostToWorker | JsonObject
"""What a channel of the worker protocol carries: the attrs values, or their wire forms."""

WireChannel: TypeAlias = trio.abc.Channel[WireMessage]
"""What host and worker may talk over: a `StreamChannel`, or any Trio channel of such messages."""

MAX_LINE_BYTES: Final = 49 * MEBIBYTE
"""Bytes in one line, unless told otherwise: room for a payload at the default limit of 16 MiB, even if the peer writes
it in ASCII with escapes (three times as long), and for a mebibyte beside it."""


@uninterrupted
class StreamChannel(WireChannel):
    r"""A channel of the worker protocol over a stream: one JSON object a line, in UTF-8, ended by ``\n``.

    Any stream will do: a socket, TLS, a process's pipes stapled together. Several tasks may send; one receives.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, max_line_bytes: int = MAX_LINE_BYTES, max_line_values: int = MAX_LINE_VALUES
    ) -> None:
        """Take over a stream: nobody else may use it, and closing the channel closes it.

        Args:
            stream: connected, and at the beginning of a line both ways.
            max_line_bytes: bytes that one line may have, its end not counted, both ways. A longer one that comes in is
                skipped.
            max_line_values: values that a line which comes in may have; some with up to twice as many are read as well.

        Raises:
            ValueError: a bound is not positive.
        """
        for name, bound in (("max_line_bytes", max_line_bytes), ("max_line_values", max_line_values)):
            if bound < 1:
                raise ValueError(f"{name} must be positive, not {bound}")
        self._stream = stream
        self._max_line_bytes = max_line_bytes
        self._sending = trio.StrictFIFOLock()
        self._lines = LineReader(max_line_bytes, max_line_values)
        self._is_cut_off = False  # whether a message is, or was left, half sent
        self._has_ended = False
        self._is_closed = False

    def __repr__(self) -> str:
        state = "ended" if self._has_ended else "open"
        return f"<StreamChannel {state} over {self._stream!r}>"

    async def send(self, value: WireMessage) -> None:
        """Send one message; when this returns, all of its line is with the stream.

        If it is cancelled, the line may be half out, and so nothing can be sent any more. To be able to
        give up, leave the sending to a task that is not cancelled.

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
            size, limit = len(line) - 1, self._max_line_bytes
            raise PayloadError(f"a message of {size} bytes, more than {limit} in one line", size=size, limit=limit)
        async with self._sending:
            self._check_usable()
            if self._is_cut_off:
                raise trio.BrokenResourceError("an earlier message was sent only in part")
            # Receiving goes on after a failure here: the peer's last words may be waiting.
            self._is_cut_off = True
            await self._stream.send_all(line)
            self._is_cut_off = False

    async def receive(self) -> JsonObject:
        """Wait for the next message and return it in its wire form. If cancelled, nothing is lost.

        Raises:
            PeerProtocolError: a line is not a JSON object, or over a bound; the next call reads the line after it.
                Where the line has a `requestId`, the error has it as `request_id`. Or the stream ended within a line.
            trio.EndOfChannel: the peer has sent its last message.
            trio.BrokenResourceError: the connection was lost.
            trio.ClosedResourceError: this channel was closed.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self._check_usable()
            message = self._lines.take()
            if message is not None:
                return message
            if self._has_ended:
                raise trio.EndOfChannel
            data = await self._stream.receive_some(READ_BYTES)
            if data:
                self._lines.feed(data)
                continue
            self._has_ended = True
            if self._lines.is_mid_line:
                raise UnreadableLineError("the stream ended within a line")

    async def aclose(self) -> None:
        """Close the stream. What was sent before is delivered if the stream's own closing does that."""
        self._is_closed = True
        await self._stream.aclose()

    def _check_usable(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError


def _line_of(value: WireMessage) -> bytes:
    data = value if isinstance(value, dict) else to_json(value)
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        # A lone surrogate's UnicodeEncodeError is a ValueError, as is the refusal of NaN or of a cycle.
        raise PayloadError(f"the message cannot be written as JSON: {error}") from None
