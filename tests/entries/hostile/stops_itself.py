"""Stops itself by SIGSTOP. Its payload names a trick that it plays before."""

from __future__ import annotations

import os
import signal

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    process.ready()
    os.kill(os.getpid(), signal.SIGSTOP)
    process.complete("somebody has continued it")
