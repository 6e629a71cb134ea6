"""Subscribers hear of a transition in order: handlers, channels, waiting tasks. And a channel that is read slowly."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import LaggedError, LifecycleEvent, Limits, ProcessState
from support.contract import WAITS, wait_state, wait_until

WAITING = """
    async def run(process):
        process.ready()
        await trio.sleep_forever()
"""
COMPLETING = """
    async def run(process):
        process.ready()
"""


async def test_handlers_come_before_channels_and_those_before_spawn_stop_and_wait_ended_return(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(WAITING)
    async with world.quiet_worker() as worker:
        processes = worker.backend_processes
        channel = processes.lifecycle_events()
        order: list[str] = []

        def handler(event: LifecycleEvent) -> None:
            with pytest.raises(trio.WouldBlock):
                channel.receive_nowait()  # all before this event has been read, and this one has not been fed yet
            order.append(f"handler {event.state}")

        async def read() -> None:
            async for event in channel:
                order.append(f"channel {event.state}")  # noqa: PERF401  # others append meanwhile

        processes.on_lifecycle(handler)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            handle = await processes.spawn(entry)
            order.append("spawn returned")
            assert {"handler running"} <= set(order)
            await trio.testing.wait_all_tasks_blocked()

            async def wait() -> None:
                await handle.wait_ended()
                order.append("wait_ended returned")

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await handle.stop()
            order.append("stop returned")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert [line for line in order if line.startswith("handler")] == [
        f"handler {state}" for state in ("starting", "running", "stopping", "stopped")
    ]
    for state, returns in (("running", ["spawn"]), ("stopped", ["stop", "wait_ended"])):
        for what in returns:
            assert order.index(f"handler {state}") < order.index(f"{what} returned")
        assert order.index(f"handler {state}") < order.index(f"channel {state}")


async def test_a_channel_has_the_event_already_when_the_calls_return(world, world_clock: MockClock | None) -> None:
    entry = world.entry(WAITING)
    async with world.quiet_worker() as worker:
        channel = worker.backend_processes.lifecycle_events()
        handle = await worker.backend_processes.spawn(entry)
        assert [channel.receive_nowait().state for _ in range(2)] == [ProcessState.STARTING, ProcessState.RUNNING]
        await handle.stop()
        assert [channel.receive_nowait().state for _ in range(2)] == [ProcessState.STOPPING, ProcessState.STOPPED]
        with pytest.raises(trio.WouldBlock):
            channel.receive_nowait()


async def test_a_handler_sees_the_new_state_on_the_handle(world, world_clock: MockClock | None) -> None:
    """`info`, `state` and `result` are updated before the event is delivered."""
    entry = world.entry("""
        async def run(process):
            process.ready()
            await process.messages().receive()
            return "done"
    """)
    async with world.quiet_worker() as worker:
        seen: list[object] = []
        handle = await worker.backend_processes.spawn(entry)
        worker.backend_processes.on_lifecycle(
            lambda event: seen.append((event.state, handle.state, handle.info.state, handle.result))
        )
        await handle.send("go")
        await handle.wait_ended()
    completed = ProcessState.COMPLETED
    assert seen == [(completed, completed, completed, "done")]


async def test_handlers_are_called_in_order_once_each_and_not_after_their_unsubscribe(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(COMPLETING)
    async with world.quiet_worker() as worker:
        processes = worker.backend_processes
        heard: list[str] = []

        def first(event: LifecycleEvent) -> None:
            heard.append(f"first {event.state}")
            assert trio.lowlevel.in_trio_task()

        def second(event: LifecycleEvent) -> None:
            heard.append(f"second {event.state}")
            unsubscribe_third()  # in the very round in which the third would be next

        def third(event: LifecycleEvent) -> None:
            heard.append("never")

        unsubscribe_first = processes.on_lifecycle(first)
        processes.on_lifecycle(second)
        processes.on_lifecycle(first)
        unsubscribe_third = processes.on_lifecycle(third)
        await (await processes.spawn(entry)).wait_ended()
        expected = [f"{who} {state}" for state in ("starting", "running", "completed") for who in ("first", "second")]
        assert heard == expected
        unsubscribe_first()
        unsubscribe_first()
        heard.clear()
        await (await processes.spawn(entry)).wait_ended()
        assert heard == [f"second {state}" for state in ("starting", "running", "completed")]


async def test_a_handler_that_raises_is_logged_with_its_traceback_and_disturbs_nothing(
    world, world_clock: MockClock | None, caplog: pytest.LogCaptureFixture
) -> None:
    entry = world.entry(COMPLETING)

    def raises(event: LifecycleEvent) -> None:
        raise LookupError("no shelf")

    async with world.quiet_worker() as worker:
        heard: list[LifecycleEvent] = []
        worker.backend_processes.on_lifecycle(raises)
        worker.backend_processes.on_lifecycle(heard.append)
        channel = worker.backend_processes.lifecycle_events()
        handle = await worker.backend_processes.spawn(entry)
        await handle.wait_ended()
    assert [event.state for event in heard] == ["starting", "running", "completed"]
    assert [event async for event in channel] == heard
    records = [record for record in caplog.records if record.exc_info is not None]
    assert [record.exc_info[0] for record in records] == [LookupError] * 3
    assert all(handle.process_id in record.getMessage() for record in records)


@pytest.mark.parametrize("when", ["starting", "running", "stopping", "stopped"])
async def test_a_handler_that_exits_the_program_does_not_end_the_host(
    world, world_clock: MockClock | None, when: str
) -> None:
    """A ``pytest.fail()`` is such an exception too; one that left a host on its way out would be an error of Trio's."""
    entry = world.entry(WAITING)

    def exits(event: LifecycleEvent) -> None:
        if event.state == when:
            raise SystemExit(3)

    async with world.quiet_worker() as worker:
        heard: list[LifecycleEvent] = []
        worker.backend_processes.on_lifecycle(exits)
        worker.backend_processes.on_lifecycle(heard.append)
        await worker.backend_processes.spawn(entry)
    assert [event.state for event in heard] == ["starting", "running", "stopping", "stopped"]


