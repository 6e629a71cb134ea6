"""Forks while a thread of it holds a lock: the copy waits for that for ever, and the process for the copy."""

from __future__ import annotations

import os
import threading

from tricks import LIVES, report, start

from spindle_trio.child import BlockingProcessContext

lock = threading.Lock()
is_held = threading.Event()


def run(process: BlockingProcessContext) -> None:
    threading.Thread(target=hold, daemon=True).start()
    is_held.wait()
    process.send(start(LIVES["group"]))
    process.send(start(wait_for_the_lock))
    process.ready()
    os.wait()


def hold() -> None:
    with lock:
        is_held.set()
        threading.Event().wait()


def wait_for_the_lock(write: int) -> None:
    report(write)
    lock.acquire()
