"""Shared by the tests of reliability: hosts at each level of containment, good neighbours, and lists of survivors.

A *neighbourhood* is one host with well-behaved processes. A *mischief* is what one hostile entry does in it: how
that must end, in which words, and how soon. After each of them the neighbours have to answer, with the right count.
Mischiefs happen some at a time, which is quicker, or one by one, which names the culprit where a neighbour suffers.
"""

from __future__ import annotations

import functools
import math
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from spindle_trio import Host, LifecycleEvent, Limits, ProcessHandle, ProcessMessage, Worker, open_host
from spindle_trio.abc import LaunchedProcess, Launcher
from spindle_trio.launchers import ForkServerLauncher
from support.contract import exists
from support.fork_server import wait_until
from support.lateness import wait_within, waited_for_processor
from support.leftovers import MARK, alive, describe
from support.numbers import outside

try:
    from spindle_trio import Containment
except ImportError:
    LEVELS: tuple[str, ...] = ("killpg",)
else:
    LEVELS = tuple(str(level) for level in Containment)

RARE_LEVELS = frozenset({"cgroup", "sweep"})
"""Looked at by the long run alone. They lie between the strongest level and the weakest one."""

RARE_FOR_TALK = RARE_LEVELS | {"killpg"}
"""The same, for what is said on lanes and pipes: that does not depend on the level."""

ENTRIES = Path(__file__).parents[1] / "entries"

NEIGHBOURS = 8
MANY_NEIGHBOURS = 20
"""How many there are where mischiefs happen one by one."""

TREE_LEVELS = frozenset({"pidns", "cgroup"})
"""Levels at which everything that a process has started is gone when its end is announced."""

STRONG_LEVELS = TREE_LEVELS | {"sweep"}
"""Levels at which everything is gone within a second, even what has left its session and its parents."""

NAMESPACE_LEVELS = frozenset({"pidns"})
"""Levels at which a process sees only its own descendants, and its parent is not the server of all."""

GRACE_SECONDS = 0.5
FRAME_SECONDS = 0.5
HEARTBEAT_SECONDS = 0.5
STARTUP_SECONDS = 0.5

CONTROL_PATIENCE = LaunchedProcess.control_patience
"""Seconds that a process may live on that has closed its control lane."""

SLACK = 1.0
"""Seconds of its own time by which a host may miss a deadline (reliability, row 11)."""

KILLED = "killed by SIGKILL(, not for lack of memory,)?"
"""The text for a SIGKILL from elsewhere: not every system reports kills for lack of memory."""

PROMPT = (0.0, 2.0)
"""Bounds of the seconds from ready to the end of what ends at once, on a machine that has other things to do."""

GONE_SECONDS = 1.0
"""Seconds that what a process has started may outlive it, at levels without an exact end (reliability, row 14). As
with the next, time in which the host had no processor does not count."""

ANSWER_SECONDS = 5.0
"""How long a neighbour may take to answer: it must not hang, and that is not a matter of milliseconds here."""

LIMITS = Limits(frame_seconds=FRAME_SECONDS, ending_bytes=1024 * 1024)


def at_deadline(seconds: float) -> tuple[float, float]:
    """Bounds for what happens at a deadline: not before it, and not much later."""
    return seconds - 0.01, seconds + SLACK


def make_launcher(level: str, **options: Any) -> Launcher:
    """Make a launcher that contains its processes at exactly this level, or refuses to."""
    if "Containment" in globals():
        options["containment"] = Containment(level)
    return ForkServerLauncher(**options)


def server_of(launcher: Launcher) -> int | None:
    """Return the pid of the fork server; `None` while there is none."""
    assert isinstance(launcher, ForkServerLauncher)
    return launcher.server_pid


RARE, SLOW = pytest.mark.soak, pytest.mark.slow


@functools.cache
def level_fixture(rare: Collection[str]) -> Any:
    """Make the fixture that gives each level of containment which works here, some of them to the long run alone."""
    strongest, *others = LEVELS
    params = [strongest, *(pytest.param(level, marks=RARE if level in rare else SLOW) for level in others)]

    @pytest.fixture(params=params)
    def level(request: pytest.FixtureRequest) -> str:
        reason = why_not(request.param)
        if reason is not None:
            pytest.skip(f"{request.param} does not work on this machine: {reason}")
        return str(request.param)

    return level


def why_not(level: str) -> str | None:
    """Say why a level does not work on this machine; `None` if it does."""

    async def open_and_close() -> None:
        async with open_host(make_launcher(level, preload=(), spares=0)):
            pass

    try:
        trio.run(open_and_close)
    except (RuntimeError, OSError) as error:
        return str(error)
    return None


def skip_unless_at(level: str, levels: Iterable[str], what: str) -> None:
    """Skip a test where its promise is made at stronger levels of containment only."""
    if level not in levels:
        pytest.skip(f"{what} is promised at the levels {', '.join(sorted(levels))}, not at {level}")


