"""Passes on large payloads: keeps the first message, and sends it as often as a later one says.

Other later messages are only read, until `end`, which is answered.
"""

from __future__ import annotations

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    process.ready()
    payload = process.receive()
    while True:
        asked = process.receive()
        if isinstance(asked, int):
            for _ in range(asked):
                process.send(payload)
        elif asked == "end":
            process.send("read")
