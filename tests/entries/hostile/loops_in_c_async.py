"""Loops in C and holds the interpreter lock, in an event loop that has been told to beat."""

from __future__ import annotations

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> int:
    process.beat_while_running()
    process.ready()
    return sum(range(10**15))
