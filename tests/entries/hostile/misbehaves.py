"""Spoils its own surroundings, in the way that its payload names, and then ends as if nothing had been."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
from typing import Any

from tricks import LIVES, start

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> object:
    process.ready()
    how: Any = process.payload
    match how:
        case "replaces its streams":
            sys.stdout = sys.stderr = Hostile()  # type: ignore[assignment]
        case "closes its streams":
            os.closerange(0, 3)
        case "closes its streams twice":
            sys.stdout.close()
            sys.stderr.close()
        case "raises in a finaliser":
            Hostile().write("")
        case "deletes its file":
            os.unlink(__file__)
            raise RuntimeError("and then something went wrong")
        case "leaves for a folder that vanishes":
            os.chdir(tempfile.mkdtemp())
            shutil.rmtree(os.getcwd())
        case "leads a session":
            process.send(start(LIVES["session"]))
        case "has no descriptors left":
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            try:
                while True:
                    os.dup(0)
            except OSError:
                process.send("none left")
        case "has no memory left":
            resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
            return len(bytearray(1 << 30))
        case "has a thread that never ends":
            threading.Thread(target=threading.Event().wait).start()
        case "is signalled while it ends":
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                signal.signal(number, lambda *_: None)
            threading.Thread(target=signal_for_ever, daemon=True).start()
        case "has no trace of its modules left":
            sys.modules.clear()
        case "has a hostile mind":
            sys.settrace(hostile_trace)
            sys.setswitchinterval(1e-9)
            sys.setrecursionlimit(100)
        case _:
            raise ValueError(how)
    return "fine"


class Hostile:
    """Raises whatever is done with it."""

    def write(self, text: str) -> None:
        if text:
            raise OSError("nothing can be written here")

    def flush(self) -> None:
        raise OSError("nothing can be flushed here")

    def __del__(self) -> None:
        raise OSError("raised in a finaliser")


def signal_for_ever() -> None:
    pause = threading.Event()
    while not pause.wait(0.001):
        os.kill(os.getpid(), signal.SIGUSR1)


def hostile_trace(*_: object) -> Any:
    return hostile_trace
