"""The process of a service: holds the lock of its service for as long as it lives, and crashes at a random time."""

from __future__ import annotations

import fcntl
import os
import random
import signal
from pathlib import Path
from typing import Any

import trio

from spindle_trio.child import ProcessContext

DICE = random.SystemRandom()  # a process that was forked would have the dice of all


async def run(process: ProcessContext) -> None:
    told: Any = process.payload
    if told is None:  # who only asks for the key
        process.ready()
        process.complete()
        return
    lock = Path(told["lock"]).open("a")  # noqa: ASYNC230, SIM115  # no wait worth naming; held to the end
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        Path(told["twice"]).touch()
        process.fail("another process of this service lives")
        return
    lock.write(f"{os.getpid()}\n")
    lock.flush()

    async def who(payload: object) -> int:
        return os.getpid()

    process.on_call("who", who)
    if DICE.random() < 0.1:
        os._exit(4)  # never ready
    process.ready()
    await trio.sleep(DICE.uniform(0, told["seconds"]))
    match DICE.choice(["fail", "raise", "exit", "kill", "segfault", "hang"]):
        case "fail":
            process.fail("as it was told")
        case "raise":
            raise RuntimeError("as it was told")
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case _:
            await trio.sleep(3 * told["seconds"])  # lives a little longer
            os._exit(5)
