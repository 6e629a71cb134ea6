"""Grace periods of one process: of its spawn, of a stop, of a replacement, and none at all."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import ProcessState, open_host
from spindle_trio.testing import ScriptedChild
from support.contract import IGNORES_STOP, WAITS
from support.state import scripted, told_then

FOREVER = 1_000.0


async def test_a_kill_ends_a_process_at_once_and_asks_nobody(world, world_clock: MockClock | None) -> None:
    entry = world.entry(told_then("process.complete('cleaned up')"))
    async with world.worker(grace_period=FOREVER) as worker:
        handle = await worker.backend_processes.spawn(entry)
        before = trio.current_time()
        await handle.kill()
        world.assert_took(before, 0)
        assert (handle.info.state, handle.info.exit_reason, handle.result) == ("stopped", "stopped", None)
        assert handle.info.error == "killed without a grace period"
        assert world.states() == ["starting", "running", "stopping", "stopped"]
        assert await worker.backend_processes.list() == []
        await handle.kill()  # after its end it does nothing


async def test_a_kill_takes_what_is_left_of_a_grace_period(world, world_clock: MockClock | None) -> None:
    entry = world.entry(IGNORES_STOP)
    async with world.worker(grace_period=FOREVER) as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn(entry)
        before = trio.current_time()
        nursery.start_soon(handle.stop)
        await world.wait_state("stopping")
        await handle.kill()
        world.assert_took(before, 0)
        assert world.reasons() == [("stopped", "stopped")]


async def test_a_kill_while_it_starts_refuses_its_spawn(world, world_clock: MockClock | None) -> None:
    entry = world.entry("async def run(process): await trio.sleep_forever()")
    async with world.worker(grace_period=FOREVER) as worker, trio.open_nursery() as nursery:
        pending = world.spawn_soon(nursery, worker, entry)
        await world.wait_state("starting")
        await worker.backend_processes.stop(world.events[0].process_id, grace=0)
        assert world.states() == ["starting", "stopping", "stopped"]
        await trio.testing.wait_all_tasks_blocked()
        assert type(pending.error).__name__ == "StartupCancelledError"


@pytest.mark.parametrize("whose", ["spawn", "stop"])
async def test_a_spawn_and_a_stop_have_grace_periods_of_their_own(
    world, world_clock: MockClock | None, whose: str
) -> None:
    entry = world.entry(IGNORES_STOP)
    async with world.worker(grace_period=FOREVER) as worker:
        handle = await worker.backend_processes.spawn(entry, grace_period=0.3 if whose == "spawn" else FOREVER)
        before = trio.current_time()
        await handle.stop(grace=0.3 if whose == "stop" else None)
        world.assert_took(before, 0.3)
        assert handle.info.error == "did not end within 0.3 s of the stop, and was killed"


async def test_a_block_ends_with_the_grace_period_of_its_process(world, world_clock: MockClock | None) -> None:
    entry = world.entry(IGNORES_STOP)
    async with world.worker(grace_period=FOREVER) as worker:
        async with worker.backend_processes.open(entry, grace_period=0.2):
            before = trio.current_time()
        world.assert_took(before, 0.2)


async def test_a_second_stop_can_shorten_a_grace_period_and_never_extends_it(
    virtual_world, autojump_clock: MockClock
) -> None:
    entry = virtual_world.entry(IGNORES_STOP)
    async with virtual_world.worker(grace_period=10) as worker:
        handle = await worker.backend_processes.spawn(entry)
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for grace in (5, None, 7, 4):
                nursery.start_soon(lambda grace=grace: handle.stop(grace=grace))
                await trio.sleep(1)
        virtual_world.assert_took(before, 5)
        handle = await worker.backend_processes.spawn(entry)
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for grace in (5, 2):
                nursery.start_soon(lambda grace=grace: handle.stop(grace=grace))
                await trio.sleep(1)
        virtual_world.assert_took(before, 3)


async def test_what_has_completed_and_stays_can_be_killed(virtual_world, autojump_clock: MockClock) -> None:
    child = ScriptedChild()
    async with scripted(virtual_world, child, grace_period=50) as handle:
        child.complete(7)
        await trio.sleep(1)
        before = trio.current_time()
        await handle.kill()
        virtual_world.assert_took(before, 0)
        assert (handle.state, handle.result) == ("completed", 7)


@pytest.mark.parametrize("whose", ["host", "spawn", "grace period"])
async def test_a_replacement_can_be_at_once(world, world_clock: MockClock | None, whose: str) -> None:
    """A process that hangs must not hold up callers that wait for its successor."""
    old, new = world.entry(IGNORES_STOP), world.entry(WAITS, "new.py")
    host, grace = (0 if whose == "host" else None), (0 if whose == "spawn" else None)
    async with world.worker(grace_period=0.3 if whose == "grace period" else FOREVER, replace_grace=host) as worker:
        handle = await worker.backend_processes.spawn(old, kind="one", key="k")
        await worker.backend_processes.spawn(new, kind="one", key="k", replace_existing=True, replace_grace=grace)
        stopping, stopped = world.events[2:4]
        world.assert_was(0.3 if whose == "grace period" else 0, (stopped.at - stopping.at).total_seconds())
        assert (handle.info.state, handle.info.exit_reason) == ("stopped", "replaced")
        if whose != "grace period":
            assert handle.info.error == "killed without a grace period"


async def test_of_several_replacements_the_most_urgent_counts(virtual_world, autojump_clock: MockClock) -> None:
    entry = virtual_world.entry(IGNORES_STOP)
    async with virtual_world.worker(grace_period=FOREVER) as worker, trio.open_nursery() as nursery:
        before = trio.current_time()
        await worker.backend_processes.spawn(entry, key="k")
        for grace in (20, 3, 100):
            virtual_world.spawn_soon(nursery, worker, entry, key="k", replace_existing=True, replace_grace=grace)
            await trio.sleep(0.5)
        await virtual_world.wait_state("running", 2)  # the last one: those between are replaced before their launch
        virtual_world.assert_took(before, 0.5 + 3)
        nursery.cancel_scope.cancel()
        worker._port.kill()


async def test_one_that_is_past_its_heartbeat_deadline_is_not_asked_when_it_is_replaced(
    virtual_world, autojump_clock: MockClock
) -> None:
    entry = virtual_world.entry(told_then("process.complete('cleaned up')"))
    async with virtual_world.worker(grace_period=FOREVER) as worker:
        late = await worker.backend_processes.spawn(entry, kind="late", heartbeat_timeout=1)
        well = await worker.backend_processes.spawn(entry, kind="well", heartbeat_timeout=10)
        autojump_clock.jump(2)
        for handle in (late, well):
            handle._process.replace(None)
        assert late._process.record.life.kill_deadline < math.inf
        assert well.state is ProcessState.STOPPING
        infos = [await handle.wait_ended() for handle in (late, well)]
        assert [info.exit_reason for info in infos] == ["replaced", "replaced"]
        assert [info.error for info in infos] == ["killed without a grace period", None]


async def test_a_worker_that_closes_gives_no_more_than_the_hosts_grace_period(
    world, world_clock: MockClock | None
) -> None:
    """So that neither a spawn nor a stop can hold up the end of a host."""
    entry = world.entry(IGNORES_STOP)
    async with trio.open_nursery() as nursery:
        async with world.worker(grace_period=0.3) as worker:
            handles = [
                await worker.backend_processes.spawn(entry, grace_period=grace) for grace in (FOREVER, FOREVER, 0.2)
            ]
            nursery.start_soon(handles[0].stop)
            await world.wait_state("stopping")
            before = trio.current_time()
        world.assert_took(before, 0.3)
    assert handles[0].info.exit_reason == handles[1].info.exit_reason == "backend_unloaded"
    assert handles[2].info.error == "did not end within 0.2 s of the stop, and was killed"


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, "1", True, 10**400], ids=lambda value: str(value)[:5])
async def test_a_grace_period_is_a_finite_number(virtual_world, autojump_clock: MockClock, seconds: object) -> None:
    words = "must be a finite number of seconds, 0 or more"
    entry = virtual_world.entry(WAITS)
    async with virtual_world.worker() as worker:
        processes = worker.backend_processes
        for name in ("grace_period", "replace_grace"):
            with pytest.raises(ValueError, match=f"{name} {words}"):
                await processes.spawn(entry, **{name: seconds})
        handle = await processes.spawn(entry)
        with pytest.raises(ValueError, match=f"grace {words}"):
            await handle.stop(grace=seconds)
        assert handle.state is ProcessState.RUNNING
    with pytest.raises(ValueError, match=f"replace_grace {words}"):
        open_host(replace_grace=seconds)
