"""Becomes ready, and is then silent."""

from __future__ import annotations

import signal

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    process.ready()
    while True:
        signal.pause()
