"""Stops itself by SIGSTOP, while its event loop should beat."""

from __future__ import annotations

import os
import signal

import trio

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    process.beat_while_running()
    process.ready()
    await trio.lowlevel.checkpoint()
    os.kill(os.getpid(), signal.SIGSTOP)
    process.complete("somebody has continued it")
