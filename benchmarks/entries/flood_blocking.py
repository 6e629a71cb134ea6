"""Sends the requested number of 100-byte messages, for each request."""

from __future__ import annotations

from spindle_trio.child import BlockingProcessContext

TEXT = "x" * 98


def run(process: BlockingProcessContext) -> None:
    process.ready()
    while True:
        count = process.receive()
        assert isinstance(count, int)
        send = process.send
        for _ in range(count):
            send(TEXT)
