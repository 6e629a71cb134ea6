"""Rows about spawn → ready: from the call of `spawn` to its return."""

from __future__ import annotations

from contextlib import AsyncExitStack
from time import perf_counter

import trio

from bench import peers
from bench.floors import empty_interpreter, fork_floor
from bench.hosts import (
    SETTLE_SECONDS,
    default_launcher,
    default_preload,
    exec_launcher,
    level_of,
    levels_here,
    on_demand_launcher,
    open_host,
    spawn_in_a_row_sampler,
    spawn_sampler,
)
from bench.measuring import Measurement, Race, Role, Settings

WARM_ASYNC = "async entry, warm spare"
WARM_ASYNC_IN_A_ROW = "async entry, warm spare, the middle of three in a row"
WARM_BLOCKING = "blocking entry, warm spare"
SANDBOXED_ASYNC = "async entry, READ_ONLY"
SANDBOXED_BLOCKING = "blocking entry, READ_ONLY"
OFFLINE_ASYNC = "async entry, OFFLINE"
FORKED_BLOCKING = "blocking entry, forked"
FORKED_ASYNC = "async entry, forked"
FORK_FLOOR = "fork, same preload"
FORK_TRIO_FLOOR = "fork and trio.run, same preload"
EXEC_BLOCKING = "blocking entry, exec launcher"
EXEC_ASYNC = "async entry, exec launcher"
INTERPRETER_FLOOR = "empty interpreter, same flags"
PIPELINED_BLOCKING = "each of 100, blocking entry"
PIPELINED_ASYNC = "each of 100, async entry"

PIPELINED = 100


async def warm_spare(settings: Settings) -> Measurement:
    """Spawn one at a time, with time for the server to refill its spares."""
    async with open_host(default_launcher()) as running, Race("ms", settings.rounds(150, 40)) as race:
        race.add(Role.OURS, WARM_ASYNC, spawn_sampler(running.processes, "idle.py"))
        race.add(Role.OURS, WARM_ASYNC_IN_A_ROW, spawn_in_a_row_sampler(running.processes, "idle.py"))
        race.add(Role.OURS, WARM_BLOCKING, spawn_sampler(running.processes, "idle_blocking.py"))
        await race.enter(Role.PEER, peers.TRIO_PARALLEL_COLD, peers.trio_parallel_cold)
        await race.enter(Role.PEER, peers.ANYIO, peers.anyio_cold)
        await race.enter(Role.PEER, peers.MP_SPAWN, peers.multiprocessing_spawn)
        await race.enter(Role.PEER, peers.NODE_FORK, peers.node_fork)
        return await race.run()


async def sandboxed(settings: Settings) -> Measurement:
    """Spawn one at a time in a sandbox, in turns with spawns without one."""
    from spindle_trio import OFFLINE, READ_ONLY

    async with open_host(default_launcher()) as running, Race("ms", settings.rounds(150, 40)) as race:
        race.add(Role.OURS, SANDBOXED_ASYNC, spawn_sampler(running.processes, "idle.py", READ_ONLY))
        race.add(Role.OURS, SANDBOXED_BLOCKING, spawn_sampler(running.processes, "idle_blocking.py", READ_ONLY))
        race.add(Role.OURS, OFFLINE_ASYNC, spawn_sampler(running.processes, "idle.py", OFFLINE))
        race.add(Role.FLOOR, WARM_ASYNC, spawn_sampler(running.processes, "idle.py"))
        race.add(Role.FLOOR, WARM_BLOCKING, spawn_sampler(running.processes, "idle_blocking.py"))
        return await race.run()


async def forked(settings: Settings) -> Measurement:
    """Spawn from a server that keeps no spares, so that each spawn forks."""
    async with (
        open_host(on_demand_launcher()) as running,
        fork_floor(default_preload(), level_of(running)) as floor,
        Race("ms", settings.rounds(200, 60)) as race,
    ):
        race.add(Role.OURS, FORKED_BLOCKING, spawn_sampler(running.processes, "idle_blocking.py"))
        race.add(Role.OURS, FORKED_ASYNC, spawn_sampler(running.processes, "idle.py"))
        race.add(Role.FLOOR, FORK_FLOOR, floor.fork)
        race.add(Role.FLOOR, FORK_TRIO_FLOOR, floor.fork_with_trio)
        await race.enter(Role.PEER, peers.MP_FORKSERVER, peers.multiprocessing_forkserver)
        return await race.run()


async def levels(settings: Settings) -> Measurement:
    """Do the same at each level of containment that works here, and fork at the same level."""
    async with AsyncExitStack() as stack:
        race = await stack.enter_async_context(Race("ms", settings.rounds(100, 30)))
        for level in await levels_here():
            running = await stack.enter_async_context(open_host(on_demand_launcher(level)))
            race.add(Role.OURS, f"{level}: {FORKED_BLOCKING}", spawn_sampler(running.processes, "idle_blocking.py"))
            if level != "cgroup":  # it only moves a child there: the floor is that of `killpg`
                floor = await stack.enter_async_context(fork_floor(default_preload(), level))
                race.add(Role.FLOOR, f"{level}: {FORK_FLOOR}", floor.fork)
        return await race.run()


async def executed(settings: Settings) -> Measurement:
    """Spawn with a fresh interpreter each time."""
    async with open_host(exec_launcher()) as running, Race("ms", settings.rounds(100, 30)) as race:
        race.add(Role.OURS, EXEC_BLOCKING, spawn_sampler(running.processes, "idle_blocking.py"))
        race.add(Role.OURS, EXEC_ASYNC, spawn_sampler(running.processes, "idle.py"))
        await race.enter(Role.FLOOR, INTERPRETER_FLOOR, empty_interpreter)
        await race.enter(Role.PEER, peers.MP_SPAWN, peers.multiprocessing_spawn)
        return await race.run()


async def pipelined(settings: Settings) -> Measurement:
    """Spawn a hundred at once; a sample is the time until the last is ready, divided by their number."""
    count = settings.amount(PIPELINED, 5)

    async def sample(entry: str) -> float:
        # A host of its own, so that every sample begins with a new host's spares.
        async with open_host(default_launcher(), max_processes=count) as running:
            await trio.sleep(4 * SETTLE_SECONDS)
            began = perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(running.processes.spawn, entry)
            return 1000 * (perf_counter() - began) / count

    async with Race("ms", settings.rounds(15, 5), warm_up=1) as race:
        race.add(Role.OURS, PIPELINED_BLOCKING, lambda: sample("idle_blocking.py"))
        race.add(Role.OURS, PIPELINED_ASYNC, lambda: sample("idle.py"))
        return await race.run()
