"""The entry of a spare's rehearsal, where the spare expects a blocking one."""

from __future__ import annotations

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    """Become ready, and end."""
    process.ready()