@attrs.frozen
class Mischief:
    """One hostile entry, and its expected outcome."""

    entry: str
    """Its name below `tests/entries/hostile/`, without the suffix."""
    payload: Any = None
    """Which of its variants."""
    ends: str = "failed"
    """The terminal state. The exit reason is called the same."""
    error: str = ""
    """A pattern for the whole of the error's text; empty if there is none."""
    within: tuple[float, float] = PROMPT
    """Bounds of the seconds from ready, or from the stop if there is one, to the end."""
    result: Any = None
    """What it completes with."""
    is_asked: bool = False
    """Whether it is asked to stop once it is ready."""
    heartbeat_timeout: float = math.inf
    """The watchdog's patience. Nobody watches what ends by itself, so that it is not taken for something else."""
    levels: frozenset[str] = frozenset(LEVELS)
    """The levels of containment at which this is promised."""


@attrs.define(eq=False)
class Fate:
    """The outcome of a process, from its worker's events and messages."""

    events: list[LifecycleEvent] = attrs.field(factory=list)
    payloads: list[Any] = attrs.field(factory=list)
    numbers: list[int] = attrs.field(factory=list)
    """The numbers of what it has started, which are all the integers that it has sent."""
    survivors: list[str] = attrs.field(factory=list)
    """Which of the processes that it had named were alive when its end was announced."""
    waits: list[float] = attrs.field(factory=list)
    """For each event, how long this program had waited for a processor by then."""

    @property
    def states(self) -> list[str]:
        return [str(event.state) for event in self.events]

    def seconds(self, since: str) -> float:
        """Return how long it lived on after entering a state."""
        entered = next(event.at for event in self.events if event.state == since)
        return (self.events[-1].at - entered).total_seconds()

    def assert_lived(self, since: str, within: tuple[float, float]) -> None:
        """Hold the time since it had entered a state against bounds: the upper one is about time that the host had."""
        least, most = within
        took = self.seconds(since)
        waited = self.waits[-1] - self.waits[self.states.index(since)]
        assert least <= took, took
        assert took - waited < most, f"{took:g} s, in {waited:g} s of which there was no processor for the host"


