"""The calls and streams that the other end of a connection has begun.

Each has a task, which waits for its process, and then for its turn to send: what a peer does not read waits here, an
answer in the place of its call, and of a stream no more items than its window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._errors import CallError, CallTimeoutError, PeerProtocolError, ProcessLostError
from spindle_trio._model import MOST_WINDOW, CallRequest, ProcessCall, ProcessCallIdle, ProcessCallItem, Response
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker_protocol._notice_sender import ANSWERED_ERRORS, error_answer
from spindle_trio._worker_protocol._waiting_requests import WaitingCalls

if TYPE_CHECKING:
    from spindle_trio._interfaces import RelayedStream, ServingInterface
    from spindle_trio._worker_protocol._notice_sender import NoticeSender


@attrs.define(eq=False)
class ServedCall:
    """One that has not been answered."""

    request: ProcessCall | ProcessCallIdle
    size: int
    """What it takes in memory."""
    items: RelayedStream | None = attrs.field(default=None, init=False)
    """What the process has yielded, once the stream has begun."""
    passed_on: int = attrs.field(default=0, init=False)
    """Items that were sent and for which no credit has come back."""
    # Shielded, since an unload ends the process first, with its grace period: so the last answers can still go out.
    scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True), init=False)


@uninterrupted
class ServedCalls:
    """Those of one connection."""

    def __init__(self, notices: NoticeSender) -> None:
        """Begin with none.

        Args:
            notices: takes answers and items.
        """
        self._notices = notices
        self._waiting = WaitingCalls()
        self._by_id: dict[str, ServedCall] = {}
        notices.cut_short = self.cancel

    def admit(self, request: ProcessCall | ProcessCallIdle) -> ServedCall:
        """Begin a call; `serve` has to follow.

        Raises:
            CallError: too many wait.
            PeerProtocolError: one with this id goes on.
        """
        if request.request_id in self._by_id:
            raise PeerProtocolError(f"requestId: the call {request.request_id[:60]!a} goes on; take another id")
        call = ServedCall(request, self._waiting.admit_call(request))
        self._by_id[request.request_id] = call
        return call

    def cancel(self, request_id: str) -> None:
        """Cancel a call, if it goes on."""
        if (call := self._by_id.get(request_id)) is not None:
            call.scope.cancel()

    def cancel_all(self) -> None:
        """Cancel all calls: nobody waits for their answers."""
        for call in self._by_id.values():
            call.scope.cancel()

    def give_credit(self, request_id: str, items: int) -> None:
        """Let a stream send more items, but no more than were sent; does nothing for any other id.

        Raises:
            PeerProtocolError: no stream can have asked for so many.
        """
        if not 1 <= items <= MOST_WINDOW:
            raise PeerProtocolError(f"items: expected 1 to {MOST_WINDOW} items")
        if (call := self._by_id.get(request_id)) is not None and call.items is not None:
            items = min(items, call.passed_on)
            call.passed_on -= items
            call.items.grant(items)

    async def serve(self, port: ServingInterface, call: ServedCall) -> None:
        """Wait for the answer of a call, and send it, once. If nobody hears it any more, it is dropped."""
        answer = None
        try:
            with call.scope:
                if isinstance(call.request, ProcessCall):
                    answer = await self._answer_to(port, call.request, call)
                else:
                    answer = await self._answer_when_idle(port, call.request)
            if answer is None:
                answer = error_answer(call.request.request_id, CallError("the call was cancelled"))
            with trio.CancelScope(shield=True):  # ended by the close of the writer
                await self._notices.put_in_turn(answer)
        except trio.BrokenResourceError:
            pass
        finally:
            del self._by_id[call.request.request_id]
            self._waiting.release(call.size)

    async def _answer_when_idle(self, port: ServingInterface, request: ProcessCallIdle) -> Response:
        try:
            await port.find_calls(request.process_id, None).wait_idle()
        except trio.BrokenResourceError:
            pass  # it has ended, and with it all that it was asked
        except ANSWERED_ERRORS as error:
            return error_answer(request.request_id, error)
        return Response(request.request_id)

    async def _answer_to(self, port: ServingInterface, request: ProcessCall, call: ServedCall) -> Response:
        try:
            calls = port.find_calls(request.process_id, request.user_id)
        except trio.BrokenResourceError as error:
            # What became of it the other end knows by its terminal event.
            lost = ProcessLostError.__name__
            return Response(request.request_id, error=str(error), error_type=lost, handed_over=False)
        except ANSWERED_ERRORS as error:
            return error_answer(request.request_id, error)
        if request.timeout <= 0:
            late = CallTimeoutError(f"the time of {request.method!r} was over before the call was here")
            return error_answer(request.request_id, late)
        asked = CallRequest(request.method, request.payload, request.timeout, request.overrun, request.window)
        try:
            if request.window is None:
                return Response(request.request_id, result=await calls.call(asked))
            call.items = await calls.relay_stream(asked)
            await self._pass_on(call.items, call)
            return Response(request.request_id)
        except ANSWERED_ERRORS as error:
            return error_answer(request.request_id, error)

    async def _pass_on(self, items: RelayedStream, call: ServedCall) -> None:
        """Send the items of a stream as they come: the credit of the other end's reader goes to the process."""
        try:
            while True:
                for value in await items.receive_many():
                    await self._notices.put_in_turn(ProcessCallItem(call.request.request_id, value))
                    call.passed_on += 1
        except trio.EndOfChannel:
            pass
        finally:
            items.close()
