"""An entry that hangs: it becomes ready, says so, and then never lets its event loop run again.

    spindle-trio run notes/examples/wedge.py --heartbeat-timeout 2

The watchdog kills it when no heartbeat has come for two seconds, and the command exits with 124.
"""

from __future__ import annotations

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    process.ready()
    await process.send("about to hang")
    while True:
        pass
