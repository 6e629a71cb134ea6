"""Rule 3 of the contract: a scope is an exit reason. By return, by error or by cancellation it is the same."""

from __future__ import annotations

import functools

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import ProcessState, StartupCancelledError

POLITE = """
    async def run(process):
        process.ready()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await process.send(["cleaned up", process.payload])
"""

STUBBORN = """
    async def run(process):
        process.on_stop(lambda notice: process.send_nowait(["was told", notice.reason]))
        process.ready()
        await trio.sleep_forever()
"""

NEVER_READY = """
    async def run(process):
        process.on_stop(lambda notice: None)
        await process.send("begun")
        await trio.sleep_forever()
"""


class Mishap(Exception):
    pass


@pytest.mark.parametrize("way", ["return", "error", "cancellation"])
@pytest.mark.parametrize("left", ["worker", "host"])
async def test_leaving_a_scope_in_any_way_unloads_its_processes_within_the_grace_period(
    world, world_clock: MockClock | None, way: str, left: str
) -> None:
    """Left is the worker's block, and the host lives on; or the host's, and a task still has the worker's open."""
    polite, stubborn = world.entry(POLITE, "polite.py"), world.entry(STUBBORN, "stubborn.py")
    left_at = -1.0
    let_go = trio.Event()

    async def leave() -> None:
        nonlocal left_at
        left_at = trio.current_time()
        if way == "error":
            raise Mishap
        if way == "cancellation":
            scope.cancel()
            await trio.lowlevel.checkpoint()

    async def use_worker(host, task_status=trio.TASK_STATUS_IGNORED) -> None:
        async with host.open_worker("tests", root=world.root, user_id="ada") as worker:
            worker.backend_processes.on_lifecycle(world.events.append)
            worker.backend_processes.on_message(world.messages.append)
            async with trio.open_nursery() as spawning:
                spawning.start_soon(functools.partial(worker.backend_processes.spawn, polite, payload=1))
                spawning.start_soon(worker.backend_processes.spawn, stubborn)
            task_status.started()
            await (leave() if left == "worker" else let_go.wait())

    async with trio.open_nursery() as nursery:
        caught = None
        with trio.CancelScope() as scope:
            try:
                async with world.host(grace_period=0.2) as host:
                    if left == "worker":
                        try:
                            await use_worker(host)
                        finally:
                            world.assert_took(left_at, 0.2)
                            assert host.statistics().processes == host.statistics().workers == 0
                    else:
                        await nursery.start(use_worker, host)
                        await leave()
            except Mishap as error:
                caught = error
        world.assert_took(left_at, 0.2)
        assert scope.cancelled_caught == (way == "cancellation")
        assert (caught is not None) == (way == "error")
        let_go.set()
    assert sorted(world.payloads()) == [["cleaned up", 1], ["was told", "backend_unloaded"]]
    assert world.reasons() == [("stopped", "backend_unloaded")] * 2


@pytest.mark.parametrize("scope", ["host", "worker", "process"])
async def test_an_error_leaves_a_scope_bare(world, world_clock: MockClock | None, scope: str) -> None:
    """In no exception group, and as the object that was raised."""
    entry = world.entry(POLITE)
    mishap = Mishap("mine")
    try:
        async with world.worker() as worker:
            if scope == "process":
                async with worker.backend_processes.open(entry) as handle:
                    raise mishap
            await worker.backend_processes.spawn(entry)
            if scope == "worker":
                async with world.opened.open_worker("other", root=world.root, user_id="bob") as other:
                    await other.backend_processes.spawn(entry)
                    raise mishap
            raise mishap
    except Mishap as error:
        assert error is mishap
        assert error.__cause__ is error.__context__ is None
    else:
        raise AssertionError("nothing was raised")
    assert world.reasons()[0] == ("stopped", "stopped" if scope == "process" else "backend_unloaded")
    if scope == "process":
        assert handle.state is ProcessState.STOPPED


async def test_many_stubborn_children_take_one_grace_period_in_all(world, world_clock: MockClock | None) -> None:
    """Each is killed with all others, however many there are: the block is left within the grace period plus 2 s."""
    count = world.seconds(100, real=12)
    entry = world.entry(STUBBORN)
    async with world.worker(grace_period=0.5, max_processes=200) as worker:
        async with trio.open_nursery() as nursery:
            for _ in range(int(count)):
                nursery.start_soon(worker.backend_processes.spawn, entry)
        left_at = trio.current_time()
    assert trio.current_time() - left_at <= (0.5 if world.is_virtual else 2.5)
    assert world.reasons() == [("stopped", "backend_unloaded")] * int(count)


