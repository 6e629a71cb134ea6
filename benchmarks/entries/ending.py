"""Ends in the way that its payload names."""

from __future__ import annotations

import os

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    process.ready()
    match process.payload:
        case "raises":
            raise RuntimeError("as ordered")
        case "exits":
            os._exit(3)
        case "is stopped":
            process.receive()
