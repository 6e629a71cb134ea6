"""An `async` entry alone over memory lanes, with a test as its host."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from spindle_trio._protocol._payload import PayloadBounds
from spindle_trio.child import ProcessContext
from spindle_trio.child._async_runtime import ChildEnd, run_async_child
from spindle_trio.child._facts import ProcessFacts
from spindle_trio.testing import MemoryLane, memory_lane_pair

Entry = Callable[[ProcessContext], Awaitable[object]]


class Host:
    """The host's side of one child: it reads what the child says, and says what it likes."""

    def __init__(self) -> None:
        self.control, self.child_control = memory_lane_pair(None)
        self.messages, self.child_messages = memory_lane_pair(None)
        self.calls, self.child_calls = memory_lane_pair(None)
        self.beats: list[float] = []
        self.reports: list[str] = []
        self.scope = trio.CancelScope()
        self.end: ChildEnd | None = None
        self.is_told_of_loss = False

    def say(self, frame: object) -> None:
        assert self.control.send_nowait(json.dumps(frame).encode())

    def stop(self, reason: str | None = None) -> None:
        self.say({"type": "stop"} if reason is None else {"type": "stop", "reason": reason})

    async def send(self, *payloads: object) -> None:
        await self.messages.send_pending([json.dumps(payload).encode() for payload in payloads])

    async def frame(self) -> dict[str, object]:
        (body,) = await self.control.receive(1)
        return dict(json.loads(body))

    async def message(self) -> object:
        (body,) = await self.messages.receive(1)
        return json.loads(body)

    def frames_so_far(self) -> list[dict[str, object]]:
        return [dict(json.loads(body)) for body in taken(self.control)]

    def messages_so_far(self) -> list[object]:
        return [json.loads(body) for body in taken(self.messages)]

    async def run(  # noqa: ASYNC114  # started once, right below
        self, entry: Entry, facts: ProcessFacts, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        with self.scope:
            self.end = await run_async_child(
                entry,
                facts,
                self.child_control,
                self.child_messages,
                lambda: self.child_calls,
                beat=lambda: self.beats.append(trio.current_time()),
                report=self.reports.append,
                host_gone=self._note_loss,
            )

    def _note_loss(self) -> None:
        self.is_told_of_loss = True


def taken(lane: MemoryLane) -> list[bytes]:
    bodies: list[bytes] = []
    while True:
        try:
            bodies += lane.receive_nowait(1000)
        except (trio.WouldBlock, trio.EndOfChannel):
            return bodies


def some_facts(
    *,
    heartbeat_timeout: float = math.inf,
    frame_bytes: int = 1000,
    bounds: PayloadBounds | None = None,
    protocol: int = 1,
) -> ProcessFacts:
    return ProcessFacts(
        process_id="p1",
        entry="dist/entry.py",
        kind="kind",
        bounds=bounds or PayloadBounds(8, 200),
        frame_bytes=frame_bytes,
        key="key",
        user_id="ada",
        payload={"a": [1]},
        has_payload=True,
        metadata={"m": 1},
        heartbeat_timeout=heartbeat_timeout,
        protocol=protocol,
    )


@asynccontextmanager
async def running(entry: Entry, facts: ProcessFacts | None = None) -> AsyncIterator[Host]:
    """Run an entry beside the block; at its end the entry must have ended too."""
    host = Host()
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run, entry, facts or some_facts())
        yield host


async def end_of(entry: Entry, facts: ProcessFacts | None = None) -> Host:
    """Run an entry to its end, with nothing from the host."""
    async with running(entry, facts) as host:
        pass
    return host
