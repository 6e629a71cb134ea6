"""Ignores that it is asked to stop, in the way that its payload names."""

from __future__ import annotations

import trio

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    process.beat_while_running()
    if process.payload == "hears and goes on":
        process.on_stop(print)
    process.ready()
    with trio.CancelScope(shield=process.payload == "shields itself"):
        await trio.sleep_forever()
