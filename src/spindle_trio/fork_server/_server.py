"""The fork server: one thread, no event loop, and a conversation with its host over one socket.

Theory of operation
-------------------

The server's guard (`_guard`) is a fresh program, started by `exec`, so no lock, buffer or descriptor of the host comes
along. The guard forks the server into the level of containment that works here (`_levels`). No Trio runs in the server
when it forks, and it has no other thread: a fork copies only the thread that calls it, and a lock that another one held
would stay locked for good. After loading modules for its processes, and rehearsing what these will do, it checks that a
fork is still safe (`_preload`).

Host and server exchange datagrams, one JSON object each:

    host → server   {"type": "preload", "modules": [name, …], "folders": [folder, …], "variables": {name: value, …},
                     "path": [folder, …], "execs": bool}    once, at first: what to load, and how
                    {"type": "fork", "spare": bool, "ahead": [file, …]}    fork a process, for a launch that waits, or
                                                            as a spare that reads these entries ahead, and
                                                            is prepared for the first one
                    {"type": "sandboxes"}                   load what processes in sandboxes need, once for all
                    {"type": "reap", "number": n}           reap a process that has ended; its pid is no longer needed
                    {"type": "discard", "number": n}        kill and reap a process, whatever it is doing
    guard → host    {"type": "guarding", "level": name, "problems": {name: text, …}, "group": path}    the group of all
    server → host   {"type": "server", "lack": text}        with pidfds of itself and of its root, if it has one
                    {"type": "loading", "module": n}        it loads the module of that index next
                    {"type": "up"}                          it is ready to fork
                    {"type": "refused", "error": text}      it is not ready, and ends; the guard may send it, too
                    {"type": "forked", "number": n, "spare": bool, "for": file, "group": path}   with descriptors,
                                                            see `Birth`
                    {"type": "not forked", "errno": n, "error": text, "spare": bool, "number": n}
                    {"type": "reaped", "number": n, "status": n, "used": [seconds, KiB]}
                                                            from wait4(2), of a process that it has forked: with the
                                                            processor time of what that has reaped, and the memory
                                                            of the largest of these
    init → host     {"type": "ended", "number": n, "status": n, "used": [seconds, KiB]}     the same, of its process
                                                            (`sweep`)

A process waits on its control lane for the first frame, so the server need not know its purpose. A spare warms itself
up before it waits (`_forked`). The processes of some servers then become other programs (`child/_exec.py`). If the
parent of a process is an init, the init announces its start and its end.

The server reaps only on request: a process keeps its pid until the host has looked at it. `number` is not the pid but a
number that means the same in every PID namespace.

When the socket ends, the host has ended or wants the server to end. The server then kills and reaps what it has forked,
and ends. If the server is killed itself, its processes die with it, by their parent-death signals.
"""

from __future__ import annotations

import gc
import os
import resource  # noqa: F401  # `os.wait4` would load it, later, in each init
import select
import sys
from time import monotonic

from spindle_trio._linux._command_line import find_command_line
from spindle_trio.child._launch_order import replace_environment
from spindle_trio.fork_server._birth import Birth, figures_of, refusal
from spindle_trio.fork_server._forked import become_process
from spindle_trio.fork_server._link import HOST_GONE, Link
from spindle_trio.fork_server._preload import preload
from spindle_trio.fork_server._safety import UnsafeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from typing import NoReturn

    from spindle_trio._model import JsonValue
    from spindle_trio.fork_server._level import Level
else:
    import _signal as signals  # `signal` would load `enum`, and every process would inherit its pages

LAST_REAP_SECONDS = 0.5
"""Seconds that all processes together may take to end, after the kill at the server's own end."""

_ERROR_BYTES = 4000

_TRACED_PAUSE_MS = 100
"""Milliseconds between two attempts to reap a traced process that has ended: until then its tracer holds it."""


def serve(link: Link, level: Level) -> NoReturn:
    """Serve one host until it is gone.

    Args:
        link: to the host.
        level: of containment, which this program has entered.
    """
    server = _Server(link, level)
    try:
        server.start()
        while True:
            server.serve_once()
    except HOST_GONE:
        server.end()
    os._exit(0)


