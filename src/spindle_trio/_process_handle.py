"""The handle that users hold on one process, and the block that is a process's life."""

from __future__ import annotations

import math
from contextlib import suppress
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import trio

from spindle_trio._messages._channel import MessageReceiveChannel
from spindle_trio._model import (
    CallRequest,
    JsonValue,
    Overrun,
    ProcessInfo,
    ProcessState,
    ProcessStatistics,
    SpawnOptions,
    StopOptions,
)
from spindle_trio._protocol._call_requests import check_request
from spindle_trio._trio_rules import AsyncBlock, other_thread, uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio._interfaces import ProcessInterface, WorkerInterface
    from spindle_trio._model import PostMortem
    from spindle_trio._model._usage import Usage


@uninterrupted
class ProcessHandle:
    """A worker's handle on one process (`BackendProcessHandle`).

    Everything that waits belongs to Trio's thread, and raises `RuntimeError` in another one.
    """

    def __init__(self, worker: WorkerInterface, process: ProcessInterface) -> None:
        self._worker = worker
        self._process = process
        self._thread = get_ident()

    def __repr__(self) -> str:
        key = "" if self.key is None else f" key={self.key!r}"
        return f"<ProcessHandle {self.state} {self.entry} {self.process_id} pid={self.pid}{key}>"

    @property
    def process_id(self) -> str:
        """The host's id for it, unique within the host."""
        return self._process.process_id

    @property
    def entry(self) -> str:
        """The entry that it runs."""
        return self._process.info.entry

    @property
    def kind(self) -> str:
        """Its label."""
        return self._process.info.kind

    @property
    def key(self) -> str | None:
        """Its key."""
        return self._process.info.key

    @property
    def pid(self) -> int | None:
        """The operating system's number for it; `None` in memory, and at the far end of a stream."""
        return self._process.pid

    @property
    def info(self) -> ProcessInfo:
        """The latest snapshot that this side knows; after the end the last one."""
        return self._process.info

    @property
    def state(self) -> ProcessState:
        """Its state, as far as this side knows."""
        return self._process.state

    @property
    def result(self) -> JsonValue:
        """The result that it completed with; `None` before that."""
        return self._process.result

    @property
    def post_mortem(self) -> PostMortem | None:
        """Explains an end that nobody asked for; set before that end is published.

        `None` while it is live, after it completed, and after a stop, unless that needed a kill or went wrong.
        """
        return self._process.post_mortem

    async def send(self, payload: object) -> None:
        """Send a message, as soon as there is room for it. If cancelled, it was not sent.

        A `Command` takes what its lane carries: nothing; a str for a line of its stdin; or of JSON-RPC a notification,
        ``{"method": …, "params": …}``, or an answer to its request, ``{"id": …, "result": …}`` or
        ``{"id": …, "error": …}``.

        Raises:
            PayloadError: the payload is not JSON-safe, over a limit, or nothing that a command's lane carries; nothing
                was sent.
            trio.BrokenResourceError: the process has ended.
            trio.ClosedResourceError: the worker is closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._worker.is_closed or get_ident() != self._thread:  # here, since a call would cost more than both
            self._refuse("send", "async")
        await self._process.send(payload)

    def send_nowait(self, payload: object) -> None:
        """Send a message, if there is room for it now.

        Raises:
            trio.WouldBlock: there is no room: the process does not read fast enough, or has not been launched yet.
            PayloadError: as in `send`.
            trio.BrokenResourceError: as in `send`.
            trio.ClosedResourceError: as in `send`.
            RuntimeError: it was called from another thread than Trio's; nothing was sent.
        """
        if self._worker.is_closed or get_ident() != self._thread:  # here, since a call would cost more than both
            self._refuse("send_nowait")
        self._process.send_nowait(payload)

    async def call(
        self, method: str, payload: object = None, *, timeout: float = math.inf, overrun: Overrun = "leave"
    ) -> JsonValue:
        """Call a handler in the process, and return its answer; as in ``await handle.call("square", {"n": 3})``.

        The entry registers handlers by ``process.on_call``. Calls are begun in the order in which they are made. A call
        is sent once: nothing repeats it. While much waits for a process that does not read, a call waits for room.

        A `Command` with a lane for JSON-RPC gets the call as a request, with `payload` as its params: a list, a dict or
        `None`. An error that it answers is a `CallFailedError` with its `code`, `text` and `data`. If this is
        cancelled, or its time is over, the program is told by ``notifications/cancelled``, or, with headers, by
        ``$/cancelRequest``.

        Its deadline is the earlier of `timeout` and the deadlines of the cancel scopes around it. The process learns
        how much time is left, and cancels the handler then. If this is cancelled, or its time is over, the process is
        told, and this goes on at once: an async handler is cancelled; a blocking one sees
        ``process.call.is_cancelled``, and gets an exception when it next uses its context. A call that waits for room
        is then never sent.

        Args:
            method: the name of the handler: at most 1024 bytes of UTF-8.
            payload: its argument, JSON-safe.
            timeout: seconds until the call is cancelled, more than 0; `math.inf` for no bound of its own.
            overrun: what becomes of the process if the handler goes on for more than the host's `cancel_grace` after
                the call was cancelled: ``"leave"`` it, or ``"kill"`` it; then it ends as `timed_out`, or as `stopped`
                if it was stopping, and its post-mortem has the stacks of its threads.

        Returns:
            What the handler has returned.

        Raises:
            CallFailedError: the handler raised an exception, or returned what is not JSON-safe; or a program answered
                with an error, or has closed the stream that the call needs.
            CallTimeoutError: `timeout` is over; a `TimeoutError` as well.
            UnknownMethodError: the process has no such handler, or takes no calls.
            ProcessLostError: the process has ended without an answer, or takes no calls any more; says whether the
                handler may have begun.
            CallError: 65 536 calls of this process have not ended.
            PayloadError: `method` or `payload` cannot be sent, or is over a limit; nothing was sent.
            TypeError: `method` is no plain str.
            ValueError: `method` is empty, or `timeout` or `overrun` is out of range.
            trio.ClosedResourceError: the worker is closed.
            RuntimeError: it was called from another thread than Trio's.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._refuse("call", "async")
        request = check_request(CallRequest(method, payload, timeout, overrun))
        return await self._process.calls.call(request)

    def stream(
        self,
        method: str,
        payload: object = None,
        *,
        timeout: float = math.inf,
        window: int = 16,
        overrun: Overrun = "leave",
    ) -> AsyncBlock[MessageReceiveChannel[JsonValue]]:
        """Read what a generator in the process yields, for as long as a block lasts.

        As in ``async with handle.stream("index", {"folder": "."}) as items:`` and, in the block,
        ``async for item in items:``. The channel also has ``receive``, ``receive_nowait`` and ``receive_many``.

        The process may be `window` items ahead of what has been received here; then its generator waits. So a slow
        reader holds up the generator, and nothing else in the process, but for the calls behind it in a blocking entry,
        which serves one at a time. The channel ends when the generator has. What
        else ends the stream is raised by the channel, after the items before it: the errors of `call`. Leaving the
        block cancels the stream if it has not ended, and waits for nothing.

        Args:
            method: the name of the handler, a generator function.
            payload: its argument, JSON-safe.
            timeout: seconds until the stream is cancelled, from entering the block; `math.inf` for no bound of its own.
                As in `call`, the deadlines of the cancel scopes around it count too.
            window: how many items may be under way, from 1 to 65 536.
            overrun: as in `call`.

        Raises:
            CallError: on entering or from the channel, as in `call`, with its subclasses.
            PayloadError: raised here or on entering, as in `call`.
            TypeError: `method` is no plain str.
            ValueError: `method` is empty, or `timeout`, `window` or `overrun` is out of range.
            trio.ClosedResourceError: raised on entering: the worker is closed.
            RuntimeError: it was called from another thread than Trio's.
        """
        if get_ident() != self._thread:
            raise other_thread("stream", "reader")
        request = check_request(CallRequest(method, payload, timeout, overrun, window), is_stream=True)
        return _StreamBlock(self._process, request, self._refuse_closed)

    async def wait_idle(self) -> None:
        """Wait until it has ended every call and stream, or has ended itself. If cancelled, only the waiting ends.

        A call whose caller has gone on, by a timeout or a cancellation, has ended when its handler has given up.
        """
        self._check_thread("wait_idle")
        await self._process.calls.wait_idle()

    async def stop(self, reason: str | None = None, *, grace: float | None = None, keep_key: bool = False) -> None:
        """Stop it, and return when it is gone; see `BackendProcesses.stop`. Does nothing after its end.

        Args:
            reason: shown to the entry's stop handler.
            grace: seconds until it is killed; 0 kills it at once, without asking.
            keep_key: whether its key stays kept for a successor all the same, if its spawn had `keep_key`.

        Raises:
            ValueError: `grace` is not a finite number of seconds, 0 or more.
            trio.ClosedResourceError: the worker is closed.
        """
        await self._stop("stop", StopOptions(reason=reason, grace=grace, keep_key=keep_key))

    async def kill(self) -> None:
        """Kill it at once, also while it is stopping, and return when it is gone. Does nothing after its end.

        Its entry is not asked, and runs no clean-up. It ends as `stopped`. If this is cancelled, only the waiting ends.

        Raises:
            trio.ClosedResourceError: the worker is closed.
        """
        await self._stop("kill", StopOptions(grace=0))

    async def _stop(self, call: str, options: StopOptions) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._refuse(call, "async")
        await self._process.stop(options)

    async def refresh(self) -> ProcessInfo | None:
        """Ask the host for a snapshot; `None` once the process has ended, while `info` keeps the last one."""
        self._check_thread("refresh")
        return await self._worker.get(self.process_id)

    async def usage(self) -> Usage:
        """Look at what it uses now, together with all that it has started. Changes nothing if cancelled.

        What it has used by its end is in `info`: `peak_memory` and `processor_seconds`.

        Returns:
            Its memory in bytes, its processes, and its processor time in seconds; `None` for what is unknown, as for an
            `async` function that a `MemoryLauncher` runs.

        Raises:
            trio.BrokenResourceError: the process has ended.
            trio.ClosedResourceError: the worker is closed.
        """
        self._check_thread("usage")
        return await self._worker.usage(self.process_id)

    def messages(self) -> MessageReceiveChannel[JsonValue]:
        """Open a channel of its messages, from the oldest that is still held; it ends when the process has.

        While it is open nothing is lost, and the process has to wait if you do not read. After the end, and on a closed
        worker, it gives what is still held. Read it one by one, by ``async for``, or in batches, by ``receive_many``.
        """
        if get_ident() != self._thread:
            raise other_thread("messages")
        return self._process.inbox.subscribe()

    async def wait_ended(self) -> ProcessInfo:
        """Wait until the process is gone, and return its last snapshot. If cancelled, only the waiting ends."""
        self._check_thread("wait_ended")
        return await self._process.wait_ended()

    def statistics(self) -> ProcessStatistics:
        """Count what its inbox and outbox hold and have carried."""
        return self._process.statistics()

    def _check_thread(self, call: str, kind: Literal["plain", "async"] = "async") -> None:
        if get_ident() != self._thread:
            raise other_thread(call, kind)

    def _refuse(self, call: str, kind: Literal["plain", "async"] = "plain") -> None:
        self._check_thread(call, kind)
        self._refuse_closed()

    def _refuse_closed(self) -> None:
        if self._worker.is_closed:
            raise trio.ClosedResourceError(f"worker {self._worker.identifier!r} is closed")


