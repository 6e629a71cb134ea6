"""Ignores that it is asked to stop, in the way that its payload names."""

from __future__ import annotations

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    if process.payload == "hears and goes on":
        process.on_stop(print)
    process.ready()
    while process.payload == "never looks":
        pass
    while True:
        try:
            process.heartbeat()
            process.sleep(0.01)
        except SystemExit:
            pass
