"""The same test function on both kinds of process: in memory and virtual time, and real ones in real time.

A test asks for `world` and `world_clock`. It writes its entries as source text; real processes run the file, and in
memory the `async def run` of that same file is called. Times are exact where time is virtual, and have `SLACK`
seconds of room where it is not. Entries that are `def` only real processes can run: their tests ask for `real_world`.
"""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import (
    Containment,
    Host,
    LifecycleEvent,
    ProcessHandle,
    ProcessMessage,
    Worker,
    open_host,
)
from spindle_trio.abc import Launcher
from spindle_trio.launchers import DEFAULT_PRELOAD, ForkServerLauncher, PythonLauncher
from spindle_trio.testing import MemoryLauncher
from support.leftovers import open_descriptors, own_children

SLACK = 1.0
"""Seconds that a deadline on real processes may be late: the contract's own allowance (reliability, row 11)."""

GUARD_SECONDS = 30
"""How long one test may wait in all, on its own clock, before it counts as hanging. Ten times that in virtual time."""


class World:
    """One kind of process, with a folder for entries."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind = kind
        self.root = root
        self.events: list[LifecycleEvent] = []
        self.messages: list[ProcessMessage] = []
        self.opened: Host | None = None
        """The host that was opened last."""
        self._needs_trio = False  # whether an entry of this world is `async`
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def is_virtual(self) -> bool:
        return self.kind == "memory"

    def seconds(self, virtual: float, real: float) -> float:
        """Choose a time: a realistic one in virtual time, a short one in real time."""
        return virtual if self.is_virtual else real

    def spawn_soon(self, nursery: trio.Nursery, worker: Worker, entry: str, **options: Any) -> Pending:
        """Begin to spawn in a task of its own."""
        return Pending(nursery, worker, entry, **options)

    def entry(self, source: str, name: str = "entry.py") -> str:
        """Write an entry file, and return the name to spawn it by."""
        self._needs_trio = True
        (self.root / name).write_text(HEADER + textwrap.dedent(source))
        return name

    def blocking_entry(self, source: str, name: str = "entry.py") -> str:
        """The same without the imports at its head: a `def` entry of a real process never pays for Trio."""
        (self.root / name).write_text(textwrap.dedent(source))
        return name

    def launcher(self, *, spares: int = 1, containment: Containment | None = None) -> Launcher:
        """Make a launcher that runs every entry written so far.

        Args:
            spares: how many processes a fork server has ready, and how many descriptors change hands unasked.
            containment: a level for processes of the operating system; the strongest that works here, by default.
        """
        if self.kind == "forked":
            # A server that loads Trio for nobody costs as much as all else of a test.
            preload = DEFAULT_PRELOAD if self._needs_trio else ()
            return ForkServerLauncher(preload=preload, spares=spares, containment=containment)
        if self.kind == "python":
            return PythonLauncher(spares=spares, containment=containment)
        modules = {path.name: load(path) for path in sorted(self.root.glob("*.py"))}
        return MemoryLauncher({name: getattr(module, "run", None) or module.calls for name, module in modules.items()})

    @asynccontextmanager
    async def host(self, launcher: Launcher | None = None, **options: Any) -> AsyncIterator[Host]:
        """Open a host on this kind of process, with a guard against hanging."""
        with trio.fail_after(GUARD_SECONDS * (10 if self.is_virtual else 1)):
            async with open_host(launcher or self.launcher(), **options) as host:
                self.opened = host
                yield host

    @asynccontextmanager
    async def worker(self, *, user_id: str | None = "ada", **options: Any) -> AsyncIterator[Worker]:
        """Open a host and one worker, and note all its events and messages in `events` and `messages`.

        A handler for messages counts as a subscription; tests on inboxes use `quiet_worker`.
        """
        async with self.quiet_worker(user_id=user_id, **options) as worker:
            worker.backend_processes.on_message(self._note_message)
            yield worker

    async def have_worker(self, leave: trio.Event, *, task_status: trio.TaskStatus[Worker]) -> None:
        """Be the task of a worker whose block is left when others say so; for ``await nursery.start(…)``."""
        async with self.worker() as worker:
            task_status.started(worker)
            await leave.wait()

    @asynccontextmanager
    async def quiet_worker(self, *, user_id: str | None = "ada", **options: Any) -> AsyncIterator[Worker]:
        """The same without a subscription to messages."""
        async with self.host(**options) as host, host.open_worker("tests", root=self.root, user_id=user_id) as worker:
            worker.backend_processes.on_lifecycle(self._note_event)
            yield worker

    def _note_event(self, event: LifecycleEvent) -> None:
        self.events.append(event)
        self._changed.unpark_all()

    def _note_message(self, message: ProcessMessage) -> None:
        self.messages.append(message)
        self._changed.unpark_all()

    async def wait_state(self, state: str, count: int = 1) -> LifecycleEvent:
        """Wait until a state has been published so many times, and return the event. A level."""
        await trio.lowlevel.checkpoint()
        while True:
            found = [event for event in self.events if event.state == state]
            if len(found) >= count:
                return found[count - 1]
            await self._changed.park()

    async def wait_change(self) -> None:
        """Wait for the next event or message."""
        await self._changed.park()

    async def wait_payload(self, payload: object) -> None:
        """Wait until some process has sent this. A level."""
        await trio.lowlevel.checkpoint()
        while payload not in self.payloads():
            await self._changed.park()

    def reasons(self, process_id: str | None = None) -> list[tuple[str, str]]:
        """State and exit reason of each end that was published."""
        return [
            (str(event.state), str(event.exit_reason))
            for event in self.events
            if event.state.is_terminal and process_id in (None, event.process_id)
        ]

    def states(self, process_id: str | None = None) -> list[str]:
        """The states that were published, of one process or of all."""
        return [str(event.state) for event in self.events if process_id in (None, event.process_id)]

    def payloads(self) -> list[Any]:
        """The messages of processes."""
        return [message.payload for message in self.messages]

    def system_state(self) -> tuple[set[str], set[int]]:
        """The descriptors and child processes of this program."""
        return open_descriptors(), own_children()

    def assert_took(self, since: float, seconds: float) -> None:
        """Hold the time since a moment against what it should be: exactly, or with slack in real time."""
        self.assert_was(seconds, trio.current_time() - since)

    def assert_was(self, seconds: float, elapsed: float, *, waited: float = 0.0) -> None:
        """Hold a time that has been measured against what it should be: exactly, or with slack in real time.

        Time of it in which the host waited for a processor does not count; see `support.lateness`.
        """
        if self.is_virtual:
            assert elapsed == pytest.approx(seconds, abs=1e-6)
        else:
            assert seconds - 0.01 <= elapsed < seconds + SLACK + waited


class Pending:
    """A spawn under way in a task of its own: what became of it, and when."""

    def __init__(self, nursery: trio.Nursery, worker: Worker, entry: str, **options: Any) -> None:
        self.handle: ProcessHandle | None = None
        self.error: BaseException | None = None
        self.ended_at = -1.0
        self.is_over = trio.Event()
        nursery.start_soon(self._run, worker, entry, options)

    async def _run(self, worker: Worker, entry: str, options: dict[str, Any]) -> None:
        try:
            self.handle = await worker.backend_processes.spawn(entry, **options)
        except Exception as error:
            self.error = error
        finally:
            self.ended_at = trio.current_time()
            self.is_over.set()


HEADER = """\
from __future__ import annotations
import math, os, sys, signal
import trio
"""


def load(path: Path) -> ModuleType:
    """Run an entry file, as the memory launcher's stand-in for a child that imports it."""
    module = ModuleType(path.stem)
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module