@uninterrupted
class _StreamBlock(AsyncBlock[MessageReceiveChannel[JsonValue]]):
    """The block in which a stream is read."""

    typed = "handle.stream"

    def __init__(self, process: ProcessInterface, request: CallRequest, check_open: Callable[[], None]) -> None:
        self._process = process
        self._request = request
        self._check_open = check_open
        self._items: MessageReceiveChannel[JsonValue] | None = None

    async def __aenter__(self) -> MessageReceiveChannel[JsonValue]:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        self._items = await self._process.calls.open_stream(self._request)
        return self._items

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._items is not None, "the block was entered"
        self._items.close()
        await trio.lowlevel.cancel_shielded_checkpoint()


@uninterrupted
class OpenProcess(AsyncBlock[ProcessHandle]):
    """The block that is a process's life."""

    typed = "processes.open"

    def __init__(self, worker: WorkerInterface, options: SpawnOptions) -> None:
        self._worker = worker
        self._options = options
        self._process: ProcessInterface | None = None

    async def __aenter__(self) -> ProcessHandle:
        self._process = await self._worker.spawn(self._options)
        return ProcessHandle(self._worker, self._process)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None, "the block was entered"
        # Bounded: the host kills after its grace period, and abandons what withstands that.
        with trio.CancelScope(shield=True):
            try:
                await self._process.stop(StopOptions())
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                # The host is ending it, or has. Over a lost connection nobody will hear of that.
                with suppress(trio.BrokenResourceError):
                    await self._process.wait_ended()
