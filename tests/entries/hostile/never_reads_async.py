"""Asks for its messages, beats, and never reads one."""

from __future__ import annotations

import trio

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    process.messages()
    process.beat_while_running()
    process.ready()
    await trio.sleep_forever()
