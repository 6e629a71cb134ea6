"""The guard: the start of a fork server's program. It ends the tree after its host was killed.

The guard finds the level of containment that works here (`_levels`), forks the server into it, and tells the host. Then
it only waits for the end of the server or of the host. The end of their socket shows the host's end, or the host's
pidfd does if a forked copy of the host keeps the socket open. The server then ends itself, too; if it was stopped or
does not end, the guard kills it after `SERVER_SECONDS`. Last, the guard ends what the server leaves behind.

In a PID namespace nothing can be left behind: the kernel kills the guard with its host, and the server with the guard.
At other levels the guard outlives its host for that moment.
"""

from __future__ import annotations

import _socket
import os
import select

from spindle_trio._linux._parent_death import name_process
from spindle_trio.fork_server._level import Level
from spindle_trio.fork_server._levels import enter_level
from spindle_trio.fork_server._link import HOST_GONE, Link
from spindle_trio.fork_server._safety import UnsafeError, verify_safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from typing import NoReturn

    from spindle_trio._model import JsonValue
else:
    import _signal as signals  # `signal` would load `enum`

SERVER_SECONDS = 1.0
"""Seconds that a server may take to end after its host."""

_TIDY_MS = 500
"""Milliseconds between two looks for orphans, at a level that adopts them."""


def main(link_fd: int, wanted: int) -> NoReturn:
    """Guard one server.

    Args:
        link_fd: this end of the socket.
        wanted: the index in `_levels.LEVELS` of the one acceptable level; negative for any.
    """
    signals.signal(signals.SIGCHLD, signals.SIG_DFL)  # if the host ignores it, the kernel would reap children unseen
    link = Link(_socket.socket(fileno=link_fd))
    try:
        verify_safe(
            "the start of Python itself (a sitecustomize or a .pth file)", "see what it loads", {0, 1, 2, link_fd}
        )
        host = os.pidfd_open(os.getppid())  # until a level is entered, this program dies with its host
        level, problems = enter_level(wanted)
        if level is None:
            raise UnsafeError(
                "; ".join(f"containment {name!r} does not work here: {why}" for name, why in problems.items())
            )
        said: dict[str, JsonValue] = {"level": level.name, "problems": {**problems}, "group": level.group}
        try:
            link.send({"type": "guarding", **said})
        except HOST_GONE:
            level.clear_up()
            raise
        try:
            guard, pid = os.getpid(), os.fork()
        except OSError:
            try:
                level.clear_up()
            except OSError:
                pass  # nothing has been made yet
            raise
        if pid == 0:
            os.close(host)
            _become_server(link, level, guard)
        name_process("spindle guard")
        pidfd = os.pidfd_open(pid)
    except UnsafeError as error:
        link.receive()  # read first: closing a socket with unread data would lose what is sent below
        link.send({"type": "refused", "error": str(error)})
        os._exit(1)
    except HOST_GONE:
        os._exit(1)
    except OSError as error:
        link.receive()  # as above
        link.send({"type": "refused", "error": f"the system refuses: {error}"})
        os._exit(1)
    pause = _TIDY_MS if level.adopts else None
    while not link.is_over(pause, pidfd, host):
        level.tidy(pid)
    link.cut()
    _end_server(pid, pidfd)
    level.clear_up()
    os._exit(0)


def _become_server(link: Link, level: Level, guard: int) -> NoReturn:
    try:
        level.enter_server(guard)
        # Only here: the guard stays lean.
        from spindle_trio.fork_server._server import serve

        serve(link, level)
    finally:
        os._exit(1)


def _end_server(pid: int, pidfd: int) -> None:
    """Give the server time to end, kill it, and reap it."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(SERVER_SECONDS * 1000):
        os.kill(pid, signals.SIGKILL)
        poll.poll(SERVER_SECONDS * 1000)
    os.waitpid(pid, os.WNOHANG)
