"""The JSON-RPC between a host and a scripted program, as messages instead of bytes."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import trio

from spindle_trio._model import JsonValue
from spindle_trio.child._calls import RelayedError
from spindle_trio.program._json_rpc import (
    MOST_CALLS,
    Answer,
    Ids,
    Refusal,
    Said,
    cancel_text,
    message_text,
    problem_of_params,
    read_messages,
    request_text,
)

if TYPE_CHECKING:
    from spindle_trio._model._command import Lane
    from spindle_trio.child import ProcessContext


class _Request:
    """A request that waits for its answer."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.outcome: Answer | Refusal | None = None


class JsonRpcEnd:
    """The program's end of a lane of JSON-RPC: messages and calls come in, in order, and its own go out."""

    def __init__(self, process: ProcessContext, lane: Lane) -> None:
        """Take messages and calls from now on."""
        self._process = process
        self._waits_for_cancelled = lane == "jsonrpc-headers"
        self._messages = process.messages()
        self._intake = process._controls._message_intake()
        self._in, self._out = trio.open_memory_channel[JsonValue](math.inf)
        self._ids = Ids()
        self._requests: dict[int, _Request] = {}
        calls = process._controls.call_service()
        calls.limit(MOST_CALLS)
        calls.handlers.serve_any(self._serve)

    async def run(self) -> None:
        """Take in messages, until this is cancelled."""
        try:
            while True:
                self._take_messages()
                await self._intake.wait_arrival()
        except trio.EndOfChannel:
            pass  # the host is gone, and ends this process

    async def receive(self) -> JsonValue:
        """Wait for the next message."""
        return await self._out.receive()

    async def send(self, message: dict[str, JsonValue]) -> None:
        """Send a message: an answer to who waits for it, and anything else to the host.

        Raises:
            ValueError: it is no JSON-RPC, or nobody waits for this answer; a real host only notes that.
        """
        for said in read_messages(json.dumps(message).encode()):
            match said:
                case Answer() | Refusal():
                    request = None if said.request_id is None else self._requests.get(said.request_id)
                    if request is None or request.ended.is_set():
                        raise ValueError(self._ids.words_for(said.request_id))
                    request.outcome = said
                    request.ended.set()
                    await trio.lowlevel.checkpoint()
                case Said():
                    await self._process.send(said.message)
                case _:
                    raise said

    def _take_messages(self) -> None:
        """Take what has been read; without a checkpoint, so that no call overtakes a message."""
        while True:
            try:
                message = self._messages.receive_nowait()
            except trio.WouldBlock:
                return
            if isinstance(message, dict):  # as the host has made sure
                self._in.send_nowait(json.loads(message_text(message)))

    def _take_what_came_before(self) -> None:
        try:
            self._take_messages()
            while self._intake.look():
                self._take_messages()
        except trio.EndOfChannel:
            pass  # as above

    async def _serve(self, params: JsonValue) -> JsonValue:
        """Answer any call: the handler of all methods."""
        method = self._process.call.method
        self._take_what_came_before()
        problem = problem_of_params(params)
        if problem is not None:
            raise RelayedError("PayloadError", problem)
        request_id = self._ids.next()
        request = self._requests[request_id] = _Request()
        self._in.send_nowait(json.loads(request_text(request_id, method, params)))
        try:
            await request.ended.wait()
        except trio.Cancelled:
            await self._cancel(request_id, method, request)  # noqa: ASYNC102  # shielded, until it answers or is killed
            raise
        finally:
            del self._requests[request_id]
        if isinstance(request.outcome, Refusal):
            raise RelayedError(
                "JsonRpcError", request.outcome.text, code=request.outcome.code, data=request.outcome.data
            )
        assert request.outcome is not None, "a request ends by its answer"
        return request.outcome.result

    async def _cancel(self, request_id: int, method: str, request: _Request) -> None:
        text = cancel_text(request_id, method, has_headers=self._waits_for_cancelled)
        if text is not None:
            self._in.send_nowait(json.loads(text))
        if self._waits_for_cancelled:
            with trio.CancelScope(shield=True):
                await request.ended.wait()
