"""A service as its users hold it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

from spindle_trio._messages._channel import MessageReceiveChannel
from spindle_trio._model import JsonValue, StopOptions
from spindle_trio._services._deadline import deadline_from, seconds_left
from spindle_trio._trio_rules import AsyncBlock, other_thread, uninterrupted

if TYPE_CHECKING:
    from spindle_trio._messages._broadcast import LifecycleChannel
    from spindle_trio._model import Overrun
    from spindle_trio._process_handle import ProcessHandle
    from spindle_trio._services._status import ServiceState, Status
    from spindle_trio._services._values import ServiceEvent, ServiceMessage


class ServiceControls(Protocol):
    """What keeps a service."""

    async def restart(self, reason: str | None) -> None:
        """Put a new generation in the place of the current one, and return when it runs; see `Service.restart`."""

    async def stop(self, reason: str | None, grace: float | None) -> None:
        """Stop it for good, and return when it is gone; see `Service.stop`."""


@uninterrupted
class Service:
    """A process that is followed by another when it ends; see `open_service`.

    Each method called from another thread than Trio's raises `RuntimeError`.
    """

    def __init__(self, status: Status, controls: ServiceControls) -> None:
        self._status = status
        self._controls = controls
        self._thread = get_ident()

    def __repr__(self) -> str:
        process = "" if self.process is None else f" {self.process.process_id}"
        key = "" if self._status.unit.settings.key is None else f" key={self._status.unit.settings.key!r}"
        return (
            f"<Service {self.state} {self.entry}{process}{key} generation={self.generation} failures={self.failures}>"
        )

    @property
    def entry(self) -> str:
        """The entry that its processes run."""
        return self._status.unit.settings.entry_name

    @property
    def process(self) -> ProcessHandle | None:
        """The process, if it runs and `on_start` has returned; `None` between two, and when the service is over."""
        return self._status.process

    @property
    def generation(self) -> int:
        """The number of the process that was started last, or is being started: 1 for the first."""
        return self._status.unit.generation

    @property
    def state(self) -> ServiceState:
        """``"starting"``, ``"running"``, ``"waiting"`` for the next start, ``"stopped"`` or ``"gave_up"``.

        A process that is being put out for a new one counts as starting. The last two are final.
        """
        return self._status.state

    @property
    def restart_at(self) -> float | None:
        """When the next start begins, in the time of `trio.current_time`; `None` unless it waits for that."""
        return self._status.restart_at

    @property
    def failures(self) -> int:
        """Failures in a row, as the policy counts them at each end; in a group, of all its services."""
        return self._status.failures

    async def wait_running(self) -> ProcessHandle:
        """Wait until there is a process that runs and for which `on_start` has returned, and return its handle.

        If it is cancelled, only the waiting ends.

        Raises:
            ServiceGaveUpError: the service has given up.
            trio.ClosedResourceError: the service is stopped; the text says why.
            trio.BrokenResourceError: the connection to the host is lost.
        """
        self._refuse_thread("wait_running", "async")
        return await self._status.wait_running()

    async def call(
        self, method: str, payload: object = None, *, timeout: float = math.inf, overrun: Overrun = "leave"
    ) -> JsonValue:
        """Call a handler in the process, as soon as it runs, and return its answer; see `ProcessHandle.call`.

        A call is never repeated: if its process ends, that is raised. If it is cancelled while it waits for a process,
        nothing was called.

        Args:
            method: the name that the entry has given to the handler.
            payload: a JSON-safe value. It is read when there is a process: leave it as it is until then.
            timeout: seconds until the call is cancelled; the wait for a process counts.
            overrun: as for `ProcessHandle.call`.

        Raises:
            CallTimeoutError: no answer within `timeout`. Its text says so if the call waited for a process only.
            ServiceGaveUpError: as in `wait_running`.
            trio.ClosedResourceError: as in `wait_running`.
            trio.BrokenResourceError: as in `wait_running`.
            ValueError: `timeout` or `overrun` is out of range.
            Exception: everything else that `ProcessHandle.call` raises.
        """
        self._refuse_thread("call", "async")
        deadline = deadline_from(timeout)
        process = await self._status.wait_until(deadline, f"the call of {method!r}")
        return await process.call(method, payload, timeout=seconds_left(deadline), overrun=overrun)

    def stream(
        self,
        method: str,
        payload: object = None,
        *,
        timeout: float = math.inf,
        window: int = 16,
        overrun: Overrun = "leave",
    ) -> AbstractAsyncContextManager[MessageReceiveChannel[JsonValue]]:
        """Open a stream from a generator in the process, as soon as it runs; see `ProcessHandle.stream`.

        As in ``async with service.stream("index") as items: async for item in items: …``. Entering waits for a process,
        as `call` does and with the same errors. A stream ends with its process.

        Args:
            method: the name that the entry has given to the generator.
            payload: as for `call`.
            timeout: seconds for the whole stream, from entering; the wait for a process counts.
            window: how many items may be under way.
            overrun: as for `call`.
        """
        self._refuse_thread("stream", "reader")
        return _StreamBlock(self._status, method, payload, timeout, window, overrun)

    async def send(self, payload: object) -> None:
        """Send a message to the process, as soon as it runs and there is room; see `ProcessHandle.send`.

        If it is cancelled, nothing was sent. A message is not repeated: what a process has not read ends with it.

        Args:
            payload: a JSON-safe value.

        Raises:
            ServiceGaveUpError: as in `wait_running`.
            trio.ClosedResourceError: as in `wait_running`.
            trio.BrokenResourceError: as in `wait_running`, or the process ended while this waited for room.
            PayloadError: the payload is not JSON-safe, or over a limit; nothing was sent.
        """
        self._refuse_thread("send", "async")
        process = await self._status.wait_running()
        await process.send(payload)

    async def restart(self, reason: str | None = None) -> None:
        """Put a new process in the place of the current one, gracefully, and return when the new one runs.

        It counts as no failure. While the service waits for a delayed start, that begins now. While a process is being
        started, it is put out once it runs. Several at once are served by one. A stop beats it. If it is cancelled,
        only the waiting ends.

        Args:
            reason: shown to the stop handler of the old process.

        Raises:
            TypeError: `reason` is no str.
            ServiceGaveUpError: as in `wait_running`.
            trio.ClosedResourceError: as in `wait_running`.
            trio.BrokenResourceError: as in `wait_running`.
        """
        self._refuse_thread("restart", "async")
        await self._controls.restart(StopOptions(reason=reason).reason)

    async def stop(self, reason: str | None = None, *, grace: float | None = None) -> None:
        """Stop it for good, and return when its process is gone. Does nothing if it is over.

        No start follows, whatever is pending; the block goes on. A process that is still starting is killed at once;
        at the far end of a stream, and without a key, this returns at once, and the host stops it once it is ready.
        If this is cancelled, only the waiting ends.

        Args:
            reason: shown to the process's stop handler, and to those who wait for the service.
            grace: seconds until the process is killed; 0 kills it at once. By default its grace period. A second call
                can shorten it.

        Raises:
            TypeError: `reason` is no str.
            ValueError: `grace` is not a finite number of seconds, 0 or more.
        """
        self._refuse_thread("stop", "async")
        options = StopOptions(reason=reason, grace=grace)
        await self._controls.stop(options.reason, options.grace)

    def events(self) -> LifecycleChannel[ServiceEvent]:
        """Open a channel of what happens to it, from now on; it ends when the service is over.

        It never holds up the service: a slow reader loses the oldest events, and gets `LaggedError` once.
        """
        self._refuse_thread("events", "reader")
        return self._status.events.subscribe()

    def on_event(self, handler: Callable[[ServiceEvent], object]) -> Callable[[], None]:
        """Call a plain function with each event, before any channel has it; see `BackendProcesses.on_lifecycle`.

        Args:
            handler: must not wait. One that raises is logged; a function registered twice counts once.

        Returns:
            A function that unsubscribes it; may be called twice.

        Raises:
            TypeError: it cannot be called.
        """
        self._refuse_thread("on_event", "plain")
        return self._status.events.add_handler(handler)

    def messages(self) -> MessageReceiveChannel[ServiceMessage]:
        """Open a channel of the messages of its processes, one generation after another; see `ProcessHandle.messages`.

        It begins with the oldest message held of the current process, or of the last one. While it is open nothing is
        lost, and a process has to wait if you do not read. A process that is started meanwhile is read after the ones
        before it. Of processes that have ended, the messages of 16 are kept; older ones are dropped, and the reader
        gets `LaggedError`, which counts them. The channel ends when the service is over.
        """
        self._refuse_thread("messages", "reader")
        return self._status.messages.subscribe()

    def _refuse_thread(self, call: str, kind: Literal["plain", "async", "reader"]) -> None:
        if get_ident() != self._thread:
            raise other_thread(call, kind)


@uninterrupted
class _StreamBlock(AsyncBlock["MessageReceiveChannel[JsonValue]"]):
    """A stream from the process that runs when the block is entered."""

    typed = "service.stream"

    def __init__(
        self, status: Status, method: str, payload: object, timeout: float, window: int, overrun: Overrun
    ) -> None:
        deadline_from(timeout)
        self._status = status
        self._method = method
        self._payload = payload
        self._timeout = timeout
        self._window = window
        self._overrun: Overrun = overrun

    async def __aenter__(self) -> MessageReceiveChannel[JsonValue]:
        deadline = deadline_from(self._timeout)
        process = await self._status.wait_until(deadline, f"the stream of {self._method!r}")
        self._block = process.stream(
            self._method, self._payload, timeout=seconds_left(deadline), window=self._window, overrun=self._overrun
        )
        return await self._block.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._block.__aexit__(kind, error, traceback)  # noqa: ASYNC102  # bounded there: it waits for nothing of the process
