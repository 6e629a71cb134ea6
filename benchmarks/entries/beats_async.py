"""Times the requested number of heartbeats, and answers with the seconds."""

from __future__ import annotations

from itertools import repeat
from time import perf_counter

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    process.ready()
    async for count in process.messages():
        beat = process.heartbeat
        began = perf_counter()
        for _ in repeat(None, count):
            beat()
        await process.send(perf_counter() - began)
