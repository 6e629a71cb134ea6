"""A good neighbour that blocks: the runtime beats while it waits. Answers each message with its number."""

from __future__ import annotations

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    process.ready()
    count = 0
    while True:
        payload = process.receive()
        count += 1
        process.send({"echo": payload, "count": count})
