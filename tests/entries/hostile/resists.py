"""Makes itself hard to end, in the way that its payload names, and then loops without a heartbeat."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress
from time import monotonic
from typing import Any

from tricks import LIFE_SECONDS

from spindle_trio.child import BlockingProcessContext

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PTRACE_TRACEME = 0


def run(process: BlockingProcessContext) -> None:
    process.ready()
    how: Any = process.payload
    libc = ctypes.CDLL(None, use_errno=True)
    match how:
        case "blocks and ignores all signals":
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        case "clears its parent-death signal":
            assert libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0) == 0
        case "cannot be dumped":
            assert libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
        case "is traced by its parent":
            # From now on each signal stops it, and is its parent's to deal with.
            assert libc.ptrace(PTRACE_TRACEME, 0, 0, 0) == 0
            os.kill(os.getpid(), signal.SIGUSR1)
        case "has the lowest priority":
            os.nice(19)
        case "may use no memory":
            resource.setrlimit(resource.RLIMIT_AS, (1, 1))
        case "may start no process":
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        case "takes on another user":
            with suppress(OSError):  # an ordinary user cannot
                os.setuid(65534)
        case "is another program":
            os.execv("/bin/sleep", ["sleep", "60"])  # noqa: S606  # there is no need of one
        case _:
            raise ValueError(how)
    end = monotonic() + LIFE_SECONDS
    while monotonic() < end:
        pass
