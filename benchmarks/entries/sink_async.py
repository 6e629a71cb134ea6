"""The same as ``sink_blocking.py``, under Trio."""

from __future__ import annotations

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    process.ready()
    messages = process.messages()
    while True:
        count = await messages.receive()
        assert isinstance(count, int)
        for _ in range(count):
            await messages.receive()
        await process.send("read")
