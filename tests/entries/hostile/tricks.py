"""Shared by the hostile entries: their lanes' descriptors, and children of their own.

Whatever these entries start ends by itself after `LIFE_SECONDS`, should a test leave it behind. It has no other reason
to end: what is gone before that has been killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

LIFE_SECONDS = 60


def lane_of(process: Any, name: str) -> int:
    """Return the descriptor of a lane, `control` or `messages`, of either kind of context."""
    controls = process._controls
    if hasattr(controls, "lanes"):  # a blocking entry's
        return int(getattr(controls.lanes, name).fd)
    return int({"control": controls._control_out._lane, "messages": controls._messages}[name]._socket.fileno())


def wait_for_the_end() -> None:
    """Wait to be killed."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIFE_SECONDS)
    while True:
        signal.pause()


def start(life: Callable[[int], object]) -> int:
    """Fork, and return what the copy, or a descendant of it, reports: its number.

    Args:
        life: what the copy does with the end of the pipe on which it reports; never comes back.
    """
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            os.close(read)
            life(write)
        finally:
            os._exit(1)
    os.close(write)
    number = int(os.read(read, 100))
    os.close(read)
    return number


def report(write: int) -> None:
    """Tell `start` this process's number."""
    os.write(write, b"%d" % os.getpid())
    os.close(write)


def in_the_group(write: int) -> None:
    """Stay in the process group of the parent."""
    report(write)
    wait_for_the_end()


def in_a_session_of_its_own(write: int) -> None:
    """Leave the group, and keep the parent."""
    os.setsid()
    report(write)
    wait_for_the_end()


def daemon(write: int) -> None:
    """Leave the group and the parent, by forking twice."""
    os.setsid()
    if os.fork() == 0:
        report(write)
        wait_for_the_end()
    os._exit(0)


def daemon_without_a_trace(write: int) -> None:
    """Do the same, and become another program, with no environment, no descriptors and signals blocked."""
    os.setsid()
    if os.fork() == 0:
        report(write)
        os.closerange(0, 1 << 16)
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()) - {signal.SIGALRM})
        signal.alarm(LIFE_SECONDS)
        os.execve("/bin/sleep", ["sleep", str(LIFE_SECONDS)], {})  # noqa: S606  # there is no need of one
    os._exit(0)


LIVES: dict[str, Callable[[int], object]] = {
    "group": in_the_group,
    "session": in_a_session_of_its_own,
    "daemon": daemon,
    "traceless daemon": daemon_without_a_trace,
}
