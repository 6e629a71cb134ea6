"""An entry: count the words of lines that come as messages, until the word to end."""

from __future__ import annotations

from spindle_trio import JsonValue
from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> JsonValue:
    process.ready()
    words = 0
    while True:
        message = process.receive()  # waiting here counts as alive
        line = message.get("line") if isinstance(message, dict) else None
        if not isinstance(line, str):
            return {"words": words}
        words += len(line.split())
        process.send({"words": len(line.split())})
