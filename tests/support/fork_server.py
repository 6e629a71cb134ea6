"""Shared by the tests of the fork server: a host on one, and its processes."""

from __future__ import annotations

import os
import textwrap
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from spindle_trio import Containment, LifecycleEvent, ProcessHandle, Worker, open_host
from spindle_trio.launchers import ForkServerLauncher

GUARD_SECONDS = 30
"""How long one test may wait in all before it counts as hanging."""

BUSY = "def run(process):\n    process.ready()\n    while True: pass"
WAITS = "def run(process):\n    process.ready()\n    process.receive()"
ENDS = "def run(process):\n    process.ready()"


class Forked:
    """A host on a fork server, and one worker of it."""

    def __init__(self, launcher: ForkServerLauncher, worker: Worker, root: Path) -> None:
        self.launcher = launcher
        self.worker = worker
        self.root = root
        self.events: list[LifecycleEvent] = []
        worker.backend_processes.on_lifecycle(self.events.append)

    @property
    def server_pid(self) -> int:
        """The number of the server, which there is."""
        assert self.launcher.server_pid is not None
        return self.launcher.server_pid

    async def spawn(self, source: str, *, entry: str = "entry.py", **options: Any) -> ProcessHandle:
        """Write an entry and spawn it."""
        (self.root / entry).write_text(textwrap.dedent(source))
        return await self.worker.backend_processes.spawn(entry, **options)

    async def result(self, source: str, **options: Any) -> Any:
        """Spawn an entry, wait for its end, and return the result that it completed with."""
        handle = await self.spawn(source, **options)
        await handle.wait_ended()
        assert handle.state == "completed", handle.info.error
        return handle.result

    def ends(self) -> list[str]:
        """Which processes have been announced as ended, each as often as it was."""
        return [event.process_id for event in self.events if event.state.is_terminal]

    async def wait_spares(self, number: int) -> None:
        """Wait until so many processes are ready to be used."""
        while len(self.launcher._pool.spares) != number:
            await trio.testing.wait_all_tasks_blocked(0.001)


@asynccontextmanager
async def fork_host(
    root: Path,
    *,
    preload: tuple[str, ...] = (),
    spares: int = 0,
    seconds: float = GUARD_SECONDS,
    containment: Containment | None = None,
    preload_environment: Mapping[str, str] | None = None,
    preload_path: Iterable[str | os.PathLike[str]] = (),
    launcher: ForkServerLauncher | None = None,
    **options: Any,
) -> AsyncIterator[Forked]:
    """Open a host on a fork server of its own, or of this launcher's, and a worker."""
    launcher = launcher or ForkServerLauncher(
        preload=preload,
        preload_environment=preload_environment,
        preload_path=preload_path,
        spares=spares,
        containment=containment,
    )
    options = {"grace_period": 0.5, "max_processes": 1000} | options
    with trio.fail_after(seconds):
        async with (
            open_host(launcher, **options) as host,
            host.open_worker("tests", root=root, user_id="ada") as worker,
        ):
            yield Forked(launcher, worker, root)


def write_module(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str = "preloaded") -> str:
    """Write a module that a fork server can preload, and return its name."""
    modules = folder / "modules"
    modules.mkdir(exist_ok=True)
    (modules / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(modules)
    return name


def children_of(pid: int) -> list[int]:
    """List the processes that a process of one thread has started and not reaped."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def state_of(pid: int) -> str | None:
    """The letter that the system has for the state of a process; `None` if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


async def wait_state_of(pid: int, *letters: str | None) -> None:
    """Wait until the system has a process in one of these states."""
    while state_of(pid) not in letters:
        await trio.testing.wait_all_tasks_blocked(0.001)


async def wait_until(condition: Callable[[], object]) -> None:
    """Wait until something holds that nobody announces."""
    while not condition():
        await trio.testing.wait_all_tasks_blocked(0.001)
