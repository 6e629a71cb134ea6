"""Starts processes of its own, and then ends, or does not.

Its payload has `lives`, a list of names in `tricks.LIVES`, and `end`: how this process itself goes on.
"""

from __future__ import annotations

import os
from typing import Any

from tricks import LIVES, start, wait_for_the_end

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> str:
    order: Any = process.payload
    for life in order["lives"]:
        process.send(start(LIVES[life]))
    process.ready()
    match order["end"]:
        case "hangs":
            wait_for_the_end()
        case "waits":
            process.receive()
        case "fails":
            raise RuntimeError("with a family")
        case "exits":
            os._exit(3)
        case "dies":
            os.kill(os.getpid(), 9)
    return "fine"
