"""Many processes in memory under a mock clock, and the floor under them, each in a program of its own.

    python in_memory.py ours|floor COUNT

A program keeps freed memory, so each measurement is one run. The answer is one JSON object:
`rate` (spawns a second), `bytes` (resident memory each), `kill` (seconds to end them all).
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from time import perf_counter

import trio
import trio.testing


async def measure_ours(count: int) -> dict[str, float]:
    """Spawn one after another through the public API."""
    import spindle_trio as spindle
    from spindle_trio.testing import MemoryLauncher

    async def idle(process: spindle.ProcessContext) -> None:
        process.ready()
        await trio.sleep_forever()

    async with spindle.open_host(MemoryLauncher({"idle": idle}), max_processes=count + 1) as host:
        async with host.open_worker("benchmark", user_id="ada") as worker:
            processes = worker.backend_processes
            await (await processes.spawn("idle")).stop()
            gc.collect()
            before = resident()
            began = perf_counter()
            for _ in range(count):
                await processes.spawn("idle")
            spawned = perf_counter() - began
            gc.collect()
            each = (resident() - before) / count
            began = perf_counter()
            host.kill()
        return {"rate": count / spawned, "bytes": each, "kill": perf_counter() - began}


async def measure_floor(count: int) -> dict[str, float]:
    """Start the tasks, scopes and channels that such a process needs, one after another."""

    async def entry(control: object, messages: object) -> None:
        await trio.sleep_forever()

    async def process(task_status: trio.TaskStatus[None]) -> None:
        _, control = trio.open_memory_channel[bytes](16)
        _, messages = trio.open_memory_channel[bytes](16)
        with trio.CancelScope(), trio.CancelScope():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(entry, control, messages)
                task_status.started()

    async with trio.open_nursery() as nursery:
        await nursery.start(process)
        gc.collect()
        before = resident()
        began = perf_counter()
        for _ in range(count):
            await nursery.start(process)
        spawned = perf_counter() - began
        gc.collect()
        each = (resident() - before) / count
        began = perf_counter()
        nursery.cancel_scope.cancel()
    return {"rate": count / spawned, "bytes": each, "kill": perf_counter() - began}


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    measure = measure_ours if sys.argv[1] == "ours" else measure_floor
    print(json.dumps(trio.run(measure, int(sys.argv[2]), clock=trio.testing.MockClock())))
