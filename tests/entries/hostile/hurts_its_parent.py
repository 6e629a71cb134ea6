"""Sends its parent the signal that its payload names, and then waits to be killed."""

from __future__ import annotations

import os
from typing import Any

from tricks import wait_for_the_end

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    number: Any = process.payload
    process.ready()
    os.kill(os.getppid(), number)
    wait_for_the_end()
