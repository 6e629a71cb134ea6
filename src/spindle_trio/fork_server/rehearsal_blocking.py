"""The entry of the server's rehearsal: does a little of what blocking entries do."""

from __future__ import annotations

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> object:
    """Hear one message, say it again, and end."""
    process.ready()
    process.heartbeat()
    message = process.receive()
    process.send(message)
    return message
