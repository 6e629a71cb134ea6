"""Starts processes of its own, and then ends, or does not; see `starts_others`."""

from __future__ import annotations

import os
from typing import Any

import trio
from tricks import LIVES, start

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> str:
    order: Any = process.payload
    for life in order["lives"]:
        await process.send(start(LIVES[life]))
    process.ready()
    match order["end"]:
        case "hangs":
            await trio.sleep_forever()
        case "fails":
            raise RuntimeError("with a family")
        case "exits":
            os._exit(3)
    return "fine"
