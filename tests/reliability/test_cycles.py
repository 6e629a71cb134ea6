"""Cycles from spawn to kill, many of them cancelled midway: what do the host and its server keep of them? (row 33)"""

from __future__ import annotations

import gc
import os
import random
import signal
from pathlib import Path

import pytest
import trio

from spindle_trio import Worker
from support.fork_server import children_of, wait_until
from support.leftovers import open_descriptors
from support.reliability import neighbourhood, server_of

ENTRY = "ends_as_told.py"

CYCLES = 500
QUICK_CYCLES = 150
SOAK_CYCLES = 10_000

WARM_UP = 100
"""Cycles that do not count: after them every module is loaded, and every pool has its size."""

AT_A_TIME = 6

CANCELLED_ONE_IN = 5

LONGEST_START = 0.03
"""Seconds within which a spawn is cancelled, at random: about the time of one among several at once."""

HOST_BYTES = 2 * 1024 * 1024
"""How much more memory the host may have afterwards."""

SERVER_BYTES = 1024 * 1024
"""The same for the server, which notes less."""

QUICK_SHARE = 1 / 3
"""How much of that few cycles may cost: a leak that many would show is to show there too."""

ENDS = ("is killed", "is stopped", "returns", "exits")

SEED = 20


@pytest.mark.parametrize(
    ("cycles", "share"),
    [
        pytest.param(QUICK_CYCLES, QUICK_SHARE, id="quick"),
        pytest.param(CYCLES, 1, id="ordinary", marks=pytest.mark.slow),
        pytest.param(SOAK_CYCLES, 1, id="soak", marks=pytest.mark.soak),
    ],
)
async def test_cycles_from_spawn_to_kill_leave_nothing_in_the_host_and_its_server(
    level: str, tmp_path: Path, cycles: int, share: float
) -> None:
    print(f"seed {SEED}")
    async with (
        neighbourhood(level, tmp_path, neighbours=2, seconds=60 + cycles / 20) as place,
        place.quiet_worker() as worker,
    ):
        server = server_of(place.launcher)
        assert server is not None
        held = set(children_of(server))
        dice = random.Random(SEED)
        await run_cycles(worker, WARM_UP, dice)
        await wait_until(lambda: set(children_of(server)) == held)
        before, memory = open_descriptors(), (unique_bytes(os.getpid()), unique_bytes(server))
        server_before = open_descriptors_of(server)
        cancelled = await run_cycles(worker, cycles, dice)
        # Also those that the server has forked for spawns that were cancelled, and zombies.
        await wait_until(lambda: set(children_of(server)) == held)
        after = (unique_bytes(os.getpid()), unique_bytes(server))
        print(f"{cancelled} of {cycles} spawns cancelled midway; memory {memory} → {after} bytes")
        assert open_descriptors() == before
        assert open_descriptors_of(server) == server_before
        assert cancelled >= cycles / CANCELLED_ONE_IN / 4, "the moment of the cancellations is badly chosen"
        assert after[0] - memory[0] <= share * HOST_BYTES
        assert after[1] - memory[1] <= share * SERVER_BYTES
        await place.all_answer()


async def run_cycles(worker: Worker, count: int, dice: random.Random) -> int:
    """Spawn and end so many processes, some at a time, and return how many spawns were cancelled midway."""
    numbers = iter(range(count))
    cancelled = 0

    async def work() -> None:
        nonlocal cancelled
        for number in numbers:
            if number % CANCELLED_ONE_IN == 0:
                with trio.move_on_after(dice.uniform(0, LONGEST_START)) as scope:
                    handle = await worker.backend_processes.spawn(ENTRY, payload="waits")
                if scope.cancelled_caught:
                    cancelled += 1
                else:
                    await handle.stop()
            else:
                await end(worker, ENDS[number % len(ENDS)])

    async with trio.open_nursery() as nursery:
        for _ in range(AT_A_TIME):
            nursery.start_soon(work)
    return cancelled


async def end(worker: Worker, how: str) -> None:
    """Spawn a process and see it to its end."""
    payload = "waits" if how in ("is killed", "is stopped") else how
    handle = await worker.backend_processes.spawn(ENTRY, payload=payload)
    if how == "is killed":
        assert handle.pid is not None
        os.kill(handle.pid, signal.SIGKILL)
    if how == "is stopped":
        await handle.stop()
    await handle.wait_ended()
    assert handle.state == {"is stopped": "stopped", "returns": "completed"}.get(how, "failed"), handle.info.error


def unique_bytes(pid: int) -> int:
    """Return how much memory a process has for itself: what would be freed if it ended."""
    gc.collect()
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_"))


def open_descriptors_of(pid: int) -> int:
    """Count the descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))
