"""One fork server, as its host sees it: started, asked for processes, told whom to reap, and ended.

`spindle_trio.fork_server._server` has the other side, and describes what the two say to each other. What the server
says is trusted: it is this package's own program, and no process that it forks has its socket.

Nothing here waits for the server without a bound, and what is asked of it is queued where its socket is full: a server
that was stopped must not stop its host.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import sys
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Final

import attrs
import trio

from spindle_trio._model import Containment
from spindle_trio._stalls import stood_still_since
from spindle_trio.abc import ExitStatus
from spindle_trio.launchers._local._containment import LEVELS, clear_group
from spindle_trio.launchers._local._descriptors import RESERVE
from spindle_trio.launchers._local._forked_process import (
    DESCRIPTORS,
    REAP_SECONDS,
    ForkedProcess,
    NotForked,
    take_process,
)
from spindle_trio.launchers._local._interpreter import search_path, start_interpreter
from spindle_trio.launchers._local._launch_thread import PATIENCE, reap_in_background, run_in_launch_thread
from spindle_trio.launchers._local._output import LineLog, OutputPipe
from spindle_trio.launchers._local._reaper import OwnReaper, Reaper, has_ended
from spindle_trio.launchers._local._tree import kill_tree, pid_of, signal_pidfd

__all__ = ["ForkServer"]

START_SECONDS: Final = 60.0
"""Seconds that a server may take to load what it preloads."""

END_SECONDS: Final = 1.0
"""Seconds that a server may take to end its processes and itself before it is killed."""

LAST_SECONDS: Final = 0.5
"""Seconds that its guard may take after that to end what is left."""

_DATAGRAM_BYTES: Final = 64 * 1024
_SAID_CHARACTERS: Final = 4000
_DRAIN_SECONDS: Final = 0.05
_DATAGRAMS_AT_A_TIME: Final = 16

_log = logging.getLogger("spindle_trio.launchers")

Message = dict[str, object]


class ForkServer(Reaper):
    """One server process. It is also the reaper of the processes that it has forked."""

    def __init__(
        self,
        guard_pid: int,
        guard_pidfd: int,
        link: socket.socket,
        output: int,
        *,
        path: list[str],
        environment: Mapping[str, str],
    ) -> None:
        """Take over what `start` has made."""
        link.setblocking(False)
        self.pid: int = guard_pid
        """The server's own number, once it has one of its own."""
        self.containment: Containment = Containment.KILLPG
        """The level that its guard has found, once it is up."""
        self.containment_problems: Mapping[Containment, str] = {}
        """Why each stronger one does not work."""
        self.path: Final = path
        """The `sys.path` that its processes begin with."""
        self.environment: Final = environment
        """The environment that they begin with."""
        self.is_gone: bool = False
        """Whether it has ended, or is being ended."""
        self.heard_at: float = trio.current_time()
        """When it last said something, on Trio's clock."""
        self._guard_pid: Final = guard_pid
        self._guard_pidfd = guard_pidfd
        self._pidfds: list[int] = []  # of the server, and of what is between it and its guard
        self._group: str | None = None  # the control group of its processes, if they have one
        self._link = link
        self._output = OutputPipe(output, "fork_server", LineLog(f"fork server {guard_pid}"))
        self._unsent: deque[bytes] = deque()
        self._has_unsent = trio.lowlevel.ParkingLot()
        self._reaping: dict[int, _Reaping] = {}
        self._said_status: dict[int, ExitStatus] = {}  # what inits have said of processes that are still to be reaped

    def __repr__(self) -> str:
        return f"<ForkServer {'gone' if self.is_gone else 'running'} pid={self.pid}>"

    @staticmethod
    @trio.lowlevel.enable_ki_protection
    async def start(
        preload: Sequence[str], environment: Mapping[str, str], containment: Containment | None, *, execs: bool
    ) -> ForkServer:
        """Start a server, and return once it can fork.

        If this is cancelled or fails, no server is left.

        Args:
            preload: the names of modules that it loads before it forks.
            environment: its environment; processes get their own.
            containment: the level that alone will do; `None` for the strongest that works.
            execs: whether its processes become other programs.

        Raises:
            OSError: the system has refused.
            RuntimeError: the server has refused, ended or not answered; says why.
        """
        started = await run_in_launch_thread(lambda: _start(environment, containment), _end_at_once)
        path = search_path()
        server = ForkServer(*started, path=path, environment=environment)
        try:
            server._send({"type": "preload", "modules": list(preload), "path": path, "execs": execs})
            await server._wait_up(preload)
        except BaseException:
            await server.end()  # noqa: ASYNC102  # shields itself, and is bounded
            raise
        return server

    async def serve(self, hear: Callable[[ForkedProcess | NotForked], None]) -> None:
        """Pass on what the server says, send what is to be sent, and drain its output, until it is gone.

        Args:
            hear: told of each process, whose owner it becomes, and of each that could not be forked.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._output.drain)
            nursery.start_soon(self._flush)
            try:
                while True:
                    await trio.lowlevel.checkpoint()
                    if not self._read(hear):
                        await trio.lowlevel.wait_readable(self._link)
            except EOFError:
                pass
            self.is_gone = True
            for reaping in self._reaping.values():
                reaping.is_over.set()
            nursery.cancel_scope.cancel()

    def request(self, *, spare: bool) -> None:
        """Ask for a process: for a launch that waits, or as a spare."""
        self._send({"type": "fork", "spare": spare})

    def discard(self, number: int) -> None:
        """Have a process killed and reaped."""
        self._send({"type": "discard", "number": number})

    async def reap(self, number: int, pidfd: int) -> ExitStatus:
        """Have the server reap a process; see `Reaper.reap`. Takes `PATIENCE` seconds at most."""
        status = await self.have_reaped("reap", number)
        if self.is_gone and status == ExitStatus():
            # What it leaves behind is this program's own where that adopts orphans, as the first one of a container.
            status = OwnReaper().reap_nowait(pidfd)
        if self.is_gone and status == ExitStatus():
            status = ExitStatus(together_with=f"its fork server (pid {self.pid})")
        return status

    async def have_reaped(self, request: str, number: int) -> ExitStatus:
        """Ask for something that ends with a process being reaped, and wait for that, `PATIENCE` seconds at most.

        A server that says nothing is waited for `REAP_SECONDS`; while it says something, it is busy with what was asked
        of it before. How the process has ended its parent says: at level `sweep` its init, which does not need the
        server for that, and elsewhere the server.
        """
        reaping = self._reaping[number] = _Reaping()
        began_at = trio.current_time()
        try:
            self._send({"type": request, "number": number})
            while not (reaping.is_over.is_set() or self.is_gone):
                give_up_at = min(max(began_at, self.heard_at) + REAP_SECONDS, began_at + PATIENCE)
                if trio.current_time() >= give_up_at and not self.has_said_more():
                    _log.warning(
                        "fork server %d does not answer, and has still to reap its process %d", self.pid, number
                    )
                    break
                with trio.CancelScope(deadline=give_up_at):
                    await reaping.is_over.wait()
                now = trio.current_time()  # time in which this program stood still says nothing about its server
                began_at += now - stood_still_since(give_up_at, began_at, now)
        finally:
            del self._reaping[number]
        return self._said_status.pop(number, reaping.status)

    def has_said_more(self) -> bool:
        """Tell whether something that it has said waits to be heard: then this program is late, and not the server."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        return not self.is_gone and bool(poll.poll(0))

    def reap_whenever(self, process_id: str, pid: int, number: int, pidfd: int) -> None:
        """Have the server reap a process when it ends; see `Reaper.reap_whenever`."""
        _log.error("process %s (pid %d) has withstood SIGKILL: abandoned, and reaped when it ends", process_id, pid)
        os.close(pidfd)
        self._send({"type": "reap", "number": number})

    @trio.lowlevel.enable_ki_protection
    async def end(self) -> None:
        """End the server with all that it has forked, and reap it. Bounded, and shielded.

        Raises:
            KeyboardInterrupt: Ctrl-C came meanwhile. The server is gone all the same.
        """
        self.is_gone = True
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)  # a forked copy of this program may hold the socket too
        self._link.close()  # its own end sees the end of the stream, and ends
        is_interrupted = await self._wait_ended(END_SECONDS)
        for pidfd in self._pidfds:
            signal_pidfd(pidfd, signal.SIGKILL)
        is_interrupted = await self._wait_ended(LAST_SECONDS) or is_interrupted
        _kill_guard(self._guard_pidfd)  # with whatever a module has started while it was loaded
        is_interrupted = await self._wait_ended(PATIENCE) or is_interrupted
        if has_ended(self._guard_pidfd):
            OwnReaper().reap_nowait(self._guard_pidfd)
            os.close(self._guard_pidfd)
        else:
            reap_in_background("(fork server)", self._guard_pid, self._guard_pidfd)
        for pidfd in self._pidfds:
            if has_ended(pidfd):
                OwnReaper().reap_nowait(pidfd)  # if its guard was killed, and this program adopts orphans
            os.close(pidfd)
        self._pidfds.clear()
        if self._group is not None:
            is_interrupted = await self._clear(self._group) or is_interrupted
        self._output.drain_nowait()
        self._output.close()
        if is_interrupted:
            raise KeyboardInterrupt

    async def _wait_ended(self, seconds: float) -> bool:
        """Wait until server and guard have ended, so long at most; says whether that was cut short by Ctrl-C."""
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds):
                for pidfd in (self._guard_pidfd, *self._pidfds):
                    await trio.lowlevel.wait_readable(pidfd)
        except KeyboardInterrupt:
            return True
        return False

    async def _clear(self, group: str) -> bool:
        """Do what its guard does last, unless that was killed; says whether it was cut short by Ctrl-C."""
        try:
            with trio.CancelScope(shield=True):  # bounded
                await clear_group(group)
        except KeyboardInterrupt:
            return True
        return False

    def output_tail(self) -> str:
        """Return the last of what the server has written to stdout and stderr, as text."""
        self._output.drain_nowait()
        return self._output.tail.text().strip()

    async def _wait_up(self, preload: Sequence[str]) -> None:
        """Wait until the server can fork.

        Raises:
            RuntimeError: it has refused, ended or not answered.
        """
        doing = "starting"
        with trio.move_on_after(START_SECONDS):
            while True:
                try:
                    message, fds = self._receive()
                except BlockingIOError:
                    # A server that cannot print does not go on. A task to drain its output would need a nursery, and
                    # a Ctrl-C that comes meanwhile would come out of that in a group.
                    with trio.move_on_after(_DRAIN_SECONDS):
                        await trio.lowlevel.wait_readable(self._link)
                    self._output.drain_nowait()
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
                    case {"type": "refused", "error": str(error)}:
                        raise RuntimeError(f"the fork server cannot start: {error}")
                    case {"type": "loading", "module": int(place)}:
                        doing = f"loading the module {preload[place]!r}"
                    case _:
                        _log.error("fork server %d said what this host does not know: %r", self.pid, message)
        raise RuntimeError(f"the fork server was still {doing} after {START_SECONDS:g} s; preload less")

    def _read(self, hear: Callable[[ForkedProcess | NotForked], None]) -> bool:
        """Take in what the server has said, and say whether there may be more.

        Raises:
            EOFError: the server is gone.
        """
        for _ in range(_DATAGRAMS_AT_A_TIME):
            try:
                message, fds = self._receive()
            except BlockingIOError:
                return False
            self._take(message, fds, hear)
        return True

    def _receive(self) -> tuple[Message, list[int]]:
        """Receive a datagram, with the descriptors that came with it.

        Raises:
            BlockingIOError: there is none.
            EOFError: the server is gone.
        """
        try:
            data, ancillary, _, _ = self._link.recvmsg(
                _DATAGRAM_BYTES, socket.CMSG_SPACE(DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            raise
        except OSError:
            raise EOFError from None
        if not data:
            raise EOFError
        self.heard_at = trio.current_time()
        message: Message = json.loads(data)
        return message, _descriptors(ancillary)

    def _meet(self, fds: list[int]) -> None:
        """Learn who the server is.

        Raises:
            RuntimeError: this program has no descriptor left for it.
        """
        if not fds:
            raise RuntimeError("this program has no descriptors left for a fork server: raise its limit (ulimit -n)")
        self._pidfds = fds
        self.pid = pid_of(fds[0]) or self.pid

    def _take(self, message: Message, fds: list[int], hear: Callable[[ForkedProcess | NotForked], None]) -> None:
        match message:
            case {"type": "forked", "number": int(number), "spare": bool(is_spare)}:
                group = message.get("group")
                assert group is None or isinstance(group, str)
                hear(take_process(self, number, fds, group=group, is_spare=is_spare))
            case {"type": "not forked", "errno": int(errno), "error": str(text), "spare": bool(is_spare)}:
                init = message.get("number")
                if isinstance(init, int):
                    self.discard(init)
                hear(NotForked(OSError(errno, f"the fork server could not fork: {text}"), is_spare))
            case {"type": "ended", "number": int(number), "status": int(status)}:
                self._said_status[number] = _exit_status(status)
            case {"type": "reaped", "number": int(number), "status": int(status)}:
                reaping = self._reaping.get(number)
                if reaping is not None:
                    reaping.status = _exit_status(status)
                    reaping.is_over.set()
                else:
                    self._said_status.pop(number, None)
            case _:
                _log.error("fork server %d said what this host does not know: %r", self.pid, message)

    def _send(self, message: Message) -> None:
        """Send a datagram, or queue it if the server does not read. A server that is gone hears nothing."""
        if self.is_gone:
            return
        self._unsent.append(json.dumps(message).encode())
        self._send_unsent()
        if self._unsent:
            self._has_unsent.unpark_all()

    def _send_unsent(self) -> None:
        try:
            while self._unsent:
                self._link.send(self._unsent[0], socket.MSG_NOSIGNAL)
                self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # it is gone; whoever reads from it will see

    async def _flush(self) -> None:
        while True:
            while self._unsent:
                await trio.lowlevel.wait_writable(self._link)
                self._send_unsent()
            await self._has_unsent.park()


@attrs.define(eq=False)
class _Reaping:
    """A process that is being reaped."""

    is_over: trio.Event = attrs.field(factory=trio.Event)
    status: ExitStatus = attrs.field(factory=ExitStatus)


def _exit_status(status: int) -> ExitStatus:
    """Translate what the server's `waitpid` said."""
    code = os.waitstatus_to_exitcode(status)
    return ExitStatus(code=code) if code >= 0 else ExitStatus(signal=-code)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def _start(environment: Mapping[str, str], containment: Containment | None) -> tuple[int, int, socket.socket, int]:
    """Start the guard of a server; runs on the launch thread.

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
            arguments=[-1 if containment is None else LEVELS.index(containment)],
            stdout=server_output,
            stderr=server_output,
            root=None,
            environment=environment,
        )
        ours.pop_all()
        return started.pid, started.pidfd, link, output


def _kill_guard(pidfd: int) -> None:
    with RESERVE.lent():
        try:
            pid = pid_of(pidfd)  # not what it was when it was started: `/proc` may have another one for it
        except OSError:
            signal_pidfd(pidfd, signal.SIGKILL)
        else:
            if pid is not None:
                kill_tree(pid, pidfd)


def _end_at_once(started: tuple[int, int, socket.socket, int]) -> None:
    """Kill a server that nobody wants any more, before it has forked anything; runs on the launch thread."""
    _, pidfd, link, output = started
    _kill_guard(pidfd)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    OwnReaper().reap_nowait(pidfd)
    os.close(pidfd)
    link.close()
    os.close(output)
