"""Print the first figures: what a spawn, a round trip and a flood cost with `PythonLauncher`.

    python tests/benchmarks/first_figures.py

Medians with the 10th and 90th percentile. No test: nothing fails on a slow machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import trio

import spindle_trio as spindle

ENTRIES = Path(__file__).parent / "entries"
SPAWNS = 20
ROUND_TRIPS = 5_000
FLOOD = 50_000


async def main() -> None:
    show("an empty interpreter, with the flags -I -S", [1000 * seconds(empty_interpreter) for _ in range(SPAWNS)], "ms")
    async with (
        spindle.open_host(max_processes=SPAWNS + 2) as host,
        host.open_worker("benchmark", root=ENTRIES, user_id="ada") as worker,
    ):
        processes = worker.backend_processes
        show("spawn to ready, blocking entry", await spawns(processes, "echo.py"), "ms")
        show("spawn to ready, async entry", await spawns(processes, "idle.py"), "ms")
        show("round trip of 100 B, blocking entry", await round_trips(processes), "µs")
        show("flood of 100 B messages, child to host", [await flood(processes) for _ in range(5)], "messages/s")


async def spawns(processes: spindle.BackendProcesses, entry: str) -> list[float]:
    """Spawn one after another and stop them all, and return the times in milliseconds."""
    times = []
    handles = []
    for _ in range(SPAWNS):
        began = perf_counter()
        handles.append(await processes.spawn(entry))
        times.append(1000 * (perf_counter() - began))
    async with trio.open_nursery() as nursery:
        for handle in handles:
            nursery.start_soon(handle.stop)
    return times


async def round_trips(processes: spindle.BackendProcesses) -> list[float]:
    """Send to an entry that answers, and return the times in microseconds."""
    times = []
    async with processes.open("echo.py") as handle:
        answers = handle.messages()
        for _ in range(ROUND_TRIPS):
            began = perf_counter()
            await handle.send("x" * 98)
            await answers.receive()
            times.append(1_000_000 * (perf_counter() - began))
    return times


async def flood(processes: spindle.BackendProcesses) -> float:
    """Take in what an entry sends as fast as it can, and return the rate in messages a second."""
    async with processes.open("flood.py", payload=FLOOD) as handle:
        began = perf_counter()
        async for _ in handle.messages():
            pass
        return FLOOD / (perf_counter() - began)


def empty_interpreter() -> None:
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)


def seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def show(what: str, figures: Sequence[float], unit: str) -> None:
    """Print one row."""
    deciles = statistics.quantiles(figures, n=10)
    print(f"| {what} | {statistics.median(figures):,.1f} | {deciles[0]:,.1f} | {deciles[-1]:,.1f} | {unit} |")


if __name__ == "__main__":
    trio.run(main)
