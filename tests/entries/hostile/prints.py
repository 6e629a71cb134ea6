"""Prints much, and what is no text; its payload says how."""

from __future__ import annotations

import os
import sys
from typing import Any

from spindle_trio.child import BlockingProcessContext

BLOCK = b"\xff\xfe\x00 no text \xed\xa0\x80" * 4096


def run(process: BlockingProcessContext) -> object:
    how: Any = process.payload
    if how == "before it is ready":
        sys.stdout.write("o" * 300_000)
        sys.stderr.write("e" * 300_000)
        sys.stdout.flush()
        process.ready()
        return "fine"
    process.ready()
    if how == "and dies":
        sys.stderr.write("e" * 300_000 + "\nthere is no disk\n")
        sys.stderr.flush()
        os._exit(3)
    while True:
        os.write(1, BLOCK)
        os.write(2, BLOCK)
        process.heartbeat()
