"""What every launcher on a fork server has in common: processes that are forked, and spares that wait to be used.

Theory of operation
-------------------

A server (`_fork_server`) hands out processes, each of which waits on its control lane for its first frame. So any
process serves any launch, which takes a spare, or asks for a process and waits for the next one that comes, and then
sends it the order. A launch that gave up leaves its process to whoever comes next.

One task owns the server, from `start` to `aclose`. When the server is gone, launches that wait for it fail, its
processes die with it (each says so through its own pidfd), and the task starts another one, after a pause that doubles
with each server that did not live long. Launches that come meanwhile wait for the new one.

Spares are asked for a moment after the last launch: forking them, and even asking for it, would hold up the processes
that somebody waits for.
"""

from __future__ import annotations

import logging
import math
import os
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from spindle_trio._environment import passed_on_environment
from spindle_trio._model import Containment, ResolvedEntry
from spindle_trio._stalls import stood_still_since
from spindle_trio.abc import Launcher, LaunchOrder
from spindle_trio.launchers._entry_path import PYTHON_SUFFIXES, resolve_entry
from spindle_trio.launchers._local._descriptors import RESERVE, raise_limit
from spindle_trio.launchers._local._first_frames import check_surroundings
from spindle_trio.launchers._local._fork_server_client import ForkServer
from spindle_trio.launchers._local._forked_process import ForkedProcess, NotForked
from spindle_trio.launchers._local._local_process import ProcessBlock, ProcessParts
from spindle_trio.launchers._local._memory_events import MemoryEvents
from spindle_trio.launchers._local._reaper import has_ended
from spindle_trio.launchers._local._requirements import require_real_processes

__all__ = ["ServerLauncher"]

ANSWER_SECONDS: Final = 5.0
"""Seconds without a word from the server after which a launch that waits for it has failed."""

SILENT_SECONDS: Final = 0.5
"""Seconds without a word from the server after which a launch that was cancelled does not wait for its process."""

FIRST_PAUSE: Final = 0.1
"""Seconds before a server that has ended is replaced; doubled up to `LONGEST_PAUSE` while servers do not live long."""

LONGEST_PAUSE: Final = 5.0

QUIET_SECONDS: Final = 0.005
"""Seconds after the last launch in which no spare is forked."""

LONG_LIFE: Final = 10.0
"""Seconds after which a server counts as one that works."""

_log = logging.getLogger("spindle_trio.launchers")


