"""Calls and streams of the connecting end: what a handle asks of a process whose host is at the other end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import attrs
import trio

from spindle_trio._errors import CallTimeoutError, PeerProtocolError, ProcessLostError
from spindle_trio._model import (
    CallRequest,
    JsonValue,
    Limits,
    ProcessCall,
    ProcessCallCancel,
    ProcessCallCredit,
    ProcessCallIdle,
)
from spindle_trio._model._calls import too_late, within
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker_protocol._checked_copy import checked_copy
from spindle_trio._worker_protocol._pending import Pending, PendingCall
from spindle_trio._worker_protocol._remote_stream import PendingStream, RemoteStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio._model import ProcessCallItem, WorkerToHost
    from spindle_trio._worker_protocol._remote_process import RemoteProcess
    from spindle_trio._worker_protocol._writer import TwoLaneWriter

_LONGEST: Final = 2.0**53 / 1000
"""Seconds; more of them are no milliseconds that every JSON reader takes as they are, and as good as no bound."""

_NOISE_MS: Final = 0.001
"""Milliseconds that a difference between two readings of a clock may be off."""


@uninterrupted
class CallLine:
    """The calls of one connection, on their way there and back."""

    def __init__(
        self,
        pending: dict[str, Pending],
        writer: TwoLaneWriter[WorkerToHost],
        *,
        limits: Limits,
        new_id: Callable[[], str],
        check_open: Callable[[], None],
    ) -> None:
        """Begin with none.

        Args:
            pending: all requests that wait for answers; calls join them.
            writer: takes calls in its last lane, cancellations and credit in its first.
            limits: bound payloads.
            new_id: makes the id of a request.
            check_open: raises if nothing can be sent any more.
        """
        self._pending = pending
        self._writer = writer
        self.limits = limits
        self.new_id = new_id
        self.check_open = check_open

    def of(self, process: RemoteProcess) -> RemoteCalls:
        """Make what asks one process."""
        return RemoteCalls(self, process)

    async def begin(self, call: ProcessCall, size: int, pending: PendingCall) -> None:
        """Queue a call as soon as the connection has room for it. If cancelled, `give_up` has to follow."""
        self._pending[call.request_id] = pending
        await self._writer.put_bulk(call, size)
        pending.is_queued = True

    def finish(self, value: WorkerToHost) -> WorkerToHost | None:
        """Note that a call leaves, and write how much time is left; `None` for one that nobody waits for."""
        pending = self._pending.get(value.request_id) if isinstance(value, ProcessCall) else None
        if not isinstance(value, ProcessCall) or not isinstance(pending, PendingCall):
            return value
        if pending.is_abandoned:
            self._pending.pop(value.request_id).settle()
            return None
        pending.is_sent = True
        left = pending.deadline - trio.current_time()
        if left > _LONGEST:
            return value
        # Rounded up, but for what arithmetic adds: where both ends notice that the time is over, this end is first.
        return attrs.evolve(value, timeout=max(0, math.ceil(left * 1000 - _NOISE_MS)) / 1000)

    def give_up(self, request_id: str) -> None:
        """Let nobody wait for a call: cancel it, or do not even send it. Does nothing for one that has ended."""
        pending = self._pending.get(request_id)
        if not isinstance(pending, PendingCall) or pending.is_abandoned:
            return
        pending.is_abandoned = True
        if pending.is_sent:
            self._writer.put_urgent(ProcessCallCancel(request_id))  # its answer will still come
        elif not pending.is_queued:
            self._pending.pop(request_id).settle()

    async def ask_idle(self, process: RemoteProcess) -> None:
        """Wait until the host says that a process has ended all calls."""
        pending = Pending()
        request = ProcessCallIdle(self.new_id(), process.process_id)
        self._pending[request.request_id] = pending
        self._writer.put_urgent(request)
        try:
            await pending.done.wait()
        except BaseException:
            self._writer.put_urgent(ProcessCallCancel(request.request_id))
            raise
        pending.take()

    def give_credit(self, request_id: str, items: int) -> None:
        """Let a stream send more."""
        self._writer.put_urgent(ProcessCallCredit(request_id, items))

    def take_item(self, notice: ProcessCallItem) -> None:
        """Take in an item of a stream; one that was given up is dropped.

        Raises:
            PeerProtocolError: there is no such stream.
        """
        pending = self._pending.get(notice.request_id)
        if not isinstance(pending, PendingStream):
            raise PeerProtocolError(f"an item for request {notice.request_id[:60]!a}, which is no stream that goes on")
        if not pending.is_abandoned:
            pending.stream.take(notice.value)


@uninterrupted
class RemoteCalls:
    """The calls of one process; a `CallsInterface`."""

    def __init__(self, line: CallLine, process: RemoteProcess) -> None:
        self._line = line
        self._process = process

    async def call(self, request: CallRequest) -> JsonValue:
        """Call a handler and return its answer; see `ProcessHandle.call`."""
        call, size = self._checked(request)
        pending = PendingCall(self._process, request.method, _deadline_of(request))
        try:
            with trio.CancelScope(deadline=trio.current_time() + request.timeout):
                await self._line.begin(call, size, pending)
                await pending.done.wait()
        except BaseException:
            self._line.give_up(call.request_id)
            raise
        if not pending.done.is_set():
            self._line.give_up(call.request_id)
            raise self._too_late(request)
        return pending.take()

    async def open_stream(self, request: CallRequest) -> RemoteStream:
        """Begin a stream; see `ProcessHandle.stream`. What the host has against it is raised at the reader."""
        call, size = self._checked(request)
        assert request.window is not None, "a stream has a window"
        ends_at = trio.current_time() + request.timeout
        deadline = _deadline_of(request)
        stream = RemoteStream(self._line, call.request_id, request.window, deadline, self._too_late(request))
        pending = PendingStream(self._process, request.method, deadline, stream)
        try:
            with trio.CancelScope(deadline=ends_at) as waiting:
                await self._line.begin(call, size, pending)
        except BaseException:
            self._line.give_up(call.request_id)
            raise
        if waiting.cancelled_caught:
            self._line.give_up(call.request_id)
            raise self._too_late(request)
        return stream

    async def wait_idle(self) -> None:
        """Wait until the process has ended every call, also those that were given up; see `CallsInterface`.

        Raises:
            trio.BrokenResourceError: the connection is lost.
            trio.ClosedResourceError: the worker was closed.
        """
        self._line.check_open()
        if self._process.has_ended:
            await trio.lowlevel.checkpoint()
        else:
            await self._line.ask_idle(self._process)

    def _checked(self, request: CallRequest) -> tuple[ProcessCall, int]:
        self._line.check_open()
        payload, size = checked_copy(request.payload, self._line.limits, "payload")
        process = self._process
        if process.has_ended:
            text = f"cannot call {request.method[:200]!r}: process {process.process_id} has ended"
            lost = ProcessLostError(text, info=process.info, post_mortem=process.post_mortem, handed_over=False)
            raise lost.concerning(request.method, entry=process.info.entry, process_id=process.process_id)
        call = ProcessCall(
            self._line.new_id(),
            process.process_id,
            request.method,
            payload,
            overrun=request.overrun,
            window=request.window,
        )
        return call, size + len(request.method)

    def _too_late(self, request: CallRequest) -> CallTimeoutError:
        process = self._process.info
        text = too_late(request.method, process.process_id, process.entry, within(request.timeout))
        return CallTimeoutError(text).concerning(request.method, entry=process.entry, process_id=process.process_id)


def _deadline_of(request: CallRequest) -> float:
    return min(trio.current_time() + request.timeout, trio.current_effective_deadline())
