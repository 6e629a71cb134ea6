"""Sends messages from an event loop, as many as it can."""

from __future__ import annotations

from spindle_trio.child import ProcessContext

TEXT = "x" * 98


async def run(process: ProcessContext) -> None:
    process.ready()
    while True:
        await process.send(TEXT)
        process.heartbeat()
