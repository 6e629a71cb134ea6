"""Ten thousand processes, one after another: what does the host keep of them?"""

from __future__ import annotations

import gc
import os
from time import perf_counter

import trio

from bench.hosts import Running, default_launcher, open_host
from bench.instruments import children, open_descriptors, unique_set_size, zombies
from bench.measuring import Measurement, Role, Settings

CYCLE = "a cycle from spawn to the announced end"
ZOMBIES = "zombies left"
DESCRIPTORS = "descriptors left"
MEMORY = "more memory in the host (USS)"

CYCLES = 10_000
WARM_UP = 1_000
AT_A_TIME = 8
ENDS = ("returns", "raises", "exits", "is stopped")


async def cycles(settings: Settings) -> Measurement:
    """Spawn and end processes, in four ways by turns; then look for leftovers.

    The first thousand do not count: after them every module is loaded and every pool has its size.
    """
    count = settings.amount(CYCLES, 40)
    times: list[float] = []
    async with open_host(default_launcher()) as running:
        await _run_cycles(running, min(count, WARM_UP), [])
        await _settle()
        before, server_before = _holdings(os.getpid()), [_holdings(pid) for pid in children()]
        began = perf_counter()
        await _run_cycles(running, count, times)
        elapsed = perf_counter() - began
        # The list of times is the benchmark's own memory, not the host's.
        own = (times.__sizeof__() + sum(map(float.__sizeof__, times))) / 2**20
        await _settle()
        after, server_after = _holdings(os.getpid()), [_holdings(pid) for pid in children()]
        left = zombies()
    measured = Measurement()
    measured.add(CYCLE, Role.OURS, "ms", times)
    measured.add(ZOMBIES, Role.OURS, "of them", [float(len(left))])
    measured.add(DESCRIPTORS, Role.OURS, "of them", [float(after[0] - before[0])])
    measured.add(MEMORY, Role.OURS, "MiB", [after[1] - before[1] - own])
    measured.notes.append(f"{count} cycles in {elapsed:.1f} s, {AT_A_TIME} at a time")
    for was, now in zip(server_before, server_after, strict=False):
        measured.notes.append(f"server: {now[0] - was[0]} descriptors and {now[1] - was[1]:.2f} MiB (USS) more")
    return measured


def _holdings(pid: int) -> tuple[int, float]:
    """Return how many descriptors a process has open, and its memory in MiB."""
    return open_descriptors(pid), unique_set_size(pid)


async def _run_cycles(running: Running, count: int, times: list[float]) -> None:
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            how = ENDS[number % len(ENDS)]
            began = perf_counter()
            handle = await running.processes.spawn("ending.py", payload=how)
            if how == "is stopped":
                await handle.stop()
            await handle.wait_ended()
            times.append(1000 * (perf_counter() - began))

    async with trio.open_nursery() as nursery:
        for _ in range(AT_A_TIME):
            nursery.start_soon(work)


async def _settle() -> None:
    """Let spares be refilled and garbage be collected."""
    await trio.sleep(2)
    gc.collect()
