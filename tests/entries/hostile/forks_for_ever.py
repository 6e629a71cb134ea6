"""A fork bomb, which bounds itself where nobody else does: it starts `most` processes, each of them others.

Its payload has `most`, and `leaves`: whether each of them has a session of its own.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from tricks import LIFE_SECONDS, wait_for_the_end

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    order: Any = process.payload
    read, write = os.pipe()
    os.write(write, b"." * order["most"])
    os.set_blocking(read, False)
    told, tell = os.pipe()
    process.ready()
    if os.fork() == 0:
        bomb(read, tell, leaves=order["leaves"])
    started = 0
    while started < order["most"]:
        process.heartbeat()
        started += os.read(told, 4096).count(b".")
        process.send({"started": started})
    wait_for_the_end()


def bomb(read: int, tell: int, *, leaves: bool) -> None:
    """Fork as long as there is a byte in the pipe for it, in each copy."""
    signal.alarm(LIFE_SECONDS)
    if leaves:
        os.setsid()
    while True:
        try:
            if not os.read(read, 1):
                break
        except BlockingIOError:
            break
        os.write(tell, b".")
        try:
            if os.fork() == 0 and leaves:
                os.setsid()
        except OSError:
            pass  # as bounded as can be
    wait_for_the_end()
