"""Says on a lane, byte for byte, what its payload orders: `lane`, and `body`, or a key of `BODIES` as `named`."""

from __future__ import annotations

import os
from typing import Any

from tricks import lane_of, wait_for_the_end

from spindle_trio.child import BlockingProcessContext

BODIES = {
    "a number of 100 000 digits": b"1" * 10**5,
    "a depth of 100 000": b"[" * 10**5 + b"]" * 10**5,
    "a depth of 100 000 objects": b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
    "a depth that never ends": b"[" * 10**5,
    "300 000 values": b"[" + b"[]," * 300_000 + b"[]]",
    "bytes that are no text": b'"\xff\xfe"',
    "a zero byte": b'"\x00"',
    "an encoded surrogate": b'"\xed\xa0\x80"',
    "nothing": b"",
}


def run(process: BlockingProcessContext) -> None:
    order: Any = process.payload
    process.ready()
    body = BODIES[order["named"]] if "named" in order else order["body"].encode()
    os.set_blocking(lane_of(process, order["lane"]), True)
    os.write(lane_of(process, order["lane"]), len(body).to_bytes(4, "big") + body)
    wait_for_the_end()
