"""The entry of a spare's rehearsal: does a little of what entries do."""

from __future__ import annotations

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> object:
    """Hear one message, say it again, and end."""
    process.ready()
    process.heartbeat()
    message = await process.messages().receive()
    await process.send(message)
    return message
