"""The fork server: one thread, no event loop, and a conversation with its host over one socket.

Theory of operation
-------------------

The server is started clean, by `exec`, so that no lock, buffer or descriptor of the host's comes with it. It never
runs Trio, and has no thread but this one: a fork copies only the thread that calls it, and a lock that another one held
would stay locked for good. What it loads for its processes it verifies afterwards (`_preload`).

Host and server exchange datagrams, one JSON object each, over a socket that keeps their bounds:

    host → server   {"type": "preload", "modules": [name, …], "path": [folder, …]}      first of all, once
                    {"type": "fork", "spare": bool}         a process, please; for a launch that waits, or as a spare
                    {"type": "reap", "pid": n}              it has ended, and its number is not needed any more
                    {"type": "discard", "pid": n}           kill and reap it, whatever it is doing
    server → host   {"type": "loading", "module": n}        goes on to the module of that place in the list
                    {"type": "up"}                          ready to fork
                    {"type": "refused", "error": text}      not ready, and it ends
                    {"type": "forked", "pid": n, "spare": bool}     with six descriptors, see `Forked`
                    {"type": "not forked", "errno": n, "error": text, "spare": bool}
                    {"type": "reaped", "pid": n, "status": n}       what waitpid(2) says

A process waits on its control lane for the first frame, as an exec'ed one does; so the server need not know what it is
for. A spare warms itself up before it waits (`_forked`).

Nobody is reaped unasked: a process that has ended keeps its number until the host has looked at it and says so.

The end of the socket is the end of the host, or its wish. The server then kills and reaps what it has forked, and ends.
Should it be killed itself, its processes die with it, by the signal that each has asked for.
"""

from __future__ import annotations

import _socket
import errno
import gc
import os
import select
import sys
from time import monotonic

from spindle_trio._json_text import read_json, write_json
from spindle_trio.child._order import replace_environment
from spindle_trio.fork_server._forked import Forked, fork
from spindle_trio.fork_server._preload import PreloadError, preload

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from typing import NoReturn

    from spindle_trio._model import JsonValue
else:
    import _signal as signals  # `signal` would load `enum`, and every process would inherit its pages

LAST_REAP_SECONDS = 0.5
"""Seconds that the processes may take, in all, to end once they were killed at the server's own end."""

_DATAGRAM_BYTES = 1024 * 1024

_HOST_GONE = (EOFError, BrokenPipeError, ConnectionResetError)
_ERROR_BYTES = 4000
_TRACED_PAUSE_MS = 100
"""Milliseconds between two attempts to reap what has ended and is being traced: readable, and not to be had."""

_IN_FLIGHT_PAUSE_MS = 5
"""Milliseconds before a datagram is sent again that had too many descriptors on the way before it."""


def main(link_fd: int) -> NoReturn:
    """Serve one host until it is gone.

    Args:
        link_fd: this end of the socket.
    """
    server = _Server(_socket.socket(fileno=link_fd))
    try:
        server.start()
        while True:
            server.serve_once()
    except _HOST_GONE:
        server.end()
    os._exit(0)


