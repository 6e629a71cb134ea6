"""Beats, and never reads a message."""

from __future__ import annotations

import os

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    process.ready()
    while True:
        process.heartbeat()
        os.sched_yield()
