"""The entry of a spare's rehearsal: does what every `async` entry does."""

from __future__ import annotations

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:  # noqa: ASYNC124  # it is the kind of entry that is rehearsed
    """Become ready, and end."""
    process.ready()
