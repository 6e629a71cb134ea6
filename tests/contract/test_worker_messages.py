"""Messages of all processes of a worker together, handlers for them, and the end that waits for no reader."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from spindle_trio import ExitReason, Limits, ProcessMessage, ProcessState

SMALL = Limits(inbox_messages=8)

# It waits for a message before it sends, so that a test can subscribe, or not, before that.
COUNTING = """
    async def run(process):
        process.ready()
        await process.messages().receive()
        for number in range(process.payload):
            await process.send(number)
        return "done"
"""

IN_STEPS = """
    async def run(process):
        sent = 0
        process.beat_while_running()
        process.ready()
        async for count in process.messages():
            for _ in range(count):
                await process.send(sent)
                sent += 1
"""


async def until_received(handle, count: int) -> None:
    while handle.statistics().messages_received < count:
        await trio.sleep(0.001)


async def settled(handle) -> int:
    """Wait until a process that is held up sends no more, and return how many of its messages the host has taken in."""
    before = 0
    while not before or before != handle.statistics().messages_received:
        before = handle.statistics().messages_received
        await wait_all_tasks_blocked(0.05)
    return before


# ---- all processes of a worker


async def test_messages_of_all_processes_come_in_order_of_arrival_with_their_senders(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(IN_STEPS)
    async with world.quiet_worker() as worker:
        processes = worker.backend_processes
        messages = processes.messages()
        first = await processes.spawn(entry)
        received = []
        await first.send(2)
        received += [await messages.receive() for _ in range(2)]
        later = await processes.spawn(entry)  # spawned when the subscription was open already
        for handle in (later, first, later):
            before = handle.statistics().messages_received
            await handle.send(2)
            await until_received(handle, before + 2)
        late = processes.messages()  # begins at the oldest still held, across processes
        received += [await messages.receive() for _ in range(6)]
        expected = [(first, 0), (first, 1), (later, 0), (later, 1), (first, 2), (first, 3), (later, 2), (later, 3)]
        assert received == [ProcessMessage(handle.process_id, number, "ada") for handle, number in expected]
        assert [late.receive_nowait() for _ in range(6)] == received[2:]


async def test_a_subscription_to_all_processes_outlives_each_of_them_and_ends_with_the_worker(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(COUNTING)
    async with world.quiet_worker() as worker:
        messages = worker.backend_processes.messages()
        for count in (2, 3):
            handle = await worker.backend_processes.spawn(entry, payload=count)
            await handle.send("go")
            await handle.wait_ended()
        assert [(await messages.receive()).payload for _ in range(4)] == [0, 1, 0, 1]
        with trio.move_on_after(0.01):
            assert (await messages.receive()).payload == 2
            await messages.receive()
    with pytest.raises(trio.EndOfChannel):
        await messages.receive()


async def test_messages_sent_before_ready_are_delivered_while_it_is_starting(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            await process.send("early")
            await process.messages().receive()
            process.ready()
    """)
    async with world.quiet_worker() as worker, trio.open_nursery() as nursery:
        processes = worker.backend_processes
        messages = processes.messages()

        async def answer() -> None:
            message = await messages.receive()
            assert message.payload == "early"
            assert (await processes.get(message.process_id)).state is ProcessState.STARTING
            await processes.send(message.process_id, "go on")

        nursery.start_soon(answer)
        await processes.spawn(entry)
    assert world.states()[:2] == ["starting", "running"]


# ---- handlers


