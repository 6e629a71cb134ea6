"""One call of an `async` entry, and how its handler is run: an answer or a stream, within the call's scope."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator, Awaitable
from contextvars import ContextVar
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

import trio

from spindle_trio._protocol._call_frames import ITEM, encode_end, encode_failure
from spindle_trio._protocol._outbox import Outbox
from spindle_trio.child._calls import (
    CallCancelled,
    CallContext,
    CallHandlers,
    encode_value,
    failure_of,
    is_generator,
    no_generator,
)
from spindle_trio.child._exit_frames import members_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import TypeAlias

    from spindle_trio._protocol._call_frames import IncomingCall
    from spindle_trio.abc import FrameLane
    from spindle_trio.child._facts import ProcessFacts

    AnyGenerator: TypeAlias = AsyncGenerator[object, None] | Generator[object, None, None]

TURN_SECONDS: Final = 0.005
"""How long plain functions and generators may run, one after another, before other tasks have their turn."""

QUICK_SECONDS: Final = 0.0002
"""How long a function or a generator may have run the last time, so that what was to be sent before may wait for it."""

_QUICK_ITEMS: Final = 16
"""How many items of a stream in a row leave one by one before the next ones leave together."""


class Serving:
    """What the calls of one entry share: the handlers, the facts, and the way to the host."""

    def __init__(
        self,
        handlers: CallHandlers,
        facts: ProcessFacts,
        start_soon: Callable[[Callable[[], Awaitable[object]]], None],
        exited: Callable[[BaseException], None],
    ) -> None:
        """Begin without a lane; see `AsyncCalls` for the arguments."""
        self.handlers: CallHandlers = handlers
        self.facts: ProcessFacts = facts
        self.exited: Callable[[BaseException], None] = exited
        self.is_over: bool = False
        """Whether the entry has ended, so that nobody is told of calls that this cancels."""
        self._start_soon = start_soon
        self._out: Outbox | None = None
        self._pid = os.getpid()

    def end_if_copy(self) -> None:
        """End a forked copy of this process that has left a handler: it shares the epoll instance of the Trio run."""
        if os.getpid() != self._pid:
            os._exit(1)

    def send_on(self, lane: FrameLane) -> None:
        """Send on this lane from now on."""
        self._out = Outbox(lane, self._start_soon, self.facts.outbox_bytes, in_a_row=1)

    async def send(self, body: bytes, *, joins: bool) -> None:
        """Send a frame as soon as there is room for it.

        Args:
            body: the frame's.
            joins: whether more are likely to follow before other tasks have had their turn.
        """
        self.end_if_copy()
        try:
            try:
                self._outbox.send_nowait(body, joins=joins)
                return
            except trio.WouldBlock:
                pass
            await self._outbox.send(body)
        except trio.BrokenResourceError:
            pass  # the host is gone, and the task that reads the control lane sees to that

    def send_soon(self, body: bytes) -> None:
        """Send a frame now, or by a task of its own."""
        try:
            self._outbox.send_nowait(body, joins=True)
        except trio.WouldBlock:
            self._start_soon(partial(self.send, body, joins=True))
        except trio.BrokenResourceError:
            pass  # as above

    @property
    def _outbox(self) -> Outbox:
        assert self._out is not None, "it is made before the first call is read"
        return self._out

    def send_joined(self) -> None:
        """Send now what waits to be joined with more."""
        self._outbox.send_joined()

    async def wait_flushed(self) -> None:
        """Wait until all frames are with the operating system."""
        if self._out is not None:
            await self._out.wait_flushed()

    def close(self) -> None:
        """Send nothing more, and let go of what refers back to the entry."""
        if self._out is not None:
            self._out.close()
        self._start_soon = start_nothing
        self.handlers = CallHandlers()


class AsyncCall:
    """A call that was read and has not ended."""

    __slots__ = (
        "_context",
        "_credit",
        "_credited",
        "_ends_at",
        "_incoming",
        "_is_told",
        "_scope",
        "call_id",
        "method",
        "serving",
        "size",
    )

    def __init__(self, serving: Serving, incoming: IncomingCall) -> None:
        """Begin to wait; the time that is left for the call runs from now on.

        Args:
            serving: what all calls share.
            incoming: what the host asks for.
        """
        self.serving: Serving = serving
        self.call_id: int = incoming.call_id
        self.method: str = incoming.method
        self.size: int = incoming.size
        self._incoming = incoming
        self._credit = incoming.window or 0  # how many items it may still send
        self._credited: trio.Event | None = None
        seconds = math.inf if incoming.seconds is None else incoming.seconds
        self._scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        # What the scope knows, for other threads, which have no Trio.
        self._is_told = False
        self._ends_at = monotonic() + seconds
        self._context: CallContext | None = None

    @property
    def is_stream(self) -> bool:
        """Whether its caller reads a stream."""
        return self._incoming.window is not None

    @property
    def context(self) -> CallContext:
        """What `process.call` shows of it."""
        if self._context is None:
            self._context = CallContext(self.method, self._scope.deadline, self.is_cancelled)
        return self._context

    def is_cancelled(self) -> bool:
        """Whether its caller has given up, or its time is over; for any thread."""
        try:
            return self._scope.cancel_called
        except RuntimeError:
            return self._is_told or monotonic() >= self._ends_at

    def cancel(self) -> None:
        """Cancel its handler."""
        self._is_told = True
        self._scope.cancel()

    def add_credit(self, items: int) -> None:
        """Let it send so many items more."""
        self._credit += items
        if self._credited is not None:
            self._credited.set()

    def refusal(self) -> bytes | None:
        """Return the frame that ends it if no handler is to serve it."""
        if self.is_cancelled():
            return encode_cancelled(self.call_id)
        refusal = self.serving.handlers.refusal_of(self._incoming, self.serving.facts)
        return None if refusal is None else encode_failure(self.call_id, refusal)

    def call_plainly(self) -> bytes | Awaitable[object] | None:
        """Call a plain function here and now, and return the last frame; or what it has returned, to be awaited."""
        CURRENT.set(self)
        try:
            value = self._invoke()
            return value if isinstance(value, Awaitable) else encode_value(self.call_id, value, self.serving.facts)
        except BaseException as error:  # noqa: ASYNC103  # nothing is awaited in here
            return self._last_frame(error)  # noqa: ASYNC104  # as above

    async def run(self, value: Awaitable[object] | None = None) -> bytes | None:
        """Run its handler to the end, and return the last frame; `None` if nobody is to be told.

        Args:
            value: what a plain function has returned, if it was called already.
        """
        CURRENT.set(self)
        try:
            with self._scope:
                return await (self._stream() if self.is_stream else self._answer(value))
        except BaseException as error:  # noqa: ASYNC103  # what a handler raises is data; the next lines see to the rest
            if isinstance(error, trio.Cancelled) and trio.current_effective_deadline() == -math.inf:
                raise
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102  # raises, or returns at once
            return self._last_frame(error)  # noqa: ASYNC104  # as above
        return None if self.serving.is_over else encode_cancelled(self.call_id)

    async def _answer(self, value: object) -> bytes:
        if value is None:
            value = self._invoke()
        if isinstance(value, Awaitable):
            value = await value
        return encode_value(self.call_id, value, self.serving.facts)

    async def _stream(self) -> bytes:
        value = self._invoke()
        if isinstance(value, Awaitable):
            value = await value
        if not is_generator(value):
            return encode_failure(self.call_id, no_generator(self.method, self.serving.facts))
        generator = cast("AnyGenerator", value)
        turn_ends = monotonic() + TURN_SECONDS
        quick = 0  # items in a row that took next to no time
        try:
            while True:
                # Only then the generator goes on: it works for no reader that has stopped.
                while self._credit < 1:
                    self._credited = trio.Event()
                    await self._credited.wait()
                began = monotonic()
                try:
                    item = await anext(generator) if isinstance(generator, AsyncGenerator) else next(generator)
                except (StopIteration, StopAsyncIteration):
                    return encode_end(self.call_id)
                body = encode_value(self.call_id, item, self.serving.facts, is_item=True)
                if not body.startswith(ITEM):
                    return body
                self._credit -= 1
                # A joined item would wait for a generator that stops to think.
                await self.serving.send(body, joins=quick > _QUICK_ITEMS)
                ended = monotonic()
                quick = quick + 1 if ended - began < QUICK_SECONDS else 0
                if ended >= turn_ends:
                    await trio.lowlevel.checkpoint()
                    turn_ends = monotonic() + TURN_SECONDS
        finally:
            # In the call's scope, as any `finally` of a handler.
            if isinstance(generator, AsyncGenerator):
                await generator.aclose()  # noqa: ASYNC102  # as above
            else:
                generator.close()

    def _invoke(self) -> object:
        handler = self.serving.handlers.find(self.method)
        assert handler is not None, "it was looked up before"
        return handler.function(self._incoming.payload)  # type: ignore[arg-type]  # the entry says what it takes

    def _last_frame(self, error: BaseException) -> bytes | None:
        """Return the frame for what a handler has raised; `None` if that ends the entry."""
        self.serving.end_if_copy()
        if _consists_of(error, SystemExit):
            self.serving.exited(error)
            return None
        if self.is_cancelled() and _consists_of(error, CallCancelled):
            return encode_cancelled(self.call_id)
        return encode_failure(self.call_id, failure_of(error, self.serving.facts))


CURRENT: Final[ContextVar[AsyncCall | None]] = ContextVar("spindle_trio_call", default=None)
"""The call that a handler serves. In memory that may run the entry of another process: hence `AsyncCall.serving`."""


def start_nothing(_: Callable[[], Awaitable[object]]) -> None:
    """Start no task: the entry has ended."""


def encode_cancelled(call_id: int) -> bytes:
    """Write the last frame of a call that was cancelled."""
    return encode_failure(call_id, {"cancelled": True})


def _consists_of(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether an exception is of a kind, or a group of nothing else."""
    try:
        return all(isinstance(member, kind) for member in members_of(error))
    except BaseException:  # noqa: ASYNC103  # no Trio runs in what the class of a group may define
        return False  # noqa: ASYNC104  # as above
