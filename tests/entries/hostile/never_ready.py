"""Never says that it is ready; its payload says what it does instead."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tricks import wait_for_the_end

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    how: Any = process.payload
    if how == "talks":
        while True:
            process.send("about something else")
            process.heartbeat()
            process.sleep(0.01)
    if how == "prints":
        while True:
            print("about something else " * 1000)
    if how == "is stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "exits":
        print("there is no disk", file=sys.stderr)
        os._exit(3)
    wait_for_the_end()
