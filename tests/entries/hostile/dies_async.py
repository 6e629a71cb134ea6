"""Dies in the way that its payload names, in the midst of its event loop, without a word."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import trio

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    process.ready()
    how: Any = process.payload
    await trio.lowlevel.checkpoint()
    match how:
        case "by a segmentation fault":
            ctypes.string_at(0)
        case "in a thread":
            await trio.to_thread.run_sync(os._exit, 5)
        case int(number):
            os.kill(os.getpid(), -number)
        case _:
            raise ValueError(how)
