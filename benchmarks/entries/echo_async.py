from __future__ import annotations

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    process.ready()
    async for payload in process.messages():
        await process.send(payload)