@pytest.mark.parametrize("method", ["on_lifecycle", "on_message"])
async def test_handlers_are_plain_functions(virtual_world, autojump_clock: MockClock, method: str) -> None:
    """In memory only: no process is needed to see it."""

    async def coroutine(value: object) -> None:
        raise AssertionError("is never called")

    async with virtual_world.quiet_worker() as worker:
        for handler in (coroutine, "a word"):
            with pytest.raises(TypeError):
                getattr(worker.backend_processes, method)(handler)


async def test_a_handler_may_have_its_task_spawn_the_same_key_at_the_terminal_event(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(COMPLETING)
    async with world.quiet_worker() as worker, trio.open_nursery() as nursery:
        processes = worker.backend_processes

        async def again() -> None:
            await processes.spawn(entry, key="one")

        def handler(event: LifecycleEvent) -> None:
            if event.state.is_terminal and len(world.states()) < 6:
                nursery.start_soon(again)

        processes.on_lifecycle(handler)
        first = await processes.spawn(entry, key="one")
        await first.wait_ended()
        while world.states().count("completed") < 2:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert world.states() == ["starting", "running", "completed"] * 2


async def test_a_handler_may_have_its_tasks_replace_and_stop_the_process_that_it_hears_of(
    world, world_clock: MockClock | None
) -> None:
    """From within each event of one key: reliability, row 28."""
    entry = world.entry(WAITS)
    async with world.quiet_worker() as worker, trio.open_nursery() as nursery:
        processes = worker.backend_processes

        async def replace() -> None:
            await processes.spawn(entry, key="one", replace_existing=True)

        def handler(event: LifecycleEvent) -> None:
            if event.state is ProcessState.RUNNING and world.states().count("running") < 3:
                nursery.start_soon(replace)
            elif event.state is ProcessState.RUNNING:
                nursery.start_soon(processes.stop, event.process_id)

        processes.on_lifecycle(handler)
        await processes.spawn(entry, key="one")
        await wait_until(worker, lambda: len(world.reasons()) == 3)
        assert await processes.list() == []
    assert [reason for _, reason in world.reasons()] == ["replaced", "replaced", "stopped"]
    assert world.states() == ["starting", "running", "stopping", "stopped"] * 3


async def test_one_that_is_not_read_loses_its_oldest_events_says_so_once_and_goes_on(
    world, world_clock: MockClock | None
) -> None:
    """Nobody is held up by it meanwhile, and another one that is read in time misses nothing."""
    entry = world.entry(COMPLETING)
    async with world.quiet_worker(limits=Limits(lifecycle_events=4)) as worker:
        processes = worker.backend_processes
        lagging, reading = processes.lifecycle_events(), processes.lifecycle_events()
        read: list[LifecycleEvent] = []
        for _ in range(3):
            await (await processes.spawn(entry)).wait_ended()
            read += [reading.receive_nowait() for _ in range(3)]
        assert read == world.events
        with pytest.raises(LaggedError) as raised:
            await lagging.receive()
        assert raised.value.missed == 5
        assert [await lagging.receive() for _ in range(4)] == world.events[5:]
        with pytest.raises(trio.WouldBlock):
            lagging.receive_nowait()
        for _ in range(2):
            await (await processes.spawn(entry)).wait_ended()
        with pytest.raises(LaggedError) as raised:
            lagging.receive_nowait()
        assert raised.value.missed == 2
        assert lagging.receive_nowait() == world.events[11]


async def test_it_ends_when_the_worker_closes_after_the_terminal_events(world, world_clock: MockClock | None) -> None:
    entry = world.entry(WAITING)
    async with world.quiet_worker() as worker:
        channel = worker.backend_processes.lifecycle_events()
        for _ in range(2):
            await worker.backend_processes.spawn(entry)
    states = [event.state async for event in channel]
    assert states[:4] == [ProcessState.STARTING, ProcessState.RUNNING] * 2
    assert sorted(states[4:]) == [ProcessState.STOPPED] * 2 + [ProcessState.STOPPING] * 2
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()
    with pytest.raises(trio.EndOfChannel):
        channel.receive_nowait()


async def test_whoever_waits_hears_the_end_when_the_worker_closes(world, world_clock: MockClock | None) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(channel) -> None:
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()

        async with world.quiet_worker() as worker:
            nursery.start_soon(wait, worker.backend_processes.lifecycle_events())
            nursery.start_soon(wait, worker.backend_processes.messages())
            await trio.testing.wait_all_tasks_blocked()


async def test_a_subscription_hears_of_its_own_workers_processes_from_now_on(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(WAITING)
    async with (
        world.host() as host,
        host.open_worker("a", root=world.root, user_id="ada") as ours,
        host.open_worker("b", root=world.root, user_id="ada") as other,
    ):
        before = await ours.backend_processes.spawn(entry)
        channel = ours.backend_processes.lifecycle_events()
        await other.backend_processes.spawn(entry)
        await before.stop()
        assert [channel.receive_nowait().process_id for _ in range(2)] == [before.process_id] * 2
        with pytest.raises(trio.WouldBlock):
            channel.receive_nowait()


async def test_a_closed_one_raises_and_one_that_nobody_holds_costs_nothing(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(WAITING)
    async with world.quiet_worker() as worker, trio.open_nursery() as nursery:
        channel = worker.backend_processes.lifecycle_events()
        worker.backend_processes.lifecycle_events()

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await channel.receive()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        channel.close()
        channel.close()
        handle = await worker.backend_processes.spawn(entry)
        with pytest.raises(trio.ClosedResourceError):
            channel.receive_nowait()
        nursery.start_soon(handle.stop)
        await wait_state(worker, handle.process_id, ProcessState.STOPPED)
