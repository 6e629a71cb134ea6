"""Our side of each race: hosts with one worker, their launchers, and the entries that they run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import attrs
import trio

import spindle_trio as spindle

if TYPE_CHECKING:
    from spindle_trio.abc import Launcher

FOLDER = Path(__file__).resolve().parents[1]
ENTRIES = FOLDER / "entries"
PROGRAMS = FOLDER / "programs"


@attrs.frozen
class Running:
    """An open host, its one worker, and that worker's processes."""

    host: spindle.Host
    worker: spindle.Worker
    processes: spindle.BackendProcesses


@asynccontextmanager
async def open_host(launcher: Launcher | None = None, *, max_processes: int = 32) -> AsyncIterator[Running]:
    """Open a host and a worker; on leaving, all processes are killed, without a grace period."""
    async with (
        spindle.open_host(launcher, max_processes=max_processes) as host,
        host.open_worker("benchmark", root=ENTRIES, user_id="ada") as worker,
    ):
        yield Running(host, worker, worker.backend_processes)
        host.kill()


def default_launcher() -> Launcher:
    """Make the default launcher: a fork server with warm spares."""
    from spindle_trio.launchers import DefaultLauncher

    return DefaultLauncher()


def node_launcher() -> Launcher:
    """Make the launcher that runs only JavaScript entries."""
    from spindle_trio.launchers import NodeLauncher

    return NodeLauncher()


def lean_launcher() -> Launcher:
    """Make a fork server that has loaded only the child's runtime, without spares."""
    from spindle_trio.launchers import ForkServerLauncher

    return ForkServerLauncher(preload=(), spares=0)


def on_demand_launcher(level: str | None = None) -> Launcher:
    """Make a fork server with the default preload, without spares: each launch forks; at a level of containment."""
    from spindle_trio.launchers import ForkServerLauncher

    if level is None:
        return ForkServerLauncher(spares=0)
    return ForkServerLauncher(spares=0, containment=spindle.Containment(level))


def level_of(running: Running) -> str:
    """Return a host's level of containment."""
    return str(running.host.statistics().containment)


async def levels_here() -> list[str]:
    """List the levels of containment that work on this machine, the strongest first."""
    working = []
    for level in spindle.Containment:
        try:
            async with open_host(on_demand_launcher(level)):
                working.append(str(level))
        except RuntimeError:
            pass
    return working


def exec_launcher() -> Launcher:
    """Make the launcher that starts an interpreter for each process."""
    from spindle_trio.launchers import PythonLauncher

    return PythonLauncher()


def default_preload() -> list[str]:
    """List the modules that the default launcher's server loads, so that peers and floors load the same."""
    from spindle_trio.launchers import DEFAULT_PRELOAD

    return list(DEFAULT_PRELOAD)


SETTLE_SECONDS = 0.05
"""Wait until a fork server has refilled its spares and stopped processes are gone; not part of any sample."""


def spawn_sampler(
    processes: spindle.BackendProcesses, entry: str, sandbox: spindle.Sandbox | None = None
) -> Callable[[], Awaitable[float]]:
    """Make a sampler of spawn → ready, in milliseconds. The process is stopped afterwards."""

    async def sample() -> float:
        await trio.sleep(SETTLE_SECONDS)
        began = perf_counter()
        handle = await processes.spawn(entry, sandbox=sandbox)
        elapsed = perf_counter() - began
        await handle.stop()
        return 1000 * elapsed

    return sample


def spawn_in_a_row_sampler(processes: spindle.BackendProcesses, entry: str) -> Callable[[], Awaitable[float]]:
    """Make a sampler of the same, in which a sample is the middle one of three spawns in a row.

    After a pause the processor's caches have lost this program, which is a good part of the time of a single spawn.
    This sampler measures a program that is at work.
    """

    async def sample() -> float:
        await trio.sleep(SETTLE_SECONDS)
        elapsed: list[float] = []
        handles: list[spindle.ProcessHandle] = []
        for _ in range(3):
            began = perf_counter()
            handles.append(await processes.spawn(entry))
            elapsed.append(perf_counter() - began)
        for handle in handles:
            await handle.stop()
        return 1000 * sorted(elapsed)[1]

    return sample
