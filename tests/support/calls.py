"""The host's side of calls, for tests that say by hand what a host would say."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio
from trio.testing import wait_all_tasks_blocked

from spindle_trio._protocol._call_answers import CallFrame, CallReader, encode_call
from spindle_trio._protocol._payload import PayloadBounds
from spindle_trio.abc import FrameLane

READER = CallReader(PayloadBounds(8, 200))


class Caller:
    """A host that calls, with nothing but the lanes of a process."""

    def __init__(self, lane: FrameLane, say: Callable[[dict[str, object]], object]) -> None:
        """Begin.

        Args:
            lane: the host's end of the calls lane.
            say: sends a frame on the control lane.
        """
        self.lane = lane
        self.say = say
        self.newest = 0

    def call(self, method: str, payload: object = None, *, seconds: float = math.inf, window: int | None = None) -> int:
        self.newest += 1
        assert self.lane.send_nowait(encode_call(self.newest, method, seconds, payload, window, 100_000))
        return self.newest

    def cancel(self, call_id: int) -> None:
        self.say({"type": "cancel", "call": call_id})

    def credit(self, call_id: int, items: int) -> None:
        self.say({"type": "credit", "call": call_id, "items": items})

    async def frame(self) -> CallFrame:
        (body,) = await self.lane.receive(1)
        return READER.read(body)

    async def answer(self, method: str, payload: object = None, *, seconds: float = math.inf) -> CallFrame:
        self.call(method, payload, seconds=seconds)
        return await self.frame()

    async def frames_so_far(self) -> list[CallFrame]:
        """Return what has come when nothing more happens, in memory."""
        frames: list[CallFrame] = []
        while True:
            await wait_all_tasks_blocked()
            try:
                frames += [READER.read(body) for body in self.lane.receive_nowait(1000)]
            except (trio.WouldBlock, trio.EndOfChannel):
                return frames