class ServerLauncher(Launcher):
    """A launcher that has a fork server for as long as it serves a host."""

    def __init__(self, *, preload: Sequence[str], spares: int, containment: Containment | None, execs: bool) -> None:
        """Prepare; starts nothing.

        Args:
            preload: the modules that the server imports once, for all processes.
            spares: how many processes wait for the next launches.
            containment: the level that alone will do; `None` for the strongest that works.
            execs: whether each process becomes another program.

        Raises:
            ValueError: `spares` is negative or no integer, or `containment` is no level.
        """
        if type(spares) is not int or spares < 0:
            raise ValueError(f"spares must be an integer, 0 or more, not {spares!r}")
        self._preload = preload
        self._wanted_spares = spares
        self._wanted_containment = None if containment is None else Containment(containment)
        self._execs = execs
        self._server: ForkServer | None = None
        self._credentials: tuple[object, ...] = ()  # the server's
        self._pool: deque[ForkedProcess] = deque()
        self._spares_owed = 0
        self._waiting: deque[_Claim] = deque()
        self._is_short = trio.lowlevel.ParkingLot()
        self._memory_events: MemoryEvents | None = None
        self._is_started = False
        self._containment: Containment | None = None
        self._containment_problems: Mapping[Containment, str] = {}

    @property
    def containment(self) -> Containment | None:
        """The level that works here; see `Launcher.containment`."""
        return self._containment

    @property
    def containment_problems(self) -> Mapping[Containment, str]:
        """Why each stronger one does not; see `Launcher.containment_problems`."""
        return self._containment_problems

    @property
    def server_pid(self) -> int | None:
        """The operating system's number for the server; `None` while there is none."""
        return None if self._server is None else self._server.pid

    async def start(self) -> None:
        """Start the server, and return once it can fork; see `Launcher.start`.

        Raises:
            RuntimeError: this system cannot do what is needed, this program does not run in real time, a module cannot
                be preloaded, the level of containment that was asked for does not work, or this launcher serves another
                host at the moment; says what is wrong.
            OSError: the system refused to start the server.
        """
        name = type(self).__name__
        require_real_processes(name)
        if self._is_started:
            raise RuntimeError(f"this {name} serves a host already; give each host a launcher of its own")
        self._is_started = True
        RESERVE.open()
        try:
            raise_limit()
            server = await self._start_server(self._wanted_containment)
        except BaseException:
            RESERVE.close()
            self._is_started = False
            raise
        self._memory_events = MemoryEvents.of_this_program()
        self._launched_at = -math.inf  # the clock of another Trio run would say nothing in this one
        self._scope = trio.CancelScope(shield=True)
        self._use(server)
        # Its one task runs under a shield of its own until `aclose`: processes are reaped through it while whoever
        # has opened the host is being cancelled.
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        self._nursery.start_soon(self._run, server)

    async def aclose(self) -> None:
        """End the server and whatever it has forked; see `Launcher.aclose`."""
        self._scope.cancel()
        self._nursery.cancel_scope.shield = True  # its task ends at once, within the bounds of `ForkServer.end`
        try:
            await self._nursery_manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            if group.split(KeyboardInterrupt)[1] is not None:
                raise
            raise KeyboardInterrupt from None  # came while its task ended; nobody else has made a group
        finally:
            RESERVE.close()
            self._is_started = False

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        """Accept or refuse an entry; see `Launcher.resolve`."""
        return resolve_entry(entry, root, PYTHON_SUFFIXES)

    def launch(self, order: LaunchOrder) -> ProcessBlock:
        """Give a process the entry to run; see `Launcher.launch`."""
        return ProcessBlock(order, lambda: self._launch(order))

    @abstractmethod
    def _first_frames(self, order: LaunchOrder, server: ForkServer) -> Sequence[bytes]:
        """Write what a process of a server is told first, on its control lane: frame by frame, without their headers.

        Raises:
            OSError: it is known already that this launch cannot succeed.
        """

    def _leaves_stacks(self, order: LaunchOrder) -> bool:
        """Tell whether what runs the entry writes its stacks into the page when it is asked to."""
        return True

    def _waits_to_send(self, order: LaunchOrder) -> bool:
        """Tell whether what runs the entry holds that up until a message that has left in part has left whole."""
        return True

    async def _start_server(self, containment: Containment | None) -> ForkServer:
        return await ForkServer.start(self._preload, passed_on_environment(), containment, execs=self._execs)

    async def _launch(self, order: LaunchOrder) -> ProcessParts:
        check_surroundings(order)
        if _credentials() != self._credentials:
            raise PermissionError(
                "this program has changed its user or groups since its fork server was started, and processes would "
                "have the old ones; open the host after the change"
            )
        forked = self._take_spare()
        if forked is None:
            forked = await self._wait_for_process()
        try:
            first_frames = self._first_frames(order, forked.server)
        except BaseException:
            await forked.end()  # noqa: ASYNC102  # bounded; it ends as for any launch that is given up
            raise
        self._launched_at = trio.current_time()
        self._is_short.unpark_all()
        return ProcessParts(
            forked.pid,
            forked.pidfd,
            forked.number,
            forked.server,
            forked.tree,
            forked.control,
            forked.messages,
            forked.stdout,
            forked.stderr,
            forked.page,
            first_frames,
            self._leaves_stacks(order),
            self._waits_to_send(order),
            self._memory_events,
        )

    def _take_spare(self) -> ForkedProcess | None:
        """Take a spare that is alive, if there is one."""
        taken: ForkedProcess | None = None
        while taken is None and self._pool:
            taken = self._pool.popleft()
            if has_ended(taken.pidfd):
                taken.discard()
                taken = None
        return taken

    async def _wait_for_process(self) -> ForkedProcess:
        """Wait for the next process that the server hands out.

        If this is cancelled, the process that was asked for is waited for all the same, and given back: when the
        cancellation goes on, nothing is on its way any more, unless the server has said nothing for `SILENT_SECONDS`.

        Raises:
            OSError: the server could not fork, has not answered, or has ended; or none could be started.
        """
        claim = _Claim()
        self._waiting.append(claim)
        if self._server is not None:
            self._server.request(spare=False)
        try:
            await self._wait_for_answer(claim)
        except trio.Cancelled:
            with trio.CancelScope(shield=True, deadline=self._heard_at(claim) + SILENT_SECONDS):
                if self._server is not None:
                    await claim.is_over.wait()
                if claim.process is not None and not self._keep(claim.process):
                    await claim.process.end()
            self._is_short.unpark_all()  # spares were not asked for as long as this waited
            raise
        finally:
            if not claim.is_over.is_set():
                self._waiting.remove(claim)
        if claim.process is None:
            raise claim.error
        return claim.process

    async def _wait_for_answer(self, claim: _Claim) -> None:
        while not claim.is_over.is_set():
            heard_at = self._heard_at(claim)
            give_up_at = heard_at + ANSWER_SECONDS
            if trio.current_time() >= give_up_at and not (self._server is not None and self._server.has_said_more()):
                who = "the fork server" if self._server is None else f"the fork server (pid {self._server.pid})"
                raise OSError(f"{who} has not answered for {ANSWER_SECONDS:g} s")
            with trio.CancelScope(deadline=give_up_at):
                await claim.is_over.wait()
            now = trio.current_time()  # time in which this program stood still says nothing about its server
            claim.began_at = heard_at + now - stood_still_since(give_up_at, heard_at, now)

    def _heard_at(self, claim: _Claim) -> float:
        return claim.began_at if self._server is None else max(claim.began_at, self._server.heard_at)

    # What the server says.

    def _hear(self, said: ForkedProcess | NotForked) -> None:
        if said.is_spare:
            self._spares_owed -= 1
        if isinstance(said, ForkedProcess):
            if self._waiting:
                self._waiting.popleft().give(said)
            elif not self._keep(said):
                said.discard()
        elif not said.is_spare and self._waiting:
            self._waiting.popleft().refuse(said.error)
        else:
            _log.warning("no spare process: %s", said.error)

    def _keep(self, forked: ForkedProcess) -> bool:
        """Keep a process that nobody waits for as a spare, and say whether that was done: not if there are enough."""
        is_wanted = forked.server is self._server and len(self._pool) < self._wanted_spares
        if is_wanted:
            self._pool.append(forked)
        return is_wanted

    # The server's life.

    @trio.lowlevel.enable_ki_protection
    async def _run(self, server: ForkServer) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_spares)
                await self._keep_servers(server)

    @trio.lowlevel.enable_ki_protection
    async def _keep_spares(self) -> None:
        """Ask for the spares that are missing, whenever the last launch is a moment ago."""
        while True:
            quiet_at = self._launched_at + QUIET_SECONDS
            if trio.current_time() < quiet_at:
                await trio.sleep_until(quiet_at)
                continue
            if self._server is not None and not self._waiting:
                for _ in range(self._wanted_spares - len(self._pool) - self._spares_owed):
                    self._spares_owed += 1
                    self._server.request(spare=True)
            await self._is_short.park()

    async def _keep_servers(self, server: ForkServer) -> None:
        """Serve one server after the other, until `aclose`."""
        pause = FIRST_PAUSE
        while True:
            began_at = trio.current_time()
            try:
                await server.serve(self._hear)
            finally:
                self._server = None
                # Before anything is waited for: whoever comes from now on waits for the next server.
                self._refuse_waiting(OSError(f"the fork server (pid {server.pid}) has ended; another one is started"))
                spares, self._pool = self._pool, deque()
                await server.end()  # noqa: ASYNC102  # shields itself, and is bounded
                with trio.CancelScope(shield=True, deadline=trio.current_time() + SILENT_SECONDS):
                    for spare in spares:  # which die with their server
                        await spare.end()
            said = server.output_tail()
            _log.error("fork server %d has ended, and all its processes with it%s", server.pid, said and f": {said}")
            if trio.current_time() - began_at > LONG_LIFE:
                pause = FIRST_PAUSE
            server, pause = await self._start_again(pause)

    async def _start_again(self, pause: float) -> tuple[ForkServer, float]:
        """Start another server, as often as it takes; returns it with the pause before the next one."""
        while True:
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                server = await self._start_server(self._containment)
            except Exception as error:
                _log.exception("no fork server could be started; the next attempt follows in %g s", pause)
                self._refuse_waiting(OSError(f"no fork server could be started: {error}"))
            else:
                self._use(server)
                return server, pause

    def _use(self, server: ForkServer) -> None:
        self._server = server
        self._containment = server.containment
        self._containment_problems = server.containment_problems
        self._credentials = _credentials()
        self._spares_owed = 0
        for _ in self._waiting:
            server.request(spare=False)
        self._is_short.unpark_all()

    def _refuse_waiting(self, error: OSError) -> None:
        while self._waiting:
            self._waiting.popleft().refuse(error)


def _credentials() -> tuple[object, ...]:
    """Tell with whose rights this program runs."""
    return os.getresuid(), os.getresgid(), os.getgroups()


@attrs.define(eq=False)
class _Claim:
    """A launch that waits for a process."""

    began_at: float = attrs.field(factory=trio.current_time)
    is_over: trio.Event = attrs.field(factory=trio.Event)
    process: ForkedProcess | None = None
    error: OSError = attrs.field(factory=lambda: OSError("the launch was given up"))

    def give(self, process: ForkedProcess) -> None:
        self.process = process
        self.is_over.set()

    def refuse(self, error: OSError) -> None:
        self.error = error
        self.is_over.set()
