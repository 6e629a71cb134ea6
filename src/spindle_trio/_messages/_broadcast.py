"""One publisher, many subscribers, and a publisher that is never held up.

Theory of operation
-------------------

`publish` calls the handlers, in order of registration, and then feeds the channels. A handler may do something that
publishes again (kill the host, say). The second value then waits until every handler and channel has had the first, so
all subscribers see one order.

A channel is a Trio memory channel with a bounded buffer. If it is full, its oldest value is dropped to make room, and
the next `receive` raises `LaggedError`; the one after goes on. The broadcast holds its channels weakly: a channel that
is garbage-collected has no reader.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import attrs
import trio

from spindle_trio._errors import LaggedError
from spindle_trio._trio_rules import uninterrupted

T = TypeVar("T")

_log = logging.getLogger("spindle_trio.subscriptions")


@uninterrupted
class HandlerList(Generic[T]):
    """Plain functions to call with each value: each once, in order of registration, isolated from one another."""

    def __init__(self, what: str, describe: Callable[[T], Mapping[str, object]] | None = None) -> None:
        """Begin with none.

        Args:
            what: names the values in log records.
            describe: makes the attributes of a log record about a value.
        """
        self._what = what
        self._describe = describe
        self._handlers: dict[Callable[[T], object], object] = {}

    def __bool__(self) -> bool:
        return bool(self._handlers)

    def add(self, handler: Callable[[T], object]) -> Callable[[], None]:
        """Register a handler. Registering it twice counts once. Returns a function that unregisters it.

        Raises:
            TypeError: it cannot be called.
        """
        if not callable(handler):
            raise TypeError(f"a handler of {self._what} must be callable, not {type(handler).__name__}")
        registration = self._handlers.setdefault(handler, object())

        @trio.lowlevel.enable_ki_protection
        def unsubscribe() -> None:
            # A later registration of the same function stays.
            if self._handlers.get(handler) is registration:
                del self._handlers[handler]

        return unsubscribe

    def call(self, value: T, process_id: str) -> None:
        """Call each handler. If one raises, even `SystemExit`, that is logged and disturbs nothing.

        An exception that got out of here would end the publishing task, or leave a scope half closed. So everything is
        caught. Ctrl-C is held back meanwhile: it is no handler's exception, and must not count as one.
        """
        for handler, registration in list(self._handlers.items()):
            if self._handlers.get(handler) is not registration:
                continue  # an earlier handler has unregistered it
            try:
                handler(value)
            except BaseException:  # noqa: ASYNC103  # nothing is awaited in a handler
                about = {} if self._describe is None else self._describe(value)
                text = "a handler of %s raised, for process %s: %r"
                _log.exception(text, self._what, process_id, handler, extra=about)


@uninterrupted
class LifecycleChannel(trio.abc.ReceiveChannel[T]):
    """A subscription: the values published since it was opened, in order.

    Ends (`trio.EndOfChannel`) when the publisher closes and all has been received.
    """

    def __init__(self, max_buffer: int) -> None:
        self._send_channel, self._receive_channel = trio.open_memory_channel[T](max_buffer)
        self._missed = 0

    def __repr__(self) -> str:
        statistics = self._receive_channel.statistics()
        return f"<LifecycleChannel waiting={statistics.current_buffer_used} missed={self._missed}>"

    async def receive(self) -> T:
        """Wait for the next value and return it. If cancelled, nothing is lost.

        Raises:
            LaggedError: values were dropped since the last `receive`; the next call goes on.
            trio.EndOfChannel: the publisher has closed, and all has been received.
            trio.ClosedResourceError: this channel was closed.
        """
        if self._missed:
            await trio.lowlevel.checkpoint()
            self._raise_lagged()
        return await self._receive_channel.receive()

    def receive_nowait(self) -> T:
        """Return the next value if there is one.

        Raises:
            trio.WouldBlock: there is none now.
            LaggedError: as in `receive`.
            trio.EndOfChannel: as in `receive`.
            trio.ClosedResourceError: as in `receive`.
        """
        self._raise_lagged()
        return self._receive_channel.receive_nowait()

    def _raise_lagged(self) -> None:
        if self._missed:
            missed, self._missed = self._missed, 0
            raise LaggedError(missed)

    def close(self) -> None:
        """Stop receiving. A task in `receive` gets `trio.ClosedResourceError`. May be called twice."""
        self._missed = 0
        self._receive_channel.close()
        self._send_channel.close()

    async def aclose(self) -> None:
        """Close, and execute a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _feed(self, value: T) -> None:
        try:
            self._send_channel.send_nowait(value)
        except trio.WouldBlock:
            self._receive_channel.receive_nowait()
            self._missed += 1
            self._send_channel.send_nowait(value)
        except trio.ClosedResourceError:
            pass  # closed by its reader, or by a handler that has just been called

    def _end(self) -> None:
        self._send_channel.close()


@attrs.frozen
class _Published(Generic[T]):
    value: T
    process_id: str
    channels: list[LifecycleChannel[T]]
    """Those that were open when it was published."""


@uninterrupted
class Broadcast(Generic[T]):
    """Publishes values to handlers and channels; never waits."""

    def __init__(self, what: str, max_buffer: int, describe: Callable[[T], Mapping[str, object]] | None = None) -> None:
        """Begin with no subscribers.

        Args:
            what: names the values in log records.
            max_buffer: how many values may wait in one channel.
            describe: as for `HandlerList`.
        """
        self._max_buffer = max_buffer
        self._handlers = HandlerList[T](what, describe)
        self._channels: list[weakref.ref[LifecycleChannel[T]]] = []
        self._queue: deque[_Published[T]] = deque()
        self._is_publishing = False
        self._is_closed = False

    def __bool__(self) -> bool:
        """Whether there is a subscriber; without one a publisher need not make the value."""
        return bool(self._handlers) or bool(self._channels)

    def publish(self, value: T, process_id: str) -> None:
        """Give a value to every subscriber: handlers first, then channels. Neither waits nor raises.

        Args:
            value: the value.
            process_id: the process that it is about, for log records.
        """
        self._queue.append(_Published(value, process_id, self._open_channels()))
        if self._is_publishing:
            return
        self._is_publishing = True
        try:
            while self._queue:
                published = self._queue.popleft()
                self._handlers.call(published.value, published.process_id)
                for channel in published.channels:
                    channel._feed(published.value)
        finally:
            self._is_publishing = False

    def subscribe(self) -> LifecycleChannel[T]:
        """Open a channel that receives what is published from now on."""
        channel = LifecycleChannel[T](self._max_buffer)
        if self._is_closed:
            channel._end()
        else:
            self._channels.append(weakref.ref(channel, self._channels.remove))
        return channel

    def add_handler(self, handler: Callable[[T], object]) -> Callable[[], None]:
        """Register a function to call with each value; see `HandlerList.add`."""
        return self._handlers.add(handler)

    def close(self) -> None:
        """End every channel once it has been read, and those opened later at once."""
        self._is_closed = True
        for channel in self._open_channels():
            channel._end()
        self._channels.clear()

    def _open_channels(self) -> list[LifecycleChannel[T]]:
        # Over a copy: a garbage collection meanwhile removes items from the list.
        return [channel for reference in tuple(self._channels) if (channel := reference()) is not None]
