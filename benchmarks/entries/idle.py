from __future__ import annotations

import trio

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    process.ready()
    process.beat_while_running()
    await trio.sleep_forever()
