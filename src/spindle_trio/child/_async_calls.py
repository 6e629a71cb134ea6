"""Serves calls in an `async` entry: reads them, runs their handlers, and answers. Loaded at the first `on_call`.

Theory of operation
-------------------

One task reads the calls lane. What it has read waits in order, so many handlers run at a time, and while the waiting
calls fill their room, nothing more is read. A handler runs in a task of its own, in a cancel scope with the call's
deadline. Only a plain function needs no task: the reading task calls it itself, in its turn. Trio may begin tasks in
any order. So a new task serves the call that has waited longest, whichever that is.

Answers of several calls leave together, since a write for each is most of the cost of a short call: at the latest when
other tasks have had their turn, and before a plain function begins that was not quick the last time.

Every call is ended by exactly one frame, unless the process ends before. A cancelled call is ended when its handler has
given up; one that still waits, at once. Cancellations and credit come on the control lane, so a cancellation may be
there before its call.

A stop begins no more calls, and lets those finish that run. The end of the entry cancels them, and sends nothing about
them: the host knows that the process has ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._errors import LocalProtocolError, PeerProtocolError
from spindle_trio._protocol._call_frames import CallIntake
from spindle_trio.child._async_call import (
    CURRENT,
    QUICK_SECONDS,
    TURN_SECONDS,
    AsyncCall,
    Serving,
    encode_cancelled,
    start_nothing,
)
from spindle_trio.child._calls import NO_CALL, CallContext, CallHandlers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from spindle_trio._model import JsonValue
    from spindle_trio.abc import FrameLane
    from spindle_trio.child._facts import ProcessFacts

CONCURRENCY: Final = 16
"""How many handlers run at a time, unless the entry says otherwise."""

_BATCH_FRAMES: Final = 1024

_LANE_ENDED: Final = (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError)


class AsyncCalls:
    """The calls of one entry."""

    def __init__(
        self,
        make_lane: Callable[[], FrameLane] | None,
        facts: ProcessFacts,
        start_soon: Callable[[Callable[[], Awaitable[object]]], None],
        *,
        report: Callable[[str], None],
        takes_calls: Callable[[], None],
        idle: Callable[[], None],
        exited: Callable[[BaseException], None],
    ) -> None:
        """Begin without handlers, and without reading.

        Args:
            make_lane: makes the calls lane; `None` if there is none, so that no calls come.
            facts: have the bounds, and the protocol.
            start_soon: starts a task.
            report: called with a text when the host sends something that is no call.
            takes_calls: called at the first handler, and when `concurrency` changes after that.
            idle: called when no handler runs any more.
            exited: called when a handler raises `SystemExit`, alone or in a group.
        """
        self.handlers: CallHandlers = CallHandlers(self._begin)
        self._serving = Serving(self.handlers, facts, start_soon, exited)
        self._make_lane = make_lane if facts.protocol > 1 else None
        self._most_bytes = facts.outbox_bytes
        self._start_soon = start_soon
        self._report = report
        self._takes_calls = takes_calls
        self._idle = idle
        self._context = copy_context()
        self._lane: FrameLane | None = None
        self.concurrency: int = CONCURRENCY
        """How many handlers run at a time."""
        self._intake = CallIntake()
        # Calls that were read and wait, in order, and the bytes of their frames; those that a task serves.
        self._waiting: OrderedDict[int, AsyncCall] = OrderedDict()
        self._waiting_bytes = 0
        self._begun: dict[int, AsyncCall] = {}
        # Tasks that serve a call or are about to; how many of them have still to take the first that waits.
        self._running = self._starting = 0
        self._room = trio.lowlevel.ParkingLot()
        self._is_stopping = False

    @property
    def are_taken(self) -> bool:
        """Whether the host may call: there is a handler."""
        return self._lane is not None

    @property
    def is_running(self) -> bool:
        """Whether a handler runs, or its clean-up."""
        return self._running > 0

    def limit(self, concurrency: int) -> None:
        """Run so many handlers at a time; see `ProcessContext.limit_calls`."""
        if type(concurrency) is not int:
            raise TypeError(f"limit_calls() takes an int, not {type(concurrency).__name__}")
        if concurrency < 1:
            raise ValueError(f"limit_calls() takes a number from 1 on, not {concurrency}")
        has_changed, self.concurrency = concurrency != self.concurrency, concurrency
        if has_changed and self.are_taken:
            self._takes_calls()
        self._start_tasks()

    def current(self) -> CallContext:
        """Return the call that the running handler serves; see `ProcessContext.call`."""
        call = CURRENT.get()
        if call is None or call.serving is not self._serving:
            raise LocalProtocolError(NO_CALL)
        return call.context

    # What comes from the host on the control lane, and what becomes of the entry.

    def take_control(self, frame: Mapping[str, JsonValue]) -> None:
        """Take in a `cancel` or a `credit`."""
        call_id, items = frame.get("call"), frame.get("items", 1)
        if type(call_id) is not int or type(items) is not int:
            raise PeerProtocolError("a control frame about a call whose call or items is not an integer")
        if frame.get("type") == "cancel":
            self._cancel(call_id)
        else:
            stream = self._begun.get(call_id) or self._waiting.get(call_id)
            if stream is not None:
                stream.add_credit(items)

    def _cancel(self, call_id: int) -> None:
        """Cancel a call; it still ends with a frame of its own."""
        waiting = self._waiting.pop(call_id, None)
        if waiting is not None:
            self._free(waiting)
            self._serving.send_soon(encode_cancelled(call_id))
            return
        begun = self._begun.get(call_id)
        if begun is not None:
            begun.cancel()
        else:
            self._intake.cancel_early(call_id)

    def stop(self) -> None:
        """Begin no further calls; those that run may finish."""
        self._is_stopping = True

    def retire(self) -> None:
        """Cancel all calls: the entry has ended."""
        self._is_stopping = self._serving.is_over = True
        self._waiting.clear()
        for call in self._begun.values():
            call.cancel()

    async def wait_flushed(self) -> None:
        """Wait until all answers are with the operating system."""
        await self._serving.wait_flushed()

    def close(self) -> None:
        """Let go of what refers back to the entry, and send nothing more."""
        self.retire()
        self._serving.close()
        self._start_soon = start_nothing
        self.handlers = CallHandlers()

    # Reading, and beginning what was read in its order.

    def _begin(self) -> None:
        if self._make_lane is None or self._serving.is_over:
            return
        make_lane, self._make_lane = self._make_lane, None
        self._lane = make_lane()
        self._serving.send_on(self._lane)
        self._start_soon(self._read)
        self._takes_calls()

    async def _read(self) -> None:
        assert self._lane is not None, "it is made before this task"
        try:
            while True:
                self._take(await self._lane.receive(_BATCH_FRAMES))
                await self._serve_waiting()
                while self._waiting_bytes > self._most_bytes:
                    await self._room.park()
        except _LANE_ENDED:
            pass  # the host is gone, and the task that reads the control lane sees to that
        except PeerProtocolError as error:
            self._report(f"the host broke the protocol: {error}")

    def _take(self, bodies: list[bytes]) -> None:
        for body in bodies:
            try:
                call = self._intake.take(body)
            except ValueError as error:
                self._report(f"the host sent a frame that is no call: {error}")
                continue
            if call is None:
                continue  # bytes of it follow
            if call.was_cancelled:
                self._serving.send_soon(encode_cancelled(call.call_id))
            elif not self._serving.is_over:
                self._waiting[call.call_id] = AsyncCall(self._serving, call)
                self._waiting_bytes += call.size

    async def _serve_waiting(self) -> None:
        """Begin what waits, and serve it here if that needs no task."""
        turn_ends = monotonic() + TURN_SECONDS
        while self._can_begin:
            call = next(iter(self._waiting.values()))
            handler = self.handlers.find(call.method)
            if handler is not None and (handler.is_async or handler.is_stream or call.is_stream):
                self._start_task()
                continue
            began = monotonic()
            if handler is not None and not handler.is_quick:
                self._serving.send_joined()
            await self._serve_at_once(self._next())
            ended = monotonic()
            if handler is not None:
                handler.is_quick = ended - began < QUICK_SECONDS
            if ended >= turn_ends:
                await trio.lowlevel.checkpoint()
                turn_ends = monotonic() + TURN_SECONDS

    @property
    def _can_begin(self) -> bool:
        return len(self._waiting) > self._starting and self._running < self.concurrency and not self._is_stopping

    def _start_tasks(self) -> None:
        while self._can_begin:
            self._start_task()

    def _start_task(self) -> None:
        self._running += 1
        self._starting += 1
        self._context.run(self._start_soon, self._serve_next)

    def _next(self) -> AsyncCall:
        call = self._waiting.popitem(last=False)[1]
        self._free(call)
        return call

    def _free(self, call: AsyncCall) -> None:
        self._waiting_bytes -= call.size
        self._room.unpark_all()

    # Serving, and sending.

    async def _serve_at_once(self, call: AsyncCall) -> None:
        """Serve a call of a plain function, here and now."""
        context = self._context.copy()
        body: bytes | Awaitable[object] | None = call.refusal()
        if body is None:
            # In a context of its own, as in a task: what it sets is gone with it.
            body = context.run(call.call_plainly)
        if isinstance(body, bytes):
            await self._serving.send(body, joins=len(self._waiting) > 0)
        elif body is not None:
            # An `async` function in disguise: it is under way, and may have ended the entry.
            self._running += 1
            self._begun[call.call_id] = call
            if self._serving.is_over:
                call.cancel()
            context.run(self._start_soon, partial(self._serve, call, body))

    async def _serve_next(self) -> None:
        """Be the task of the call that has waited longest."""
        await trio.lowlevel.checkpoint_if_cancelled()  # a run that was killed begins nothing
        self._starting -= 1
        if self._waiting and not self._is_stopping:
            call = self._next()
            self._begun[call.call_id] = call
            await self._serve(call)
        else:
            self._end_task()

    async def _serve(self, call: AsyncCall, value: Awaitable[object] | None = None) -> None:
        """Serve a call in a task.

        Args:
            call: the call, which counts as begun.
            value: what a plain function has returned, if it was called already.
        """
        try:
            body = call.refusal() if value is None else None
            if body is None:
                body = await call.run(value)
            del self._begun[call.call_id]
            if body is not None:
                await self._serving.send(body, joins=self._running > 1 or len(self._waiting) > 0)
        finally:
            self._begun.pop(call.call_id, None)
            self._end_task()

    def _end_task(self) -> None:
        self._running -= 1
        self._start_tasks()
        if not self._running:
            self._idle()
