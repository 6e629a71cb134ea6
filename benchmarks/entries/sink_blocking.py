"""Reads the announced number of messages, and then reports that."""

from __future__ import annotations

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    process.ready()
    receive = process.receive
    while True:
        count = receive()
        assert isinstance(count, int)
        for _ in range(count):
            receive()
        process.send("read")
