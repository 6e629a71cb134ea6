"""The programs of one fork server, from the start of its guard until all of them have ended."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

import attrs
import trio

from spindle_trio._model import Containment
from spindle_trio.launchers._local._containment import LEVELS, clear_group
from spindle_trio.launchers._local._descriptors import RESERVE
from spindle_trio.launchers._local._fork_server_link import HostLink
from spindle_trio.launchers._local._interpreter import search_path, start_interpreter
from spindle_trio.launchers._local._launch_thread import PATIENCE, reap_in_background, run_in_launch_thread
from spindle_trio.launchers._local._output import LineLog, OutputPipe
from spindle_trio.launchers._local._preload import NO_PRELOAD, Preload
from spindle_trio.launchers._local._reaper import has_ended, reap_child, wait_ended
from spindle_trio.launchers._local._tree import kill_tree, pid_of, signal_pidfd

__all__ = ["ServerOrder", "StartedServer", "start_server"]

START_SECONDS: Final = 60.0
"""Seconds that a server may take to load what it preloads."""

END_SECONDS: Final = 1.0
"""Seconds that a server may take to end its processes and itself before it is killed."""

LAST_SECONDS: Final = 0.5
"""Seconds that its guard may then take to end what is left."""

_SAID_CHARACTERS: Final = 4000
_DRAIN_SECONDS: Final = 0.05

_log = logging.getLogger("spindle_trio.launchers")


@attrs.frozen
class ServerOrder:
    """The kind of server to start."""

    environment: Mapping[str, str]
    """Its environment; processes get their own."""
    preload: Preload = NO_PRELOAD
    """What it loads before it forks."""
    containment: Containment | None = None
    """The one acceptable level; `None` for the strongest that works."""
    execs: bool = False
    """Whether its processes become other programs."""


class StartedServer:
    """The guard of a server, the server, and the programs between them."""

    def __init__(self, guard_pid: int, guard_pidfd: int, link: socket.socket, output: int) -> None:
        """Take over what `_start` has made."""
        self.guard_pid: Final = guard_pid
        self.pid: int = guard_pid
        """The server's own pid, once it is known."""
        self.containment: Containment = Containment.KILLPG
        """The level that the guard has found, once the server is up."""
        self.containment_problems: Mapping[Containment, str] = {}
        """Why each stronger level does not work, and what the level in use lacks here."""
        self.link: Final = HostLink(link)
        self.output: Final = OutputPipe(output, "fork_server", LineLog(f"fork server {guard_pid}"))
        self._guard_pidfd = guard_pidfd
        self._pidfds: list[int] = []  # of the server, and of programs between it and its guard
        self._group: str | None = None  # the control group of its processes, if they have one

    async def wait_up(self, preload: Sequence[str]) -> None:
        """Wait until the server can fork.

        Raises:
            RuntimeError: it has refused, ended or not answered.
            OSError: this program has no descriptor left for it.
        """
        doing = "starting"
        with trio.move_on_after(START_SECONDS):
            while True:
                try:
                    message, fds = self.link.receive()
                except BlockingIOError:
                    # A server that cannot print hangs, so this drains its output. A task for that would need a nursery,
                    # which would wrap a Ctrl-C in a group.
                    with trio.move_on_after(_DRAIN_SECONDS):
                        await self.link.wait_readable()
                    self.output.drain_nowait()
                    continue
                except EOFError:
                    said = self.output_tail()[-_SAID_CHARACTERS:]
                    text = f"the fork server ended while it was {doing}{said and f', and said: {said}'}"
                    raise RuntimeError(text) from None
                match message:
                    case {"type": "up"}:
                        return
                    case {"type": "guarding", "level": str(level), "problems": dict(problems)}:
                        group = message.get("group")
                        self._group = None if group is None else str(group)
                        self.containment = Containment(level)
                        self.containment_problems = {Containment(name): why for name, why in problems.items()}
                    case {"type": "server"}:
                        self._meet(fds)
                        if message["lack"] is not None:
                            problems = {**self.containment_problems, self.containment: str(message["lack"])}
                            self.containment_problems = problems
                    case {"type": "refused", "error": str(error)}:
                        raise RuntimeError(f"the fork server cannot start: {error}")
                    case {"type": "loading", "module": int(place)}:
                        doing = f"loading the module {preload[place]!r}"
                    case _:
                        _log.error("fork server %d sent an unknown message: %r", self.pid, message)
        raise RuntimeError(f"the fork server was still {doing} after {START_SECONDS:g} s; preload less")

    def output_tail(self) -> str:
        """Return the end of the server's stdout and stderr, as text."""
        self.output.drain_nowait()
        return self.output.tail.text().strip()

    @trio.lowlevel.enable_ki_protection
    async def end(self) -> None:
        """End the server with all that it has forked, and reap it. Bounded, and shielded.

        Raises:
            KeyboardInterrupt: Ctrl-C came meanwhile. The server is gone all the same.
        """
        self.link.close()
        is_interrupted = await self._wait_ended(END_SECONDS)
        for pidfd in self._pidfds:
            signal_pidfd(pidfd, signal.SIGKILL)
        is_interrupted = await self._wait_ended(LAST_SECONDS) or is_interrupted
        _kill_guard(self._guard_pidfd)  # with whatever a module has started while it was loaded
        is_interrupted = await self._wait_ended(PATIENCE) or is_interrupted
        if has_ended(self._guard_pidfd):
            reap_child(self._guard_pidfd)
            os.close(self._guard_pidfd)
        else:
            reap_in_background("(fork server)", self.guard_pid, self._guard_pidfd)
        for pidfd in self._pidfds:
            if has_ended(pidfd):
                reap_child(pidfd)  # if its guard was killed, and this program adopts orphans
            os.close(pidfd)
        self._pidfds.clear()
        if self._group is not None:
            is_interrupted = await self._clear(self._group) or is_interrupted
        self.output.drain_nowait()
        self.output.close()
        if is_interrupted:
            raise KeyboardInterrupt

    async def _wait_ended(self, seconds: float) -> bool:
        """Wait at most that long until server and guard have ended; return whether Ctrl-C cut it short."""
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds):
                for pidfd in (self._guard_pidfd, *self._pidfds):
                    await wait_ended(pidfd)
        except KeyboardInterrupt:
            return True
        return False

    async def _clear(self, group: str) -> bool:
        """Do the guard's last work, in case it was killed; return whether Ctrl-C cut it short."""
        try:
            with trio.CancelScope(shield=True):  # bounded
                await clear_group(group)
        except KeyboardInterrupt:
            return True
        return False

    def _meet(self, fds: list[int]) -> None:
        """Take note of the server's pid.

        Raises:
            OSError: this program has no descriptor left for it.
        """
        if not fds:
            raise OSError(errno.EMFILE, "this program has no descriptor left for a fork server")
        self._pidfds = fds
        self.pid = pid_of(fds[0]) or self.pid