# Fresh interpreters come from the same kind of server as forked processes, and show the contract once more.
@pytest.fixture(params=["memory", "forked", pytest.param("python", marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest, tmp_path: Path, nothing_left: None) -> World:
    return World(request.param, tmp_path)


@pytest.fixture
def world_clock(world: World) -> MockClock | None:
    """Pytest-trio runs a test on the clock that one of its fixtures is."""
    return MockClock(autojump_threshold=0) if world.is_virtual else None


@pytest.fixture
def virtual_world(tmp_path: Path) -> World:
    """For tests that name why they make sense in memory only; ask for `autojump_clock` too."""
    return World("memory", tmp_path)


@pytest.fixture(params=["forked", pytest.param("python", marks=pytest.mark.slow)])
def real_world(request: pytest.FixtureRequest, tmp_path: Path, nothing_left: None) -> World:
    """For tests that name why they make sense on real processes only."""
    return World(request.param, tmp_path)


@functools.cache
def shown_on_real_processes() -> frozenset[str]:
    """Name the tests that the page of reliability names: what it promises is about real processes."""
    page = Path(__file__).parents[2] / "notes" / "reliability.md"
    return frozenset(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make slow what memory shows in the quick suite, unless it is a row of the state table or of reliability.

    See decision 20.
    """
    for item in items:
        if not isinstance(item, pytest.Function) or item.path.parent != Path(__file__).parent:
            continue
        is_shown_in_memory = "world" in item.fixturenames and "[forked" in item.name
        is_needed = item.path.name.startswith("test_states") or item.originalname in shown_on_real_processes()
        if is_shown_in_memory and not is_needed:
            item.add_marker(pytest.mark.slow)
