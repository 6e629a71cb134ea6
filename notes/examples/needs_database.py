"""An entry that cannot work: it is ready, and then finds no database. `crash_loop.py` keeps it up as a service."""

from __future__ import annotations

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    process.ready()
    raise ConnectionRefusedError("nobody listens on db.internal:5432")
