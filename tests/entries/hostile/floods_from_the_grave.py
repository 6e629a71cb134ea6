"""Leaves daemons behind that go on talking on a lane of this process after its end; its payload says which."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any

from tricks import LIFE_SECONDS, lane_of, report, start

from spindle_trio.child import BlockingProcessContext

BODIES = {"control": b'{"type":"heartbeat"}', "messages": b'"from the grave"'}


def run(process: BlockingProcessContext) -> None:
    lane: Any = process.payload
    # A copy of the lane, since a forked process has the lane itself taken away.
    fd = os.dup(lane_of(process, lane))
    os.set_blocking(fd, True)
    process.send(start(partial(flood, fd, len(BODIES[lane]).to_bytes(4, "big") + BODIES[lane])))
    process.ready()
    os._exit(3)


def flood(fd: int, frame: bytes, write: int) -> None:
    os.setsid()
    if os.fork() == 0:
        report(write)
        os.fork()  # one would be read as fast as it writes
        signal.alarm(LIFE_SECONDS)
        try:
            while True:
                os.write(fd, frame * 1000)
        except OSError:
            os._exit(0)  # nobody is left to read it
    os._exit(0)
