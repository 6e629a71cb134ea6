"""Loops for ever, in Python, and never comes back to its event loop, which has been told to beat."""

from __future__ import annotations

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    process.beat_while_running()
    process.ready()
    while True:
        pass