class _Server:
    """The state of the server: whom it has forked."""

    def __init__(self, link: _socket.socket) -> None:
        os.set_inheritable(link.fileno(), False)
        self._link = link
        self._poll = select.poll()
        self._poll.register(link.fileno(), select.POLLIN)
        self._asked: list[bool] = []  # a process each, to be forked; whether it is to be a spare
        self._unreaped: set[int] = set()
        self._ending: dict[int, int] = {}  # pidfd → pid of what was to be reaped and had not ended
        self._traced: set[int] = set()  # what has ended, and is withheld from this program

    def start(self) -> None:
        """Load what processes are to find loaded, make sure that forking is safe then, and say so."""
        order = self._receive()
        modules, path = order["modules"], order["path"]
        assert isinstance(modules, list)
        assert isinstance(path, list)
        sys.path[:] = path  # type: ignore[assignment]  # a list of texts
        environment = dict(os.environ)
        try:
            preload(
                [str(module) for module in modules],
                known_fds={0, 1, 2, self._link.fileno()},
                announce=lambda number: self._send({"type": "loading", "module": number}),
            )
        except PreloadError as error:
            text = str(error).encode(errors="backslashreplace")[:_ERROR_BYTES].decode(errors="ignore")
            self._send({"type": "refused", "error": text})
            os._exit(1)
        # The host counts on it that processes begin with these; a module may have changed them.
        sys.path[:] = path  # type: ignore[assignment]  # a list of texts
        replace_environment(environment)
        # What is there now is never garbage. Without a freeze, the first collection in a process would touch, and so
        # copy, all of it.
        gc.collect()
        gc.freeze()
        gc.disable()
        self._send({"type": "up"})

    def serve_once(self) -> None:
        """Wait for the next thing to do, and do it. Forks come last: the end of a process must not wait for them."""
        events = self._poll.poll(0 if self._asked else _TRACED_PAUSE_MS if self._traced else None)
        if self._asked and not events:
            self._fork(is_spare=self._asked.pop(0))
        for fd, _ in events:
            if fd == self._link.fileno():
                self._obey(self._receive())
            else:
                self._poll.unregister(fd)
                os.close(fd)
                pid = self._ending.pop(fd)
                if not self._reap_nowait(pid):
                    # A tracer has to take note of the end first, or to end itself, and nothing tells of that.
                    self._traced.add(pid)
        for pid in tuple(self._traced):
            self._reap_nowait(pid)

    def end(self) -> None:
        """Kill and reap whatever has been forked and not reaped, within `LAST_REAP_SECONDS`."""
        for pid in self._unreaped:
            os.kill(pid, signals.SIGKILL)
        deadline = monotonic() + LAST_REAP_SECONDS
        for pid in self._unreaped:
            pidfd = os.pidfd_open(pid)
            end = select.poll()
            end.register(pidfd, select.POLLIN)
            if end.poll(max(0.0, deadline - monotonic()) * 1000):
                os.waitpid(pid, os.WNOHANG)
            os.close(pidfd)

    def _obey(self, request: dict[str, JsonValue]) -> None:
        kind, pid = request["type"], request.get("pid")
        if kind == "fork":
            self._asked.append(bool(request["spare"]))
        elif isinstance(pid, int) and pid in self._unreaped and pid not in self._ending.values():
            if kind == "discard":
                os.kill(pid, signals.SIGKILL)
            if pid not in self._traced:
                self._reap(pid)

    def _fork(self, *, is_spare: bool) -> None:
        try:
            forked = fork(is_spare=is_spare, link_fd=self._link.fileno())
        except OSError as error:
            text = error.strerror or repr(error)
            self._send({"type": "not forked", "errno": error.errno or 0, "error": text, "spare": is_spare})
            return
        self._unreaped.add(forked.pid)
        self._send({"type": "forked", "pid": forked.pid, "spare": is_spare}, forked)
        forked.close()

    def _reap(self, pid: int) -> None:
        """Reap a process that has ended; one that has not, as soon as it does."""
        if self._reap_nowait(pid):
            return
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return  # no descriptor left: it is reaped at this program's own end
        self._ending[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)

    def _reap_nowait(self, pid: int) -> bool:
        """Reap a process if the system lets this program do so, and say whether it did."""
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped:
            self._unreaped.discard(pid)
            self._traced.discard(pid)
            self._send({"type": "reaped", "pid": pid, "status": status})
        return bool(reaped)

    def _receive(self) -> dict[str, JsonValue]:
        data = self._link.recv(_DATAGRAM_BYTES)
        if not data:
            raise EOFError
        message = read_json(data)
        assert isinstance(message, dict)
        return message

    def _send(self, message: dict[str, JsonValue], forked: Forked | None = None) -> None:
        """Send a datagram; blocks while the host does not read."""
        ancillary = [] if forked is None else [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, forked.packed_fds())]
        data = [write_json(message).encode()]
        while True:
            try:
                self._link.sendmsg(data, ancillary, _socket.MSG_NOSIGNAL)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                # As many descriptors are on their way as one user may have there, until the host has read some.
                select.poll().poll(_IN_FLIGHT_PAUSE_MS)
            else:
                return
