"""Loops in C and holds the interpreter lock: the thread that would beat for it never has a turn."""

from __future__ import annotations

import threading

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> int:
    process.ready()
    threading.Thread(target=beat, args=[process], daemon=True).start()
    return sum(range(10**15))


def beat(process: BlockingProcessContext) -> None:
    pause = threading.Event()
    while not pause.wait(0.01):
        process.heartbeat()