@trio.lowlevel.enable_ki_protection
async def start_server(order: ServerOrder) -> tuple[StartedServer, list[str]]:
    """Start a server, and return it once it can fork, with the `sys.path` that its processes begin with.

    If this is cancelled or fails, no server is left.

    Raises:
        OSError: the system has refused.
        RuntimeError: the server has refused, ended or not answered; says why.
    """
    started = await run_in_launch_thread(lambda: _start(order), _end_at_once)
    path = search_path()
    server = StartedServer(*started)
    try:
        preload = order.preload
        server.link.send(
            {
                "type": "preload",
                "modules": list(preload.modules),
                "folders": list(preload.path),
                "variables": dict(preload.environment),
                "path": path,
                "execs": order.execs,
            }
        )
        await server.wait_up(preload.modules)
    except BaseException:
        await server.end()  # noqa: ASYNC102  # shields itself, and is bounded
        raise
    return server, path


def _start(order: ServerOrder) -> tuple[int, int, socket.socket, int]:
    """Start the guard of a server; runs on the launch thread.

    Returns:
        Its pid, a pidfd, the link to it, and the reading end of its output pipe.

    Raises:
        OSError: the system has refused, and nothing is left.
    """
    with ExitStack() as ours, ExitStack() as theirs:
        link, server_link = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.enter_context(link)
        theirs.enter_context(server_link)
        output, server_output = os.pipe()
        ours.callback(os.close, output)
        theirs.callback(os.close, server_output)
        started = start_interpreter(
            sys.executable,
            "(fork server)",
            "spindle_trio.fork_server._guard",
            pass_fds=[server_link.fileno()],
            arguments=[-1 if order.containment is None else LEVELS.index(order.containment)],
            stdout=server_output,
            stderr=server_output,
            root=None,
            environment=order.environment,
        )
        ours.pop_all()
        return started.pid, started.pidfd, link, output


def _kill_guard(pidfd: int) -> None:
    with RESERVE.lent():
        try:
            pid = pid_of(pidfd)  # not the pid from its start: `/proc` may have another one for it
        except OSError:
            signal_pidfd(pidfd, signal.SIGKILL)
        else:
            if pid is not None:
                kill_tree(pid, pidfd)


def _end_at_once(started: tuple[int, int, socket.socket, int]) -> None:
    """Kill a server that is no longer needed, before it has forked anything; runs on the launch thread."""
    _, pidfd, link, output = started
    _kill_guard(pidfd)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    reap_child(pidfd)
    os.close(pidfd)
    link.close()
    os.close(output)
