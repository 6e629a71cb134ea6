"""A minimal init outside of namespaces: the parent of one process, which waits for its end and reports its status.

It adopts orphans, and kills them before it ends. Inits of namespaces are in `_inits`.
"""

from __future__ import annotations

import os
import select
from time import monotonic

from spindle_trio._linux._pid_numbers import number_from_proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from typing import NoReturn

    from spindle_trio.fork_server._birth import Birth
else:
    import _signal as signals  # `signal` would load `enum`

SWEEP_SECONDS = 0.5
"""Seconds that killing orphans may take. A process that has taken on another user's rights withstands it."""

_WAIT_MS = 20


def run_init(entry: int, birth: Birth) -> NoReturn:
    """See a process through to its end.

    Args:
        entry: its pid.
        birth: reports the end to the host.
    """
    birth.close_all_but_link()
    # An entry or a terminal may send these; only SIGKILL ends an init.
    for number in (signals.SIGHUP, signals.SIGINT, signals.SIGQUIT, signals.SIGTERM):
        signals.signal(number, signals.SIG_IGN)
    pid, status, used = os.wait4(-1, 0)
    while pid != entry or os.WIFSTOPPED(status):  # which happens only if it made this program its tracer
        pid, status, used = os.wait4(-1, 0)
    sweep()
    birth.conclude(status, used)
    os._exit(0)


def sweep(but: int = 0) -> None:
    """Kill and reap all children, and those adopted meanwhile, within `SWEEP_SECONDS`.

    Args:
        but: one to leave alone.
    """
    deadline = monotonic() + SWEEP_SECONDS
    while monotonic() < deadline:
        children = [child for child in own_children() if child != but]
        if not children:
            return
        for child in children:
            try:
                os.kill(child, signals.SIGKILL)
            except PermissionError:
                pass  # it has taken on another user's rights
        for child in children:
            if not os.waitpid(child, os.WNOHANG)[0]:
                _wait_ended(child)


def own_children() -> list[int]:
    """List the children of this process, which has one thread.

    Raises:
        OSError: the kernel was built without that list.
    """
    fd = os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while chunk := os.read(fd, 65536):
            data += chunk
    finally:
        os.close(fd)
    return [number_from_proc(int(child)) for child in data.split()]


def _wait_ended(child: int) -> None:
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if poll.poll(_WAIT_MS):
        os.waitpid(child, 0)
    os.close(pidfd)
