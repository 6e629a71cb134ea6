"""How costs grow with the number of processes: 1 … 1 000 real ones, 1 … 10 000 in memory."""

from __future__ import annotations

from time import perf_counter

import trio

from bench.hosts import SETTLE_SECONDS, default_launcher, open_host
from bench.in_memory import run_program
from bench.measuring import Measurement, Role, Settings

REAL_LADDER = (1, 3, 10, 30, 100, 300, 1_000)
MEMORY_LADDER = (1, 10, 100, 1_000, 3_000, 10_000)

REAL_SPAWN = "spawn, ms each, of "
REAL_KILL = "kill and reap, ms each, of "
MEMORY_OURS = "spawn in memory, µs each, of "
MEMORY_FLOOR = "nursery, 2 scopes, 2 channels, µs each, of "


async def real(settings: Settings) -> Measurement:
    """For each rung of the ladder, spawn that many processes one after another, and kill them all."""
    measured = Measurement()
    for count in REAL_LADDER if settings.samples is None else REAL_LADDER[:2]:
        spawns: list[float] = []
        kills: list[float] = []
        for _ in range(settings.rounds(3 if count > 100 else 10, 1 if count > 100 else 5)):
            async with open_host(default_launcher(), max_processes=count) as running:
                await trio.sleep(SETTLE_SECONDS)
                began = perf_counter()
                handles = [await running.processes.spawn("idle_blocking.py") for _ in range(count)]
                spawns.append(1000 * (perf_counter() - began) / count)
                await trio.sleep(SETTLE_SECONDS)
                began = perf_counter()
                running.host.kill()
                for handle in handles:
                    await handle.wait_ended()
                kills.append(1000 * (perf_counter() - began) / count)
        measured.add(f"{REAL_SPAWN}{count:,}", Role.OURS, "ms", spawns)
        measured.add(f"{REAL_KILL}{count:,}", Role.OURS, "ms", kills)
    return measured


async def in_memory(settings: Settings) -> Measurement:
    """Run the program of the in-memory row for each rung of the ladder."""
    measured = Measurement()
    for count in MEMORY_LADDER if settings.samples is None else MEMORY_LADDER[:2]:
        rounds = settings.rounds(3 if count > 1_000 else 5, 1 if count > 1_000 else 3)
        ours = [1e6 / run_program("ours", count)["rate"] for _ in range(rounds)]
        floor = [1e6 / run_program("floor", count)["rate"] for _ in range(rounds)]
        measured.add(f"{MEMORY_OURS}{count:,}", Role.OURS, "µs", ours)
        measured.add(f"{MEMORY_FLOOR}{count:,}", Role.FLOOR, "µs", floor)
    return measured
