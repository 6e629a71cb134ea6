"""Says on a lane what its payload orders, from an event loop; see `lies`."""

from __future__ import annotations

import os
from typing import Any

import trio
from lies import BODIES
from tricks import lane_of

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    order: Any = process.payload
    process.ready()
    process.beat_while_running()
    body = BODIES[order["named"]] if "named" in order else order["body"].encode()
    os.set_blocking(lane_of(process, order["lane"]), True)
    os.write(lane_of(process, order["lane"]), len(body).to_bytes(4, "big") + body)
    await trio.sleep_forever()