class _Server:
    """The state of the server: the processes that it has forked."""

    def __init__(self, link: Link, level: Level) -> None:
        self._link = link
        self._level = level
        self._poll = select.poll()
        self._poll.register(link.fileno(), select.POLLIN)
        self._asked: list[tuple[bool, list[str]]] = []  # processes still to fork: is it a spare, what it reads ahead
        self._last_number = 0
        self._execs = False
        self._unreaped: dict[int, int] = {}  # number → pid
        self._ending: dict[int, int] = {}  # pidfd → number of a process to reap that has not ended yet
        self._traced: set[int] = set()  # numbers of ended processes whose tracers hold up the reaping

    def start(self) -> None:
        """Preload modules, make sure that a fork is still safe, and tell the host."""
        pidfds = [os.pidfd_open(pid) for pid in (os.getpid(), *self._level.roots())]
        self._link.send({"type": "server", "lack": self._level.lack}, pidfds)
        for pidfd in pidfds:
            os.close(pidfd)
        order = self._link.receive()
        modules, folders, variables, path = (order[name] for name in ("modules", "folders", "variables", "path"))
        self._execs = bool(order["execs"])
        assert isinstance(modules, list)
        assert isinstance(folders, list)
        assert isinstance(variables, dict)
        assert isinstance(path, list)
        sys.path[:] = path  # type: ignore[assignment]  # a list of texts
        environment = dict(os.environ)
        replace_environment(environment | variables)
        try:
            preload(
                [str(module) for module in modules],
                [str(folder) for folder in folders],
                known_fds={0, 1, 2, self._link.fileno(), *self._level.server_fds()},
                announce=lambda number: self._link.send({"type": "loading", "module": number}),
                execs=self._execs,
            )
        except UnsafeError as error:
            text = str(error).encode(errors="backslashreplace")[:_ERROR_BYTES].decode(errors="ignore")
            self._link.send({"type": "refused", "error": text})
            os._exit(1)
        # A module may have changed these, and the host relies on them at the start of a process.
        sys.path[:] = path  # type: ignore[assignment]  # a list of texts
        replace_environment(environment)
        find_command_line()
        # These objects never become garbage. Without a freeze, the first collection in a process would touch, and so
        # copy, all of them.
        gc.collect()
        gc.freeze()
        gc.disable()
        self._link.send({"type": "up"})

    def serve_once(self) -> None:
        """Wait for the next thing to do, and do it. Forks come last: the end of a process must not wait for them."""
        events = self._poll.poll(0 if self._asked else _TRACED_PAUSE_MS if self._traced else None)
        if self._asked and not events:
            self._fork(*self._asked.pop(0))
        for fd, _ in events:
            if fd == self._link.fileno():
                self._obey(self._link.receive())
            else:
                self._poll.unregister(fd)
                os.close(fd)
                number = self._ending.pop(fd)
                if not self._reap_nowait(number):
                    # Its tracer must first notice the end, or end itself; no event announces that.
                    self._traced.add(number)
        for number in tuple(self._traced):
            self._reap_nowait(number)

    def end(self) -> None:
        """Kill and reap all processes that are left, within `LAST_REAP_SECONDS`."""
        for pid in self._unreaped.values():
            os.kill(pid, signals.SIGKILL)
        deadline = monotonic() + LAST_REAP_SECONDS
        for pid in self._unreaped.values():
            pidfd = os.pidfd_open(pid)
            end = select.poll()
            end.register(pidfd, select.POLLIN)
            if end.poll(max(0.0, deadline - monotonic()) * 1000):
                os.waitpid(pid, os.WNOHANG)
            os.close(pidfd)

    def _obey(self, request: dict[str, JsonValue]) -> None:
        kind, number = request["type"], request.get("number")
        if kind == "fork":
            ahead = request.get("ahead", [])
            assert isinstance(ahead, list)
            self._asked.append((bool(request["spare"]), [str(file) for file in ahead]))
        elif kind == "sandboxes":
            from spindle_trio.child._confine import prepare

            prepare()
        elif isinstance(number, int) and number in self._unreaped and number not in self._ending.values():
            if kind == "discard":
                os.kill(self._unreaped[number], signals.SIGKILL)
            if number not in self._traced:
                self._reap(number)

    def _fork(self, is_spare: bool, ahead: list[str]) -> None:
        self._last_number += 1
        try:
            expected = ahead[0] if ahead else None
            birth = Birth(self._last_number, self._link, is_spare=is_spare, expected=expected)
            try:
                pid = self._level.fork(birth)
                if pid == 0:
                    become_process(birth, ahead, execs=self._execs)
            finally:
                birth.close()
        except OSError as error:
            if isinstance(error, HOST_GONE):
                raise
            self._link.send(refusal(error, is_spare))
            return
        self._unreaped[birth.number] = pid

    def _reap(self, number: int) -> None:
        """Reap a process, now or as soon as it has ended."""
        if self._reap_nowait(number):
            return
        try:
            pidfd = os.pidfd_open(self._unreaped[number])
        except OSError:
            return  # no descriptor left: reaped at this program's own end
        self._ending[pidfd] = number
        self._poll.register(pidfd, select.POLLIN)

    def _reap_nowait(self, number: int) -> bool:
        """Reap a process if the system lets this program do so, and say whether it did."""
        pid, status, used = os.wait4(self._unreaped[number], os.WNOHANG)
        is_reaped = pid != 0 and not os.WIFSTOPPED(status)  # as in `_init`
        if is_reaped:
            del self._unreaped[number]
            self._traced.discard(number)
            self._level.forget(number)
            self._link.send({"type": "reaped", "number": number, "status": status, "used": figures_of(used)})
        return is_reaped
