"""The lanes ``jsonrpc`` and ``jsonrpc-headers``: calls are requests to the program, and messages go both ways.

Theory of operation
-------------------

What is written to the program waits in one queue, in the order in which it came. A call comes on another lane than
messages, so before its request is queued, the messages that were sent before it are: they have arrived by then.
Messages are read only while the queue is short. Requests need no such bound, since the host holds each as well.

A request is known from its id until it is answered. One that is cancelled before its first byte was written is dropped.
Otherwise the program is told. A language server answers a cancelled request too, so its call lasts until then: that is
how the host learns of a server that does not give up. An MCP server does not, so its call ends at once.

What the program prints is either a message or plain output, which goes to this process's stdout. A program that has
closed its stdin or its stdout and lives on is left alone; but a call that it can never answer fails.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._errors import PayloadError
from spindle_trio.child._calls import RelayedError
from spindle_trio.child._process import report
from spindle_trio.program._json_rpc import (
    MOST_CALLS,
    Answer,
    HeaderFraming,
    Ids,
    LineFraming,
    NoJsonRpcError,
    PlainText,
    Refusal,
    cancel_text,
    looks_foreign,
    message_text,
    problem_of_message,
    problem_of_params,
    read_messages,
    refusal_text,
    request_text,
)
from spindle_trio.program._output import write_all

if TYPE_CHECKING:
    from spindle_trio._model import JsonValue
    from spindle_trio.child import ProcessContext
    from spindle_trio.program._json_rpc import Framing, Piece, Said
    from spindle_trio.program._output import ProgramOutput

HEADERS: Final = "jsonrpc-headers"
"""The lane with headers; the other one is ``jsonrpc``."""

_CHUNK_BYTES: Final = 64 * 1024
_QUEUE_BYTES: Final = 256 * 1024
"""While more waits to be written, no message is read."""

_PATIENCE: Final = 0.5
"""Seconds in which a program that has closed a stream may end, before calls that it cannot answer fail."""

_MOST_COMPLAINTS: Final = 100
_COMPLAINT_CHARACTERS: Final = 500
_MOST_CANCELLED: Final = 10_000
_INTERNAL_ERROR: Final = -32603

_STDIN_CLOSED: Final = "the program has closed its stdin, and the request was not written"
_STDOUT_CLOSED: Final = "the program has closed its stdout, and answers no more"


class _Request:
    """A request that has not ended."""

    __slots__ = ("ended", "is_cancelled", "is_dropped", "is_written", "outcome")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.outcome: Answer | Refusal | str | None = None
        """What the program has said, or why it will say nothing."""
        self.is_written = False
        """Whether its first byte may have been written."""
        self.is_dropped = False
        """Whether it is not to be written."""
        self.is_cancelled = False
        """Whether the program was told that nobody waits for it any more."""

    def end(self, outcome: Answer | Refusal | str | None) -> None:
        if self.outcome is None:
            self.outcome = outcome
        self.ended.set()


class JsonRpcLane:
    """JSON-RPC with one program. Made before the process is ready, it takes calls from then on."""

    def __init__(self, process: ProcessContext, stdin: int, stdout: ProgramOutput, lane: str) -> None:
        """Begin.

        Args:
            process: the context of the shim.
            stdin: the writing end of the program's stdin, non-blocking.
            stdout: the program's.
            lane: ``jsonrpc`` for one object a line, or ``jsonrpc-headers``.
        """
        controls = process._controls
        self._process = process
        self._stdin = stdin
        self._stdout = stdout
        most_bytes = controls.facts.frame_bytes
        self._framing: Framing = HeaderFraming(most_bytes) if lane == HEADERS else LineFraming(most_bytes)
        self._channel = process.messages()  # from the beginning: what the host sends meanwhile waits
        self._intake = controls._message_intake()
        # What is to be written, each with its request if it is one; and what waits for a change of that.
        self._queue: deque[tuple[bytes, _Request | None]] = deque()
        self._queue_bytes = 0
        self._work = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        # Requests.
        self._ids = Ids()
        self._requests: dict[int, _Request] = {}
        self._cancelled: set[int] = set()  # of those that have ended by that: an answer may have been on its way
        self._refusal: str | None = None  # why no request can be answered any more
        self._stdout_ended = trio.Event()
        self._is_over = False
        self._complaints = 0
        self._has_looked = False  # whether plain output was looked at
        calls = controls.call_service()
        calls.limit(MOST_CALLS)
        calls.handlers.serve_any(self._serve)

    # What the program prints.

    async def read(self) -> None:
        """Take in the program's stdout, until it ends; fails the process if a message is too long."""
        try:
            while data := await self._stdout.receive_some():
                await self._take(self._framing.feed(data))
                if self._framing.breach is not None:
                    self._process.fail(
                        f"the program has broken JSON-RPC: {self._framing.breach}; a message may have no more "
                        "(Limits.frame_bytes)"
                    )
                    return
            await self._take(self._framing.end())
        finally:
            self._stdout_ended.set()

    async def _take(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, PlainText):
                await self._show(piece.data)
                continue
            try:
                messages = read_messages(piece)
            except NoJsonRpcError as error:
                if self._framing.is_sure:
                    self._complain(f"a message that is {error}")
                else:
                    await self._show(piece + b"\n")
                continue
            for message in messages:
                match message:
                    case Answer() | Refusal():
                        self._finish(message)
                    case NoJsonRpcError():
                        self._complain(f"a member of a batch that is {message}")
                    case _:
                        await self._pass_on(message)

    async def _show(self, data: bytes) -> None:
        """Print what is no message, for whoever looks at the output of this process."""
        if not self._has_looked:
            self._has_looked = True
            if looks_foreign(self._framing, data):
                other = "jsonrpc-headers" if isinstance(self._framing, LineFraming) else "jsonrpc"
                report(f"spindle_trio: the program seems to speak the other way of JSON-RPC: use lane={other!r}")
        await write_all(1, data)

    def _finish(self, message: Answer | Refusal) -> None:
        request_id = message.request_id
        request = None if request_id is None else self._requests.get(request_id)
        if request is not None and request.is_written and request.outcome is None:
            request.end(message)
        elif request_id is not None and request_id in self._cancelled:
            self._cancelled.remove(request_id)
        elif isinstance(message, Refusal) and request_id is None:
            self._complain(f"an error about no request: {message.code}: {message.text}")
        else:
            self._complain(self._ids.words_for(request_id))

    async def _pass_on(self, said: Said) -> None:
        try:
            try:
                self._process.send_nowait(said.message)
            except trio.WouldBlock:
                await self._process.send(said.message)
        except PayloadError as error:
            self._complain(f"a message that cannot be passed on: {error}")
            if said.is_request:
                self._put(refusal_text(said.message["id"], _INTERNAL_ERROR, f"the client cannot take it: {error}"))

    def _complain(self, text: str) -> None:
        self._complaints += 1
        if self._complaints <= _MOST_COMPLAINTS:
            report(f"spindle_trio: the program has sent {text[:_COMPLAINT_CHARACTERS]}")
        if self._complaints == _MOST_COMPLAINTS:
            report("spindle_trio: no more is said about what the program should not have sent")

    # What the program is told.

    async def write(self) -> None:
        """Write to the program's stdin what the host sends. Runs until it is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump)
                nursery.start_soon(self._heed_stdout)
                await self._write_queue()
                await trio.sleep(_PATIENCE)
                await self._refuse_what_is_queued()
        finally:
            self._is_over = True
            for request in self._requests.values():
                if request.is_cancelled:  # others hear of the end of the process
                    request.end(None)

    async def _write_queue(self) -> None:
        """Write what is queued, until the program has closed its stdin."""
        while True:
            while not self._queue:
                await self._work.park()
            chunk, requests = self._next_chunk()
            if chunk and not await write_all(self._stdin, chunk):
                report("spindle_trio: the program has closed its stdin; messages to it are dropped from now on")
                self._queue.extendleft((b"", request) for request in requests)
                return

    def _next_chunk(self) -> tuple[bytes, list[_Request]]:
        """Take what is to be written next, and the requests in it; wake those who wait for that."""
        parts: list[bytes] = []
        requests: list[_Request] = []
        size = 0
        while self._queue and size < _CHUNK_BYTES:
            data, request = self._queue.popleft()
            self._queue_bytes -= len(data)
            if request is not None:
                if request.is_dropped:
                    continue
                request.is_written = True
                requests.append(request)
            parts.append(data)
            size += len(data)
        self._room.unpark_all()
        return b"".join(parts), requests

    async def _refuse_what_is_queued(self) -> None:
        """Drop what is queued, and fail its requests: nothing more can be written."""
        while True:
            while self._queue:
                data, request = self._queue.popleft()
                self._queue_bytes -= len(data)
                if request is not None:
                    request.end(_STDIN_CLOSED)
            self._room.unpark_all()
            await self._work.park()

    async def _heed_stdout(self) -> None:
        """Fail what waits for an answer that can never come."""
        await self._stdout_ended.wait()
        await trio.sleep(_PATIENCE)
        self._refusal = _STDOUT_CLOSED
        for request in self._requests.values():
            request.end(_STDOUT_CLOSED)

    def _put(self, text: str, request: _Request | None = None) -> None:
        data = self._framing.frame(text)
        self._queue.append((data, request))
        self._queue_bytes += len(data)
        self._work.unpark_all()

    async def _pump(self) -> None:
        """Queue messages as they come, while there is room."""
        try:
            while True:
                self._queue_messages()
                if self._queue_bytes > _QUEUE_BYTES:
                    await self._room.park()
                else:
                    await self._intake.wait_arrival()
        except trio.EndOfChannel:
            pass  # the host is gone, and ends this process

    def _queue_messages(self) -> None:
        """Queue the messages that were read.

        Raises:
            trio.EndOfChannel: no more will come.
        """
        while True:
            try:
                message = self._channel.receive_nowait()
            except trio.WouldBlock:
                return
            problem = problem_of_message(message)
            try:
                if problem is not None or not isinstance(message, dict):
                    raise TypeError(problem)
                text = message_text(message)
            except (TypeError, ValueError) as error:  # the host has checked it, unless it is an older one
                report(f"spindle_trio: a message was not sent to the program: {error}")
            else:
                self._put(text)

    def _queue_messages_before(self) -> None:
        """Queue all messages that were sent before the call that has just come."""
        try:
            self._queue_messages()
            while self._intake.look():
                self._queue_messages()
        except trio.EndOfChannel:
            pass  # as above

    # The calls of the host.

    async def _serve(self, params: JsonValue) -> JsonValue:
        """Answer any call: the handler of all methods."""
        method = self._process.call.method
        self._queue_messages_before()
        problem = problem_of_params(params)
        if problem is not None:
            raise RelayedError("PayloadError", problem)
        if self._refusal is not None:
            raise RelayedError("ProgramError", self._refusal)
        request_id = self._ids.next()
        try:
            text = request_text(request_id, method, params)
        except (TypeError, ValueError) as error:
            raise RelayedError("PayloadError", f"the params cannot be sent as JSON: {error}") from None
        request = self._requests[request_id] = _Request()
        self._put(text, request)
        try:
            await request.ended.wait()
        except trio.Cancelled:
            await self._cancel(request_id, method, request)  # noqa: ASYNC102  # it is shielded, until `write` ends
            raise
        finally:
            del self._requests[request_id]
        match request.outcome:
            case Answer(result=result):
                return result
            case Refusal(text=said, code=code, data=data):
                raise RelayedError("JsonRpcError", said, code=code, data=data)
            case why:
                raise RelayedError("ProgramError", why or _STDOUT_CLOSED)

    async def _cancel(self, request_id: int, method: str, request: _Request) -> None:
        """Tell the program that nobody waits for its answer any more, and wait until it has given up if it says so."""
        if self._is_over or request.ended.is_set():
            return
        if not request.is_written:
            request.is_dropped = True
            return
        has_headers = isinstance(self._framing, HeaderFraming)
        text = cancel_text(request_id, method, has_headers=has_headers)
        if text is not None:
            self._put(text)
        if has_headers:
            request.is_cancelled = True
            with trio.CancelScope(shield=True):
                await request.ended.wait()
        elif len(self._cancelled) < _MOST_CANCELLED:
            self._cancelled.add(request_id)
