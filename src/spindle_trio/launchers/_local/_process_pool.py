"""Processes for launches: spares that wait to be used, and launches that wait for a process.

A server hands out processes, each of which waits on its control lane for its first frame. So any process serves any
launch. A launch takes a spare, or asks for a process and waits for the next one. A launch that gives up leaves its
process to the next launch.

The pool asks for spares a moment after the last launch: forking them, or even asking, would hold up processes that a
launch waits for.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import Final

import attrs
import trio

from spindle_trio._stalls import stood_still_since
from spindle_trio.launchers._local._fork_server_client import ForkServer
from spindle_trio.launchers._local._forked_process import ForkedProcess, NotForked
from spindle_trio.launchers._local._reaper import has_ended

__all__ = ["SILENT_SECONDS", "ProcessPool"]

ANSWER_SECONDS: Final = 5.0
"""Seconds of silence from the server after which a waiting launch fails."""

SILENT_SECONDS: Final = 0.5
"""Seconds of silence from the server after which a cancelled launch no longer waits for its process."""

QUIET_SECONDS: Final = 0.005
"""Seconds after a launch during which the pool asks for no spares."""

READ_AHEAD: Final = 4
"""How many entries a spare reads ahead: those launched last."""

_log = logging.getLogger("spindle_trio.launchers")


class ProcessPool:
    """The spares of the current server, and the launches that wait."""

    def __init__(self, wanted_spares: int) -> None:
        """Begin without a server.

        Args:
            wanted_spares: how many processes should wait for the next launches.
        """
        self.wanted_spares: Final = wanted_spares
        self.spares: Final[deque[ForkedProcess]] = deque()
        self.waiting: Final[deque[_WaitingLaunch]] = deque()
        self.server: ForkServer | None = None
        """The current server; `None` while there is none."""
        self._owed: list[str | None] = []  # spares that were asked for: what each is prepared for
        self._sleep = trio.CancelScope()  # of the task that asks for spares
        self._look_at = -math.inf  # when it looks next
        self._launched_at = -math.inf
        self._expects_sandboxes = False
        self._lately: dict[str, None] = {}  # files of Python entries that were launched, the last one last

    def use(self, server: ForkServer) -> None:
        """Have a server fork from now on, first for the launches that wait."""
        self.server = server
        if self._expects_sandboxes:
            server.expect_sandboxes()
        self._owed.clear()
        self._launched_at = -math.inf  # the clock of another Trio run means nothing in this one
        for launch in self.waiting:
            launch.began_at = trio.current_time()
            launch.nap.deadline = launch.began_at + ANSWER_SECONDS
            server.request(spare=False)
        self._look_soon(-math.inf)

    def expect_sandboxes(self) -> None:
        """Have processes that are forked from now on ready for sandboxes. May be called any number of times."""
        if not self._expects_sandboxes:
            self._expects_sandboxes = True
            if self.server is not None:
                self.server.expect_sandboxes()

    async def drop_server(self, error: OSError) -> None:
        """End a server that is gone, with its spares. Launches that wait for it fail; later ones wait for the next.

        Bounded, and shielded.
        """
        server, self.server = self.server, None
        assert server is not None, "only a server in use is dropped"
        # Before waiting for anything: launches from now on wait for the next server.
        self.refuse_waiting(error)
        spares = list(self.spares)
        self.spares.clear()
        await server.end()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SILENT_SECONDS):
            for spare in spares:  # which die with their server
                await spare.end()

    def refuse_waiting(self, error: OSError) -> None:
        """Fail all launches that wait for a process."""
        while self.waiting:
            self.waiting.popleft().refuse(error)

    async def take(self, file: str) -> ForkedProcess:
        """Take a spare, or wait for a process. While there is no server, it waits for as long as its caller lets it.

        If cancelled, it still waits for the process that it asked for, and gives it back. So after the cancellation
        nothing is on its way, unless the server was silent for `SILENT_SECONDS`.

        Args:
            file: what it is to run; a spare that is prepared for that comes first.

        Raises:
            OSError: the server could not fork, has not answered, or has ended; or none could be started.
        """
        forked = self.take_spare(file)
        return await self._wait_for_process() if forked is None else forked

    def note_launch(self, file: str | None) -> None:
        """Note that a process was launched: spares are missing, but are not asked for at once.

        Args:
            file: what it runs, if spares are to read that ahead.
        """
        self._launched_at = trio.current_time()
        if file is not None:
            self._lately.pop(file, None)
            self._lately[file] = None
            if len(self._lately) > READ_AHEAD:
                del self._lately[next(iter(self._lately))]
        self._look_soon(self._launched_at + QUIET_SECONDS)

    def hear(self, said: ForkedProcess | NotForked) -> None:
        """Take a process from the server, or its report that it could not fork."""
        if said.is_spare and self._owed:
            self._owed.remove(said.expected if said.expected in self._owed else self._owed[0])
        if isinstance(said, ForkedProcess):
            if self.waiting:
                self.waiting.popleft().give(said)
            elif not self._keep(said):
                said.discard()
        elif not said.is_spare and self.waiting:
            self.waiting.popleft().refuse(said.error)
        else:
            _log.warning("no spare process: %s", said.error)

    @trio.lowlevel.enable_ki_protection
    async def keep_spares(self) -> None:
        """Ask for missing spares, a moment after each last launch; never returns."""
        while True:
            with trio.CancelScope(deadline=self._look_at) as self._sleep:
                await trio.sleep_forever()
            self._look_at = self._launched_at + QUIET_SECONDS
            if trio.current_time() < self._look_at:
                continue
            self._look_at = math.inf
            if self.server is not None and not self.waiting:
                for file in self._missing_spares():
                    self._owed.append(file)
                    others = [other for other in self._lately if other != file]
                    self.server.request(spare=True, ahead=others if file is None else [file, *others])

    def _look_soon(self, at: float) -> None:
        """Have `keep_spares` look then. To move its deadline costs a launch less than to wake it."""
        if at < self._look_at:
            self._look_at = self._sleep.deadline = at

    def take_spare(self, file: str) -> ForkedProcess | None:
        """Take a spare that is alive, if there is one: the one prepared for this file, or else the oldest."""
        while self.spares:
            spare = next((spare for spare in self.spares if spare.expected == file), self.spares[0])
            self.spares.remove(spare)
            if not has_ended(spare.pidfd):
                return spare
            spare.discard()
        return None

    def _missing_spares(self) -> list[str | None]:
        """Tell which spares are missing: what each should be prepared for.

        All entries launched lately have one, as far as the spares suffice, and the one launched last has the rest.
        """
        lately: list[str | None] = [*reversed(self._lately)] or [None]
        wanted = lately[: self.wanted_spares]
        wanted += lately[:1] * (self.wanted_spares - len(wanted))
        there = [*(spare.expected for spare in self.spares), *self._owed]
        for expected in there:
            if expected in wanted:
                wanted.remove(expected)
        return wanted[: max(0, self.wanted_spares - len(there))]

    def _keep(self, forked: ForkedProcess) -> bool:
        """Keep an unneeded process as a spare, unless there are enough; return whether it was kept."""
        is_wanted = forked.parent is self.server and len(self.spares) < self.wanted_spares
        if is_wanted:
            self.spares.append(forked)
        return is_wanted

    async def _wait_for_process(self) -> ForkedProcess:
        launch = _WaitingLaunch()
        self.waiting.append(launch)
        if self.server is not None:
            self.server.request(spare=False)
        try:
            await self._wait_for_answer(launch)
        except trio.Cancelled:
            with trio.CancelScope(shield=True, deadline=self._heard_at(launch) + SILENT_SECONDS):
                if self.server is not None:
                    await launch.is_over.wait()
                if launch.process is not None and not self._keep(launch.process):
                    await launch.process.end()
            self._look_soon(-math.inf)  # the pool asked for no spares while this waited
            raise
        finally:
            if not launch.is_over.is_set():
                self.waiting.remove(launch)
        if launch.process is None:
            raise launch.error
        return launch.process

    async def _wait_for_answer(self, launch: _WaitingLaunch) -> None:
        while not launch.is_over.is_set():
            heard_at = self._heard_at(launch)
            give_up_at = heard_at + ANSWER_SECONDS
            if self.server is not None and trio.current_time() >= give_up_at and not self.server.has_said_more():
                raise OSError(f"the fork server (pid {self.server.pid}) has not answered for {ANSWER_SECONDS:g} s")
            with trio.CancelScope(deadline=give_up_at) as launch.nap:
                await launch.is_over.wait()
            if heard_at < math.inf:
                now = trio.current_time()  # time in which this program stood still does not count against its server
                launch.began_at = heard_at + now - stood_still_since(give_up_at, heard_at, now)

    def _heard_at(self, launch: _WaitingLaunch) -> float:
        """Return since when the server owes an answer; `math.inf` while there is no server."""
        return math.inf if self.server is None else max(launch.began_at, self.server.heard_at)


@attrs.define(eq=False)
class _WaitingLaunch:
    """A launch that waits for a process."""

    began_at: float = attrs.field(factory=trio.current_time)
    is_over: trio.Event = attrs.field(factory=trio.Event)
    nap: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    process: ForkedProcess | None = None
    error: OSError = attrs.field(factory=lambda: OSError("the launch was given up"))

    def give(self, process: ForkedProcess) -> None:
        self.process = process
        self.is_over.set()

    def refuse(self, error: OSError) -> None:
        self.error = error
        self.is_over.set()
