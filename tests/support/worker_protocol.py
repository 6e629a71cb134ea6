"""Shared by the tests of the worker protocol: a channel in memory, and a host that does what the test says."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import attrs
import trio
import trio.testing

from spindle_trio._errors import ProcessAccessError, SpindleError
from spindle_trio._messages._broadcast import Broadcast
from spindle_trio._messages._channel import MessageReceiveChannel
from spindle_trio._messages._hub import MessageHub
from spindle_trio._messages._inbox import Inbox
from spindle_trio._model import (
    CallRequest,
    ExitReason,
    JsonValue,
    LifecycleEvent,
    ProcessFilter,
    ProcessInfo,
    ProcessState,
    ProcessStatistics,
    SpawnOptions,
    StopOptions,
)
from spindle_trio._worker_protocol import WireMessage

T = TypeVar("T")

AT = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class MemoryEnd(trio.abc.Channel[WireMessage]):
    """One end of a channel in memory, which carries values as they are."""

    def __init__(
        self, sending: trio.MemorySendChannel[WireMessage], receiving: trio.MemoryReceiveChannel[WireMessage]
    ) -> None:
        self.sending, self.receiving = sending, receiving

    async def send(self, value: WireMessage) -> None:
        await self.sending.send(value)

    async def receive(self) -> WireMessage:
        return await self.receiving.receive()

    async def aclose(self) -> None:
        await self.sending.aclose()
        await self.receiving.aclose()


def memory_ends(buffer: float = math.inf) -> tuple[MemoryEnd, MemoryEnd]:
    """Make a channel in memory; each way holds as many values as `buffer` says."""
    down_send, down_receive = trio.open_memory_channel[WireMessage](buffer)
    up_send, up_receive = trio.open_memory_channel[WireMessage](buffer)
    return MemoryEnd(down_send, up_receive), MemoryEnd(up_send, down_receive)


class PlayedEnd:
    """One end of a channel in memory, which says what the test says."""

    def __init__(self, end: MemoryEnd) -> None:
        self.end = end

    async def hear(self) -> Any:
        with trio.fail_after(5):
            return await self.end.receive()

    async def hears_nothing(self) -> bool:
        await trio.testing.wait_all_tasks_blocked()
        return self.end.receiving.statistics().current_buffer_used == 0

    async def say(self, *values: object) -> None:
        for value in values:
            await self.end.sending.send(value)  # type: ignore[arg-type]  # nonsense is part of the tests
        await trio.testing.wait_all_tasks_blocked()


class FakeStream:
    """A stream whose items and end the test gives; says what credit it was granted."""

    def __init__(self) -> None:
        self._give, self._items = trio.open_memory_channel[JsonValue](math.inf)
        self.granted: list[int] = []
        self.error: Exception | None = None
        self.is_closed = False

    def say(self, *items: JsonValue) -> None:
        for item in items:
            self._give.send_nowait(item)

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self._give.close()

    async def receive_many(self, most: int | None = None) -> list[JsonValue]:
        try:
            return [await self._items.receive()]
        except trio.EndOfChannel:
            raise self.error or trio.EndOfChannel from None

    def grant(self, items: int) -> None:
        self.granted.append(items)

    def close(self) -> None:
        self.is_closed = True


class FakeCall:
    """A call that the test answers."""

    def __init__(self, request: CallRequest) -> None:
        self.request = request
        self.stream = FakeStream()
        self.is_cancelled = False
        self._outcome: JsonValue | Exception = None
        self._done = trio.Event()

    def answer(self, outcome: JsonValue | Exception) -> None:
        self._outcome = outcome
        self._done.set()

    async def wait(self) -> JsonValue:
        try:
            await self._done.wait()
        except trio.Cancelled:
            self.is_cancelled = True
            raise
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class FakeCalls:
    """The calls of one process."""

    def __init__(self) -> None:
        self.asked: list[FakeCall] = []

    async def call(self, request: CallRequest) -> JsonValue:
        self.asked.append(FakeCall(request))
        return await self.asked[-1].wait()

    async def open_stream(self, request: CallRequest) -> MessageReceiveChannel[JsonValue]:
        raise NotImplementedError

    async def relay_stream(self, request: CallRequest) -> FakeStream:
        call = FakeCall(request)
        self.asked.append(call)
        await trio.lowlevel.checkpoint()
        return call.stream


@attrs.define(eq=False)
class FakeProcess:
    """A process that does nothing by itself."""

    info: ProcessInfo
    inbox: Inbox
    pid: int | None = None
    result: JsonValue = None
    calls: FakeCalls = attrs.field(factory=FakeCalls)

    @property
    def process_id(self) -> str:
        return self.info.process_id

    @property
    def state(self) -> ProcessState:
        return self.info.state

    async def send(self, payload: object) -> None:
        raise NotImplementedError

    def send_nowait(self, payload: object) -> None:
        raise NotImplementedError

    async def wait_ended(self) -> ProcessInfo:
        raise NotImplementedError

    def statistics(self) -> ProcessStatistics:
        raise NotImplementedError


class FakeHost:
    """One worker's host, which does nothing by itself: the test lets processes start, run, speak and end."""

    INFO = ProcessInfo("p1", "a.py", "a.py", ProcessState.RUNNING, AT)
    identifier = "fake"
    user_id = "ada"
    is_closed = False

    def __init__(self) -> None:
        self.lifecycle = Broadcast[LifecycleEvent]("lifecycle events", 100)
        self.hub = MessageHub()
        self.processes: dict[str, FakeProcess] = {}
        self.spawned: list[SpawnOptions] = []
        self.posted: list[tuple[str, object, str | None]] = []
        self.stopped: list[tuple[str, StopOptions]] = []
        self.unwanted: list[tuple[str, StopOptions]] = []
        self.released: list[tuple[str, str | None]] = []
        self.ready = trio.Event()
        self.refusal: SpindleError | None = None
        self.post_refusal: Exception | None = None
        self.unloaded = False
        self.calls_end_with: Exception | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[FakeHost]:
        """Be the worker's scope."""
        try:
            yield self
        finally:
            self.unload()

    def unload(self) -> None:
        """End everything, as leaving the scope does."""
        self.unloaded = True
        for process in self.processes.values():
            for call in process.calls.asked:
                if self.calls_end_with is not None:
                    call.answer(self.calls_end_with)
        self.refusal = self.refusal or ProcessAccessError("unloaded")
        self.ready.set()
        for process_id, process in self.processes.items():
            if not process.state.is_terminal:
                self.move(process_id, ProcessState.STOPPED, ExitReason.BACKEND_UNLOADED)
        self.hub.close()
        self.lifecycle.close()

    def start(self, process_id: str, entry: str = "a.py") -> None:
        """Let a process begin."""
        info = ProcessInfo(process_id, entry, entry, ProcessState.STARTING, AT)
        inbox = Inbox(process_id, "ada", max_messages=3, max_bytes=10_000, hub=self.hub)
        self.processes[process_id] = FakeProcess(info, inbox)
        self.lifecycle.publish(LifecycleEvent(process_id, entry, entry, ProcessState.STARTING, AT), process_id)

    def move(
        self, process_id: str, state: ProcessState, reason: ExitReason | None = None, result: JsonValue = None
    ) -> None:
        """Let a process change its state."""
        process = self.processes[process_id]
        previous, process.info = process.state, attrs.evolve(process.info, state=state)
        event = LifecycleEvent(
            process_id,
            process.info.entry,
            process.info.kind,
            state,
            AT,
            previous_state=previous,
            exit_reason=reason,
            result=result,
        )
        if state.is_terminal:
            process.inbox.close()
        self.lifecycle.publish(event, process_id)

    def say(self, process_id: str, *payloads: JsonValue) -> None:
        """Let a process send messages."""
        for payload in payloads:
            self.processes[process_id].inbox.put(payload, 10)

    async def spawn(self, options: SpawnOptions) -> FakeProcess:
        self.spawned.append(options)
        process_id = f"p{len(self.spawned)}"
        self.start(process_id, options.entry)
        await self.ready.wait()
        if self.refusal is not None:
            raise self.refusal
        self.move(process_id, ProcessState.RUNNING)
        return self.processes[process_id]

    async def list(self, wanted: ProcessFilter) -> list[ProcessInfo]:
        await trio.lowlevel.checkpoint()
        return [process.info for process in self.processes.values() if not process.state.is_terminal]

    async def get(self, process_id: str) -> ProcessInfo | None:
        await trio.lowlevel.checkpoint()
        process = self.processes.get(process_id)
        return None if process is None or process.state.is_terminal else process.info

    async def stop(self, process_id: str, options: StopOptions) -> None:
        raise NotImplementedError

    async def send(self, process_id: str, payload: object, user_id: str | None) -> None:
        raise NotImplementedError

    def request_stop(self, process_id: str, options: StopOptions, *, is_unwanted: bool = False) -> None:
        (self.unwanted if is_unwanted else self.stopped).append((process_id, options))
        if options.user_id == "eve":
            raise ProcessAccessError("not yours")
        self.move(process_id, ProcessState.STOPPING)

    async def release_key(self, process_id: str, user_id: str | None) -> None:
        raise NotImplementedError

    def give_up_key(self, process_id: str, user_id: str | None) -> None:
        if user_id == "eve":
            raise ProcessAccessError("not yours")
        self.released.append((process_id, user_id))

    def find_calls(self, process_id: str, user_id: str | None) -> FakeCalls:
        if user_id == "eve":
            raise ProcessAccessError("not yours")
        if self.processes[process_id].state.is_terminal:
            raise trio.BrokenResourceError("it has ended")
        return self.processes[process_id].calls

    def post(self, process_id: str, payload: JsonValue, user_id: str | None) -> None:
        if self.post_refusal is not None:
            raise self.post_refusal
        self.posted.append((process_id, payload, user_id))
