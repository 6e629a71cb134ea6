"""The interfaces below the worker API. The host implements them for workers in its program, a connection for others.

`_worker` uses only these protocols, so a worker behaves alike on both sides of a stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from spindle_trio._messages._broadcast import Broadcast
    from spindle_trio._messages._channel import MessageReceiveChannel
    from spindle_trio._messages._hub import MessageHub
    from spindle_trio._messages._inbox import Inbox
    from spindle_trio._model import (
        CallRequest,
        JsonValue,
        LifecycleEvent,
        PostMortem,
        ProcessFilter,
        ProcessInfo,
        ProcessState,
        ProcessStatistics,
        SpawnOptions,
        StopOptions,
    )
    from spindle_trio._model._usage import Usage


class CallsInterface(Protocol):
    """The calls of one process."""

    async def call(self, request: CallRequest) -> JsonValue:
        """Call a handler and return its answer; see `ProcessHandle.call`."""

    async def open_stream(self, request: CallRequest) -> MessageReceiveChannel[JsonValue]:
        """Begin a stream; see `ProcessHandle.stream`. Closing the channel cancels it."""

    async def wait_idle(self) -> None:
        """Wait until the process has ended every call, also those whose callers have gone on, or has ended itself.

        A pool gives no call to a process before that. At once where there is none; if cancelled, only the waiting ends.
        """


class RelayedStream(Protocol):
    """A stream that is passed on to a reader elsewhere: items are taken at once, and credit comes from there."""

    async def receive_many(self, most: int | None = None) -> list[JsonValue]:
        """Wait for items and return all that are there; see `MessageReceiveChannel.receive_many`."""

    def grant(self, items: int) -> None:
        """Let the process send so many items more, but no more than the window in all."""

    def close(self) -> None:
        """Cancel the stream, unless it has ended."""


class RelayedCalls(CallsInterface, Protocol):
    """The calls of one process, also for a reader at the other end of a connection."""

    async def relay_stream(self, request: CallRequest) -> RelayedStream:
        """Begin a stream whose credit comes from elsewhere."""


class ProcessInterface(Protocol):
    """One process, as its handle sees it. It still works after the process has ended."""

    @property
    def process_id(self) -> str:
        """The host's id for it."""

    @property
    def pid(self) -> int | None:
        """The operating system's pid for it; `None` if it has none or lives elsewhere."""

    @property
    def info(self) -> ProcessInfo:
        """The latest snapshot on this side."""

    @property
    def state(self) -> ProcessState:
        """As `info.state`, without building a snapshot."""

    @property
    def result(self) -> JsonValue:
        """The result of the process; `None` before it has completed."""

    @property
    def post_mortem(self) -> PostMortem | None:
        """Explains its end, if nobody asked for that; `None` before."""

    @property
    def inbox(self) -> Inbox:
        """The messages that it has sent."""

    @property
    def calls(self) -> CallsInterface:
        """Calls its handlers."""

    async def send(self, payload: object) -> None:
        """Send a payload as soon as there is room; see `ProcessHandle.send`."""

    def send_nowait(self, payload: object) -> None:
        """Send a payload if there is room; see `ProcessHandle.send_nowait`."""

    async def stop(self, options: StopOptions) -> None:
        """Ask it to stop, and wait until it is gone; see `ProcessHandle.stop`."""

    async def wait_ended(self) -> ProcessInfo:
        """Wait for the terminal event to be published."""

    def statistics(self) -> ProcessStatistics:
        """Count what its lanes hold."""


class WorkerInterface(Protocol):
    """A worker's way to its host."""

    @property
    def identifier(self) -> str:
        """The worker's name."""

    @property
    def is_local(self) -> bool:
        """Whether its host is in this program."""

    @property
    def user_id(self) -> str | None:
        """The user to whom the worker is bound; `None` for an operator-scoped one."""

    @property
    def lifecycle(self) -> Broadcast[LifecycleEvent]:
        """The transitions of this worker's processes."""

    @property
    def hub(self) -> MessageHub:
        """The messages of this worker's processes."""

    @property
    def is_closed(self) -> bool:
        """Whether the worker's scope has been left or its connection lost."""

    async def spawn(self, options: SpawnOptions) -> ProcessInterface:
        """Spawn and wait for ready; see `BackendProcesses.spawn`."""

    async def list(self, wanted: ProcessFilter) -> list[ProcessInfo]:
        """List live processes; see `BackendProcesses.list`."""

    async def get(self, process_id: str) -> ProcessInfo | None:
        """Look one up; see `BackendProcesses.get`."""

    async def usage(self, process_id: str) -> Usage:
        """Look at what one uses now; see `ProcessHandle.usage`."""

    async def stop(self, process_id: str, options: StopOptions) -> None:
        """Stop one and wait until it is gone; see `BackendProcesses.stop`."""

    async def release_key(self, process_id: str, user_id: str | None) -> None:
        """Give up a kept key; see `BackendProcesses.release_key`."""

    async def send(self, process_id: str, payload: object, user_id: str | None) -> None:
        """Send to one; see `BackendProcesses.send`."""


class ServingInterface(WorkerInterface, Protocol):
    """Further calls of the host for a worker at the other end of a connection. None of them waits."""

    def request_stop(self, process_id: str, options: StopOptions, *, is_unwanted: bool = False) -> object:
        """Ask for a stop and return at once, with `stopping` published. Does nothing for an ended or unknown id.

        Args:
            process_id: which process.
            options: how.
            is_unwanted: whether its spawn was cancelled, so that a key that it took over is given back.

        Raises:
            ProcessAccessError: the process belongs to another user than the one named.
            PayloadError: the reason is over its limit.
            trio.ClosedResourceError: the worker is closed.
        """

    def give_up_key(self, process_id: str, user_id: str | None) -> object:
        """Give up a kept key, and return at once.

        Raises:
            ProcessAccessError: the process belonged to another user than the one named.
            trio.ClosedResourceError: the worker is closed.
        """

    def post(self, process_id: str, payload: JsonValue, user_id: str | None) -> None:
        """Put a payload into a process's outbox; if there is no room, that process ends as failed.

        Raises:
            PayloadError: it is not JSON-safe or is over a limit.
            ProcessAccessError: the process belongs to another user than the one named.
            trio.BrokenResourceError: the process has ended, takes no more messages, or never existed.
        """

    def find_calls(self, process_id: str, user_id: str | None) -> RelayedCalls:
        """Look up a process for a call or a stream.

        Raises:
            ProcessAccessError: the process belongs to another user than the one named.
            trio.BrokenResourceError: the process has ended, or never existed.
            trio.ClosedResourceError: the worker is closed.
        """
