"""Sends messages, as many as it can."""

from __future__ import annotations

from spindle_trio.child import BlockingProcessContext

TEXT = "x" * 98


def run(process: BlockingProcessContext) -> None:
    if process.payload == "when it is asked to stop":
        process.on_stop(lambda notice: flood(process))
        process.ready()
        process.receive()
    process.ready()
    flood(process)


def flood(process: BlockingProcessContext) -> None:
    while True:
        process.send(TEXT)
