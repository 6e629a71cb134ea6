"""Ends as its payload says, or waits until it is ended."""

from __future__ import annotations

import os

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    process.ready()
    if process.payload == "exits":
        os._exit(3)
    if process.payload == "waits":
        process.receive()
