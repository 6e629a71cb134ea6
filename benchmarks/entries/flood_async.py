"""The same as ``flood_blocking.py``, under Trio: it sends without waiting, as long as there is room."""

from __future__ import annotations

import trio

from spindle_trio.child import ProcessContext

TEXT = "x" * 98


async def run(process: ProcessContext) -> None:
    process.ready()
    async for count in process.messages():
        assert isinstance(count, int)
        send_nowait = process.send_nowait
        for _ in range(count):
            try:
                send_nowait(TEXT)
            except trio.WouldBlock:
                await process.send(TEXT)