class Neighbourhood:
    """One host with well-behaved processes and mischievous ones."""

    def __init__(self, level: str, root: Path, launcher: Launcher, host: Host, worker: Worker) -> None:
        self.level = level
        self.root = root
        self.launcher = launcher
        self.host = host
        self.worker = worker
        self.neighbours: list[ProcessHandle] = []
        self.asked: dict[str, int] = {}
        self.fates: dict[str, Fate] = {}
        self._heard = trio.lowlevel.ParkingLot()
        worker.backend_processes.on_lifecycle(self._note_event)
        worker.backend_processes.on_message(self._note_message)

    def fate(self, handle: ProcessHandle) -> Fate:
        return self.fates[handle.process_id]

    async def spawn(self, entry: str, **options: Any) -> ProcessHandle:
        """Spawn an entry by its name below `tests/entries/`."""
        return await self.worker.backend_processes.spawn(f"{entry}.py", **options)

    async def settle(self, count: int) -> None:
        """Have so many good neighbours move in."""
        for number in range(count):
            entry = "well_behaved_blocking" if number % 2 else "well_behaved"
            self.neighbours.append(await self.spawn(entry, heartbeat_timeout=5))
        await self.all_answer()

    async def all_answer(self) -> None:
        """Have each neighbour answer, and make sure that nothing else has happened to any of them."""
        for handle in self.neighbours:
            await self._ask(handle)
        await wait_within(ANSWER_SECONDS, self._wait_all_answered)
        for handle in self.neighbours:
            answers = [{"echo": number, "count": number} for number in range(1, self.asked[handle.process_id] + 1)]
            assert self.fate(handle).payloads == answers, handle
            assert self.fate(handle).states == ["starting", "running"], handle

    async def answer(self, handle: ProcessHandle) -> None:
        """Have one neighbour answer."""
        await self._ask(handle)
        await self._wait_answered(handle)

    async def _ask(self, handle: ProcessHandle) -> None:
        number = self.asked[handle.process_id] = self.asked.get(handle.process_id, 0) + 1
        await handle.send(number)

    async def _wait_all_answered(self) -> None:
        for handle in self.neighbours:
            await self._wait_answered(handle)

    async def _wait_answered(self, handle: ProcessHandle) -> None:
        while len(self.fate(handle).payloads) < self.asked[handle.process_id]:
            await self._heard.park()

    async def suffer(self, *mischiefs: Mischief) -> list[Fate]:
        """Let mischiefs happen together, hold what has come of each against what is promised, and return it.

        Raises:
            ExceptionGroup: some came out wrong; each error names its mischief.
        """
        there_before = self.marked()
        fates: list[Fate] = []
        wrong: list[AssertionError] = []

        async def let_happen(mischief: Mischief) -> None:
            try:
                fates.append(await self._let_happen(mischief))
            except AssertionError as error:
                error.add_note(f"it was {mischief}")
                wrong.append(error)

        async with trio.open_nursery() as nursery:
            for mischief in mischiefs:
                nursery.start_soon(let_happen, mischief)
        try:
            for fate in fates:
                await self.gone(fate, there_before)
            await self.all_answer()
        except AssertionError as error:
            error.add_note(f"it was one of {mischiefs}")
            wrong.append(error)
        if wrong:
            raise ExceptionGroup(f"at {self.level}", wrong)
        return fates

    async def _let_happen(self, mischief: Mischief) -> Fate:
        """Spawn it, and hold its events, words and time against what is promised."""
        handle = await self.spawn(
            f"hostile/{mischief.entry}", payload=mischief.payload, heartbeat_timeout=mischief.heartbeat_timeout
        )
        if mischief.is_asked:
            await handle.stop()
        info = await handle.wait_ended()
        fate = self.fate(handle)
        stopping = ["stopping"] if mischief.is_asked else []
        assert fate.states == ["starting", "running", *stopping, mischief.ends], (fate.states, info.error)
        assert str(info.exit_reason) == mischief.ends
        assert re.fullmatch(mischief.error, info.error or "", re.DOTALL), info.error
        assert handle.result == mischief.result
        fate.assert_lived("stopping" if mischief.is_asked else "running", mischief.within)
        return fate

    @asynccontextmanager
    async def quiet_worker(self) -> AsyncIterator[Worker]:
        """Open another worker of the same host, which listens to nobody."""
        async with self.host.open_worker("quiet", root=self.root, user_id="ada") as worker:
            yield worker

    def kill(self, handle: ProcessHandle) -> None:
        """Kill a process as somebody else would, behind its host's back."""
        assert handle.pid is not None
        os.kill(handle.pid, signal.SIGKILL)

    async def gone(self, fate: Fate, there_before: set[int]) -> None:
        """Make sure that nothing is left of a process and of what it has started."""
        if self.level in TREE_LEVELS:
            assert fate.survivors == []

        def is_gone() -> bool:
            return not any(map(exists, fate.numbers)) and self.marked() <= there_before

        await wait_within(GONE_SECONDS, lambda: wait_until(is_gone))
        assert [describe(pid) for pid in fate.numbers if exists(pid)] == []
        assert [describe(pid) for pid in self.marked() - there_before] == []

    def marked(self) -> set[int]:
        """Which processes descend from this test's host, whoever their parents are by now.

        Inits of namespaces are not among them: some are made ahead, whenever there is time.
        """
        return {pid for pid in alive(f"{MARK}={os.environ[MARK]}") if "(spindle init)" not in describe(pid)}

    def _note_event(self, event: LifecycleEvent) -> None:
        fate = self.fates.setdefault(event.process_id, Fate())
        fate.events.append(event)
        fate.waits.append(waited_for_processor())
        if event.state.is_terminal:
            fate.survivors = [describe(pid) for pid in fate.numbers if exists(pid)]

    def _note_message(self, message: ProcessMessage) -> None:
        fate = self.fates[message.process_id]
        fate.payloads.append(message.payload)
        if type(message.payload) is int:
            pid = self.worker.backend_processes._port._live.by_id[message.process_id].pid
            with suppress(OSError):  # it has ended already
                fate.numbers.append(outside(pid, message.payload))
        self._heard.unpark_all()


@contextmanager
def told_of(what: object) -> Iterator[None]:
    """Have whatever fails in the block say what it was about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"it was about {what}")
        raise


@asynccontextmanager
async def neighbourhood(
    level: str, folder: Path, *, neighbours: int = NEIGHBOURS, seconds: float = 60, limits: Limits = LIMITS
) -> AsyncIterator[Neighbourhood]:
    """Open a host at a level of containment, with good neighbours in it, and a copy of the entries to spoil."""
    root = folder / "entries"
    shutil.copytree(ENTRIES, root)
    launcher = make_launcher(level, spares=0)
    with trio.fail_after(seconds):
        async with (
            open_host(launcher, grace_period=GRACE_SECONDS, max_processes=100, limits=limits) as host,
            host.open_worker("tests", root=root, user_id="ada") as worker,
        ):
            place = Neighbourhood(level, root, launcher, host, worker)
            await place.settle(neighbours)
            yield place


async def suffer_all(level: str, folder: Path, mischiefs: Iterable[Mischief], at_once: int = 1) -> None:
    """Let mischiefs happen in one neighbourhood, so many at once. Those that come out wrong are named."""
    wrong: list[Exception] = []
    promised = [mischief for mischief in mischiefs if level in mischief.levels]
    neighbours = MANY_NEIGHBOURS if at_once == 1 else NEIGHBOURS
    async with neighbourhood(level, folder, neighbours=neighbours) as place:
        for first in range(0, len(promised), at_once):
            try:
                await place.suffer(*promised[first : first + at_once])
            except ExceptionGroup as error:
                wrong.append(error)
    if wrong:
        raise ExceptionGroup(f"at {level}", wrong)
