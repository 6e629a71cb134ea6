"""`run_seconds`: how long a process may run from ready on, in memory and of real processes."""

from __future__ import annotations

import math

import trio
from trio.testing import MockClock

from spindle_trio import ResourceLimits

from .conftest import World

RUNS_ON = """
async def run(process):
    process.beat_while_running()
    process.ready()
    await trio.sleep_forever()
"""

LATE = """
async def run(process):
    await trio.sleep(process.payload)
    process.ready()
    await trio.sleep_forever()
"""

BUSY = """
def run(process):
    process.ready()
    while True:
        pass
"""


async def test_a_process_that_beats_is_ended_when_its_time_is_over(world: World, world_clock: MockClock | None) -> None:
    most, entry = world.seconds(60, 0.25), world.entry(RUNS_ON)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, resource_limits=ResourceLimits(run_seconds=most))
        begun_at = trio.current_time()
        info = await handle.wait_ended()
        world.assert_took(begun_at, most)
    assert (info.state, info.exit_reason) == ("timed_out", "timed_out")
    assert info.error == f"ran for longer than run_seconds={most:g}"
    assert world.states() == ["starting", "running", "timed_out"]
    assert handle.post_mortem is not None
    assert handle.post_mortem.limit is not None
    assert handle.post_mortem.limit.startswith("run_seconds: ")
    assert handle.post_mortem.limit.endswith(f" s used of {most:g} s")


async def test_time_before_ready_does_not_count(world: World, world_clock: MockClock | None) -> None:
    late, most = world.seconds(10, 0.4), world.seconds(5, 0.2)
    entry = world.entry(LATE)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(
            entry, payload=late, resource_limits=ResourceLimits(run_seconds=most)
        )
        await handle.wait_ended()
    assert world.states() == ["starting", "running", "timed_out"]


async def test_a_process_whose_time_is_over_leaves_its_stacks(real_world: World) -> None:
    """Only a real process has threads of its own."""
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(
            real_world.blocking_entry(BUSY),
            heartbeat_timeout=math.inf,
            resource_limits=ResourceLimits(run_seconds=0.1),
        )
        await handle.wait_ended()
    assert handle.post_mortem is not None
    assert handle.post_mortem.stacks is not None
    assert "entry.py" in handle.post_mortem.stacks
