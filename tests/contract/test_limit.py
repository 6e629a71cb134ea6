"""The limit of live processes per worker: which count, and when a place is free again."""

from __future__ import annotations

import pytest
import trio

import spindle_trio as spindle
from support.contract import ENDS_WHEN_TOLD, NEVER_READY, WAITS, wait_until


async def test_a_spawn_over_the_limit_is_refused_with_the_limit(world, world_clock):
    world.entry(WAITS)
    async with world.worker(max_processes=2) as worker:
        spawn = worker.backend_processes.spawn
        handles = [await spawn("entry.py") for _ in range(2)]
        events = len(world.events)
        with pytest.raises(spindle.ProcessLimitError) as caught:
            await spawn("entry.py", key="new")
        assert caught.value.limit == 2
        assert "2 live processes" in str(caught.value)
        assert "max_processes" in str(caught.value)
        assert len(world.events) == events
        await handles[0].stop()
        await spawn("entry.py", key="new")


async def test_sixteen_are_allowed_unless_the_host_says_otherwise(virtual_world, autojump_clock):
    """In memory only: what counts is the number, and seventeen interpreters take their time."""
    virtual_world.entry(WAITS)
    async with virtual_world.worker() as worker:
        for _ in range(16):
            await worker.backend_processes.spawn("entry.py")
        with pytest.raises(spindle.ProcessLimitError) as caught:
            await worker.backend_processes.spawn("entry.py")
        assert caught.value.limit == 16


async def test_the_limit_is_each_worker_s_own(world, world_clock):
    world.entry(WAITS)
    async with (
        world.host(max_processes=1) as host,
        host.open_worker("one", root=world.root, user_id="ada") as one,
        host.open_worker("two", root=world.root, user_id="ada") as two,
    ):
        await one.backend_processes.spawn("entry.py")
        await two.backend_processes.spawn("entry.py")
        with pytest.raises(spindle.ProcessLimitError):
            await one.backend_processes.spawn("entry.py")


async def test_the_limit_counts_all_users_of_a_worker_together(world, world_clock):
    world.entry(WAITS)
    async with world.worker(user_id=None, max_processes=2) as worker:
        for user_id in ("ada", "bob"):
            await worker.backend_processes.spawn("entry.py", user_id=user_id)
        with pytest.raises(spindle.ProcessLimitError):
            await worker.backend_processes.spawn("entry.py", user_id="eve")


async def test_processes_that_are_starting_or_stopping_count(world, world_clock):
    world.entry(NEVER_READY)
    world.entry(ENDS_WHEN_TOLD, "ends.py")
    async with world.worker(max_processes=2) as worker, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def spawn_first():
            with pytest.raises(spindle.StartupCancelledError):
                await worker.backend_processes.spawn("entry.py")

        await wait_until(worker, lambda: world.events)
        stopping = await worker.backend_processes.spawn("ends.py")
        nursery.start_soon(stopping.stop)
        await wait_until(worker, lambda: stopping.state == "stopping")
        with pytest.raises(spindle.ProcessLimitError):
            await worker.backend_processes.spawn("ends.py")
        await stopping.send("end")
        await worker.backend_processes.stop(world.events[0].process_id)


async def test_a_replacement_does_not_count_twice(world, world_clock):
    """In a full worker a key can still pass to a new process, and spawns that wait for it take no place."""
    world.entry(ENDS_WHEN_TOLD)
    async with world.worker(max_processes=2) as worker, trio.open_nursery() as nursery:
        spawn = worker.backend_processes.spawn
        other = await spawn("entry.py")
        old = await spawn("entry.py", key="k")

        async def replace(outcomes):
            try:
                outcomes.append(await spawn("entry.py", key="k", replace_existing=True))
            except spindle.StartupCancelledError as error:
                outcomes.append(error)

        outcomes: list[object] = []
        nursery.start_soon(replace, outcomes)
        nursery.start_soon(replace, outcomes)
        await wait_until(worker, lambda: old.state == "stopping")
        with pytest.raises(spindle.ProcessLimitError):
            await spawn("entry.py")
        await old.send("end")
        await wait_until(worker, lambda: world.states()[-1] == "running" and len(world.states()) > 5)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert len(outcomes) == 2
        with pytest.raises(spindle.ProcessLimitError):
            await spawn("entry.py")
        assert len(await worker.backend_processes.list()) == 2
        await other.send("end")
        await other.wait_ended()
        third = await spawn("entry.py")
        with pytest.raises(spindle.ProcessLimitError):
            await spawn("entry.py")
        await third.send("end")
        await outcomes[1].send("end")


async def test_a_spawn_of_a_new_key_does_not_queue_for_a_place(world, world_clock):
    """`replace_existing` gives way to nobody but the process with the same key."""
    world.entry(WAITS)
    async with world.worker(max_processes=1) as worker:
        held = await worker.backend_processes.spawn("entry.py", key="a")
        with pytest.raises(spindle.ProcessLimitError):
            await worker.backend_processes.spawn("entry.py", key="b", replace_existing=True)
        assert held.state == "running"


async def test_a_place_is_free_when_the_terminal_event_is_heard(world, world_clock):
    """By a handler first of all; what it sees of the worker has no such process any more."""
    world.entry(ENDS_WHEN_TOLD)
    async with world.host(max_processes=1) as host, host.open_worker("w", root=world.root, user_id="ada") as worker:
        seen = []

        def on_end(event):
            if event.state.is_terminal:
                seen.append(host.statistics().processes)
                if len(seen) == 1:
                    nursery.start_soon(spawn)

        async def spawn():
            handle = await worker.backend_processes.spawn("entry.py")
            await handle.send("end")
            await handle.wait_ended()

        worker.backend_processes.on_lifecycle(on_end)
        async with trio.open_nursery() as nursery:
            await spawn()
        assert seen == [0, 0]


@pytest.mark.parametrize("how", ["failed", "cancelled", "timed out", "queued and cancelled"])
async def test_a_spawn_that_comes_to_nothing_takes_no_place(world, world_clock, how):
    world.entry("async def run(process): raise ValueError", "failed.py")
    world.entry(NEVER_READY, "never.py")
    world.entry(WAITS)
    async with world.worker(max_processes=1) as worker:
        spawn = worker.backend_processes.spawn
        if how == "failed":
            with pytest.raises(spindle.StartupFailedError):
                await spawn("failed.py", key="k")
        elif how == "timed out":
            with pytest.raises(spindle.StartupTimeoutError):
                await spawn("never.py", key="k", startup_timeout=0.2)
        elif how == "cancelled":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: spawn("never.py", key="k"))
                await wait_until(worker, lambda: world.events)
                nursery.cancel_scope.cancel()
        else:
            old = await spawn("entry.py", key="k", kind="k")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: spawn("entry.py", key="k", kind="k", replace_existing=True))
                await wait_until(worker, lambda: old.state == "stopping")
                nursery.cancel_scope.cancel()
            await old.wait_ended()
        assert await worker.backend_processes.list() == []
        await spawn("entry.py", key="k")
        with pytest.raises(spindle.ProcessLimitError):
            await spawn("entry.py", key="other")
