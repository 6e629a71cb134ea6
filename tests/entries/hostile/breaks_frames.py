"""Breaks off in a frame, or announces one that is too long; its payload has `lane` and `how`."""

from __future__ import annotations

import os
from typing import Any

from tricks import lane_of, wait_for_the_end

from spindle_trio.child import BlockingProcessContext

BODY = b'"' + b"x" * 1000 + b'"'
FRAME = len(BODY).to_bytes(4, "big") + BODY


def run(process: BlockingProcessContext) -> None:
    order: Any = process.payload
    fd = lane_of(process, order["lane"])
    process.ready()
    match order["how"]:
        case "announces four gigabytes":
            os.write(fd, b"\xff" * 4 + b"x" * 1000)
        case "announces a byte too many":
            os.write(fd, (16 * 1024 * 1024 + 1).to_bytes(4, "big"))
        case "stops in the header":
            os.write(fd, FRAME[:2])
        case "stops in the body":
            os.write(fd, FRAME[:100])
        case "sends a byte at a time":
            for byte in FRAME:
                os.write(fd, bytes([byte]))
                process.sleep(0.02)
        case "closes every descriptor":
            os.closerange(0, 1 << 16)
        case "closes its lanes":
            os.close(lane_of(process, "control"))
            os.close(lane_of(process, "messages"))
    while True:
        try:
            process.heartbeat()
        except OSError:
            wait_for_the_end()
