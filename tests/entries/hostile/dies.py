"""Dies in the way that its payload names, without a word."""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import signal
import sys
from typing import Any

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> object:
    process.ready()
    how: Any = process.payload
    match how:
        case "by a segmentation fault":
            ctypes.string_at(0)
        case "by a segmentation fault with a core":
            folder = os.environ.get("TMPDIR", "/tmp")
            os.chdir(folder)
            resource.setrlimit(resource.RLIMIT_CORE, (16 * 1024, resource.getrlimit(resource.RLIMIT_CORE)[1]))
            ctypes.string_at(0)
        case "by an abort":
            os.abort()
        case "by its last breath":
            print("there is no disk", file=sys.stderr)
            os._exit(4)
        case "by killing its group":
            os.killpg(0, signal.SIGKILL)
        case "in a finaliser":
            Finalised().begin()
        case "after its final word":
            atexit.register(os._exit, 7)
        case int(code) if code >= 0:
            os._exit(code)
        case int(number):
            os.kill(os.getpid(), -number)
        case _:
            raise ValueError(how)
    return "fine"


class Finalised:
    def begin(self) -> None:
        pass

    def __del__(self) -> None:
        os._exit(6)