async def test_handlers_are_called_in_order_once_each_before_channels_and_not_after_their_unsubscribe(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(IN_STEPS)
    async with world.quiet_worker() as worker:
        processes = worker.backend_processes
        messages = processes.messages()
        heard: list[object] = []

        def first(message: ProcessMessage) -> None:
            heard.append(("first", message.payload, trio.lowlevel.in_trio_task()))
            with pytest.raises(trio.WouldBlock):
                messages.receive_nowait() if message.payload == 0 else raise_would_block()

        def second(message: ProcessMessage) -> None:
            heard.append(("second", message.payload))
            if message.payload == 1:
                unsubscribe_third()

        def third(message: ProcessMessage) -> None:
            heard.append(("third", message.payload))

        unsubscribe_first = processes.on_message(first)
        processes.on_message(second)
        processes.on_message(first)  # counts once, at its first place
        unsubscribe_third = processes.on_message(third)
        handle = await processes.spawn(entry)
        await handle.send(1)
        await messages.receive()
        assert heard == [("first", 0, True), ("second", 0), ("third", 0)]
        heard.clear()
        await handle.send(1)
        await messages.receive()
        assert heard == [("first", 1, True), ("second", 1)]
        heard.clear()
        unsubscribe_first()
        unsubscribe_first()
        await handle.send(1)
        await messages.receive()
        assert heard == [("second", 2)]


def raise_would_block() -> None:
    raise trio.WouldBlock


async def test_a_handler_that_raises_is_logged_with_its_traceback_and_disturbs_nothing(
    world, world_clock: MockClock | None, caplog: pytest.LogCaptureFixture
) -> None:
    entry = world.entry(COUNTING)

    def raises(message: ProcessMessage) -> None:
        raise LookupError("no shelf")

    async with world.quiet_worker() as worker:
        heard: list[object] = []
        worker.backend_processes.on_message(raises)
        worker.backend_processes.on_message(lambda message: heard.append(message.payload))
        handle = await worker.backend_processes.spawn(entry, payload=2)
        await handle.send("go")
        info = await handle.wait_ended()
    assert heard == [0, 1]
    assert info.exit_reason is ExitReason.COMPLETED
    records = [record for record in caplog.records if record.exc_info is not None]
    assert [record.exc_info[0] for record in records] == [LookupError, LookupError]
    assert all(handle.process_id in record.getMessage() for record in records)


async def test_a_message_handler_counts_as_a_subscription_that_is_never_behind(
    world, world_clock: MockClock | None
) -> None:
    """So with a handler alone nothing is lost, held or paused, and a channel beside it has its own place."""
    entry = world.entry(COUNTING)
    async with world.worker(limits=SMALL) as worker:
        handle = await worker.backend_processes.spawn(entry, payload=1_000)
        await handle.send("go")
        await handle.wait_ended()
        statistics = handle.statistics()
    assert world.payloads() == list(range(1_000))
    assert (statistics.messages_dropped, statistics.inbox_messages) == (0, 0)


async def test_a_channel_opened_beside_a_handler_begins_with_what_comes_next(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(IN_STEPS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send(2)
        await until_received(handle, 2)
        assert handle.statistics().subscriptions == 1
        messages = handle.messages()
        await handle.send(1)
        assert await messages.receive() == 2
        assert world.payloads() == [0, 1, 2]


async def test_a_handler_registered_late_is_called_at_once_with_what_is_held(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(IN_STEPS)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send(3)
        await until_received(handle, 3)
        heard: list[object] = []
        worker.backend_processes.on_message(lambda message: heard.append(message.payload))
        assert heard == [0, 1, 2]


async def test_the_terminal_event_never_waits_for_a_reader(world, world_clock: MockClock | None) -> None:
    """Subscriptions of both kinds are open and full, and nobody reads either."""
    entry = world.entry("""
        async def run(process):
            stops = []
            process.on_stop(stops.append)
            process.ready()
            while not stops:
                await process.send("x" * 50_000)
    """)
    async with world.quiet_worker(limits=SMALL) as worker:
        handle = await worker.backend_processes.spawn(entry)
        mine, all_of_them = handle.messages(), worker.backend_processes.messages()
        await settled(handle)
        since = trio.current_time()
        await handle.stop()
        world.assert_took(since, 0)
        assert world.states()[-1] == "completed"
        assert isinstance(mine.receive_nowait(), str)
        assert isinstance(all_of_them.receive_nowait(), ProcessMessage)


async def test_what_a_process_sent_is_readable_by_a_subscription_that_is_opened_after_its_end(
    world, world_clock: MockClock | None
) -> None:
    handle = await run_to_end_quietly(world, world.entry(COUNTING), payload=5)
    messages = handle.messages()
    assert [payload async for payload in messages] == list(range(5))
    with pytest.raises(trio.EndOfChannel):
        messages.receive_nowait()


async def run_to_end_quietly(world, entry: str, **options):
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry, **options)
        await handle.send("go")
        await handle.wait_ended()
    return handle
