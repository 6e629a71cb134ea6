"""A good neighbour: beats, and answers each message with its number, so that a lost or repeated one shows."""

from __future__ import annotations

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> int:
    process.ready()
    process.beat_while_running()
    count = 0
    async for payload in process.messages():
        count += 1
        await process.send({"echo": payload, "count": count})
    return count
