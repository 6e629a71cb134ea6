"""Shared by the tests of JavaScript entries: a real host with real Node, and entries that the test writes."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from spindle_trio import (
    Host,
    LifecycleEvent,
    NodeLauncher,
    ProcessHandle,
    ProcessState,
    StartupFailedError,
    Worker,
    open_host,
)
from spindle_trio.abc import Launcher
from support.contract import stderr_of

needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="JavaScript entries need Node 20.19 or later on the PATH"
)

needs_bun = pytest.mark.skipif(shutil.which("bun") is None, reason="this is about Bun, which is not on the PATH")

if os.environ.get("SPINDLE_NEEDS_NODE"):
    # Where Node has to be there, as in `.ci/run`, nothing is skipped: without it these tests say what is missing.
    needs_node = pytest.mark.skipif(False, reason="never")

GUARD_SECONDS = 40
"""How long one test may wait in all before it counts as hanging."""

SLACK = 1.5
"""Seconds that a deadline may be late where Node, which is slow to start, shares two cores with others."""

ECHO = "export default (p) => { p.onMessage((m) => p.send(m)); p.ready(); };"
WAITS = "export default (p) => p.ready();"
WEDGES = "export default (p) => { p.ready(); for (;;); };"


def body(statements: str, head: str = "") -> str:
    """Make an entry of what its function does with its context `p`."""
    return f"{head}\nexport default async function (p) {{\n{textwrap.dedent(statements)}\n}}\n"


class Stage:
    """A host on Node, one worker of it, and all that its processes have said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[LifecycleEvent] = []
        self._opened: tuple[Host, Worker] | None = None
        self._written = 0

    @asynccontextmanager
    async def host(
        self, launcher: Launcher | None = None, *, seconds: float = GUARD_SECONDS, **options: Any
    ) -> AsyncIterator[Host]:
        """Open a host and a worker, with a guard against hanging; on Node alone unless a launcher is given."""
        options = {"max_processes": 100} | options
        with trio.fail_after(seconds):
            async with (
                open_host(launcher or NodeLauncher(), **options) as host,
                host.open_worker("tests", root=self.root, user_id="ada") as worker,
            ):
                worker.backend_processes.on_lifecycle(self.events.append)
                self._opened = host, worker
                yield host

    @property
    def worker(self) -> Worker:
        """The worker of the host that is open."""
        assert self._opened is not None, "ask for it inside of `host()`"
        return self._opened[1]

    def write(self, source: str, suffix: str = ".mjs") -> str:
        """Write an entry file, and return the name to spawn it by."""
        self._written += 1
        name = f"entry{self._written}{suffix}"
        (self.root / name).write_text(textwrap.dedent(source), encoding="utf-8")
        return name

    async def spawn(self, source: str, *, suffix: str = ".mjs", **options: Any) -> ProcessHandle:
        """Write an entry, and return its process once it is ready."""
        return await self.worker.backend_processes.spawn(self.write(source, suffix), **options)

    async def end(self, source: str, **options: Any) -> ProcessHandle:
        """Write an entry, and return its process once it has ended by itself."""
        handle = await self.spawn(source, **options)
        await handle.wait_ended()
        return handle

    async def result(self, source: str, **options: Any) -> Any:
        """Write an entry, and return the result that it has completed with."""
        handle = await self.end(source, **options)
        assert handle.state is ProcessState.COMPLETED, handle.post_mortem
        return handle.result

    async def refusal(self, source: str, **options: Any) -> StartupFailedError:
        """Write an entry that ends before it is ready, and return what its spawn raises."""
        with pytest.raises(StartupFailedError) as caught:
            await self.spawn(source, **options)
        return caught.value

    async def for_each(self, cases: dict[Any, Any], ask: Callable[..., Any]) -> dict[Any, Any]:
        """Ask something of all cases, two at a time, and return the answers."""
        answers: dict[Any, Any] = {}
        turns = trio.CapacityLimiter(2)

        async def answer(name: Any, case: Any) -> None:
            async with turns:
                answers[name] = await ask(case)

        async with trio.open_nursery() as nursery:
            for name, case in cases.items():
                nursery.start_soon(answer, name, case)
        return {name: answers[name] for name in cases}


async def outcome(handle: ProcessHandle) -> tuple[str, str | None]:
    """Wait for the end of a process, and return its state and what is wrong."""
    info = await handle.wait_ended()
    return str(info.state), info.error


async def wait_stderr(handle: ProcessHandle, text: str) -> None:
    """Wait until a process has written something to its stderr; nothing tells of that."""
    while text not in stderr_of(handle):
        await trio.sleep(0.01)


@pytest.fixture
def stage(tmp_path: Path, no_survivors: None) -> Stage:
    """Give a stage, and refuse a test that leaves a process, a zombie or a descriptor."""
    return Stage(tmp_path)
