"""Does with each call what it says, and notes first that it has begun: in the file that is its payload."""

from __future__ import annotations

import os
import signal
from typing import Any

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    notes = os.open(process.payload, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def work(payload: dict[str, Any]) -> int:
        number: int = payload["number"]
        os.write(notes, b"%d\n" % number)
        match payload["do"]:
            case "raise":
                raise ValueError(number)
            case "exit":
                os._exit(7)
            case "hang":
                while True:
                    pass
            case "count":
                sum(range(1 << 60))  # a loop in C, which lets nobody in
            case "sleep":
                signal.pause()
            case "hold":
                bytearray(8 << 20)
        return 2 * number

    process.on_call(work)
    process.ready()
