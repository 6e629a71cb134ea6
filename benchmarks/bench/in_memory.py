"""The row about processes in memory: how fast ten thousand start, and how much memory they take."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Literal

from bench.hosts import PROGRAMS
from bench.measuring import Measurement, Race, Role, Settings

RATE = "spawns a second"
RATE_FLOOR = "nursery, 2 scopes, 2 channels: starts a second"
MEMORY = "memory of each"
MEMORY_FLOOR = "nursery, 2 scopes, 2 channels: memory of each"
END = "end of all"
END_FLOOR = "nursery, 2 scopes, 2 channels: end of all"

COUNT = 10_000


async def ten_thousand(settings: Settings) -> Measurement:
    """Run the program of this row for ours and for the floor, in turns."""
    count = settings.amount(COUNT, 50)
    results: dict[str, list[dict[str, float]]] = {"ours": [], "floor": []}

    async def sample(which: Literal["ours", "floor"]) -> float:
        results[which].append(run_program(which, count))
        return results[which][-1]["rate"]

    async with Race("/s", settings.rounds(9, 3), warm_up=0) as race:
        race.add(Role.OURS, RATE, lambda: sample("ours"))
        race.add(Role.FLOOR, RATE_FLOOR, lambda: sample("floor"))
        measured = await race.run()
    for role, which, memory, end in ((Role.OURS, "ours", MEMORY, END), (Role.FLOOR, "floor", MEMORY_FLOOR, END_FLOOR)):
        measured.add(memory, role, "KiB", [result["bytes"] / 1024 for result in results[which]])
        measured.add(end, role, "s", [result["kill"] for result in results[which]])
    return measured


def run_program(which: Literal["ours", "floor"], count: int) -> dict[str, float]:
    """Run it once, and return what it has measured."""
    command = [sys.executable, str(PROGRAMS / "in_memory.py"), which, str(count)]
    result: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return result