async def test_several_workers_are_ended_side_by_side(world, world_clock: MockClock | None) -> None:
    """Not one grace period each, even if their blocks end one after another: the host has asked them all."""
    entry = world.entry(STUBBORN)
    kept = trio.Event()

    async def keep_open(host, task_status) -> None:
        async with host.open_worker("tests", root=world.root, user_id="ada") as worker:
            await worker.backend_processes.spawn(entry)
            task_status.started(worker)
            await kept.wait()

    async with trio.open_nursery() as nursery:
        async with world.host(grace_period=0.5) as host:
            for _ in range(3):
                worker = await nursery.start(keep_open, host)
                worker.backend_processes.on_lifecycle(world.events.append)
            left_at = trio.current_time()
        world.assert_took(left_at, 0.5)
        kept.set()
    assert world.reasons() == [("stopped", "backend_unloaded")] * 3


async def test_what_is_starting_stopping_or_queued_is_ended_as_well(world, world_clock: MockClock | None) -> None:
    never, stubborn = world.entry(NEVER_READY, "never.py"), world.entry(STUBBORN, "stubborn.py")
    async with trio.open_nursery() as nursery:
        async with world.worker(grace_period=0.5) as worker:
            processes = worker.backend_processes
            starting = world.spawn_soon(nursery, worker, never)
            await world.wait_payload("begun")
            stopping = await processes.spawn(stubborn)
            await processes.spawn(stubborn, key="one")
            nursery.start_soon(stopping.stop)
            queued = world.spawn_soon(nursery, worker, stubborn, key="one", replace_existing=True)
            await world.wait_state("stopping", 2)
            left_at = trio.current_time()
        assert trio.current_time() - left_at <= (0.5 if world.is_virtual else 2.5)
        await queued.is_over.wait()
    assert isinstance(starting.error, StartupCancelledError)
    assert isinstance(queued.error, trio.ClosedResourceError)
    assert sorted(world.reasons()) == [("stopped", "backend_unloaded")] * 2 + [("stopped", "replaced")]
    assert stopping.info.exit_reason == "backend_unloaded"


async def test_a_handler_can_spawn_nothing_while_the_scope_is_left(world, world_clock: MockClock | None) -> None:
    entry = world.entry(POLITE)
    async with trio.open_nursery() as nursery:
        late = []
        async with world.worker() as worker:
            await worker.backend_processes.spawn(entry)
            worker.backend_processes.on_lifecycle(lambda event: late.append(world.spawn_soon(nursery, worker, entry)))
        for pending in late:
            await pending.is_over.wait()
            assert isinstance(pending.error, trio.ClosedResourceError)
    assert len(late) == 2
    assert world.states() == ["starting", "running", "stopping", "stopped"]


async def test_killing_the_host_skips_the_grace_period_and_leaves_it_open(world, world_clock: MockClock | None) -> None:
    entry, never = world.entry(STUBBORN), world.entry(NEVER_READY, "never.py")
    async with world.worker(grace_period=20) as worker, trio.open_nursery() as nursery:
        running = await worker.backend_processes.spawn(entry)
        stopping = await worker.backend_processes.spawn(entry)
        nursery.start_soon(stopping.stop)
        starting = world.spawn_soon(nursery, worker, never)
        await world.wait_payload("begun")
        before = trio.current_time()
        world.opened.kill()
        for handle in (running, stopping):
            assert (await handle.wait_ended()).exit_reason == "backend_unloaded"
        await starting.is_over.wait()
        world.assert_took(before, 0)
        assert isinstance(starting.error, StartupCancelledError)
        assert world.states(running.process_id) == ["starting", "running", "stopping", "stopped"]
        again = await worker.backend_processes.spawn(entry)
        assert again.state is ProcessState.RUNNING
        world.opened.kill()


async def test_killing_the_host_while_a_scope_is_left_skips_the_grace_period(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(STUBBORN)
    async with trio.open_nursery() as nursery:

        async def kill() -> None:
            await world.wait_state("stopping")
            world.opened.kill()

        async with world.worker(grace_period=20) as worker:
            await worker.backend_processes.spawn(entry)
            nursery.start_soon(kill)
            left_at = trio.current_time()
        world.assert_took(left_at, 0)
    assert world.reasons() == [("stopped", "backend_unloaded")]


@pytest.mark.parametrize("way", ["return", "error", "cancellation"])
async def test_leaving_an_open_block_stops_its_process(world, world_clock: MockClock | None, way: str) -> None:
    entry = world.entry(STUBBORN)
    async with world.worker(grace_period=0.2) as worker:
        try:
            with trio.CancelScope() as scope:
                async with worker.backend_processes.open(entry) as handle:
                    left_at = trio.current_time()
                    if way == "error":
                        raise Mishap
                    if way == "cancellation":
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
        except Mishap:
            assert way == "error"
        world.assert_took(left_at, 0.2)
        assert handle.state is ProcessState.STOPPED
        assert world.reasons() == [("stopped", "stopped")]
