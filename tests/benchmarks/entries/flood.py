from __future__ import annotations

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    process.ready()
    count = process.payload
    assert isinstance(count, int)
    for _ in range(count):
        process.send("x" * 98)
