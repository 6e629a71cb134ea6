"""Messages in batches: `receive_many` beside `receive`, in the host and in an entry, and floods without a pause."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import Limits, MessageReceiveChannel, ProcessState

FLOOD = """
    async def run(process):
        process.ready()
        await process.messages().receive()
        sent = 0
        while sent < process.payload:
            try:
                process.send_nowait(sent)
            except trio.WouldBlock:
                await process.send(sent)
            sent += 1
        return "done"
"""

SUMS = """
    async def run(process):
        process.ready()
        process.beat_while_running()
        numbers = []
        channel = process.messages()
        while len(numbers) < process.payload:
            numbers += await channel.receive_many()
        assert numbers == list(range(process.payload))
        return sum(numbers)
"""


async def receive_all(messages) -> list[list[object]]:
    batches = []
    while True:
        try:
            batches.append(await messages.receive_many())
        except trio.EndOfChannel:
            return batches


@pytest.mark.parametrize("inbox_messages", [1, 8, 1_024])
async def test_a_flood_is_received_in_batches_whole_and_in_order(
    world, world_clock: MockClock | None, inbox_messages: int
) -> None:
    entry = world.entry(FLOOD)
    async with world.quiet_worker(limits=Limits(inbox_messages=inbox_messages)) as worker:
        handle = await worker.backend_processes.spawn(entry, payload=3_000)
        messages = handle.messages()
        await handle.send("go")
        batches = await receive_all(messages)
        assert handle.state is ProcessState.COMPLETED
    assert all(batches)
    assert [number for batch in batches for number in batch] == list(range(3_000))
    assert handle.statistics().messages_dropped == 0


async def test_a_flood_of_several_processes_keeps_the_order_of_each(world, world_clock: MockClock | None) -> None:
    entry = world.entry(FLOOD)
    async with world.quiet_worker() as worker:
        processes = worker.backend_processes
        messages = processes.messages()
        handles = [await processes.spawn(entry, payload=500) for _ in range(3)]
        for handle in handles:
            await handle.send("go")
        received: dict[str, list[object]] = {handle.process_id: [] for handle in handles}
        while any(len(numbers) < 500 for numbers in received.values()):
            for message in await messages.receive_many(100):
                assert message.user_id == "ada"
                received[message.process_id].append(message.payload)
    assert list(received.values()) == [list(range(500))] * 3


async def test_batches_and_single_messages_may_be_mixed_and_nothing_is_lost_when_cancelled(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(FLOOD)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry, payload=100)
        messages = handle.messages()
        with trio.move_on_after(0.01) as scope:
            await messages.receive_many()
        assert scope.cancelled_caught
        await handle.send("go")
        numbers = [await messages.receive()]
        numbers += await messages.receive_many(3)
        numbers.append(await messages.receive())
        async for number in messages:
            numbers.append(number)
            if number == 50:
                break
        while len(numbers) < 100:
            numbers += await messages.receive_many()
        assert numbers == list(range(100))


async def test_an_entry_receives_in_batches_what_is_sent_to_it_at_once(world, world_clock: MockClock | None) -> None:
    entry = world.entry(SUMS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, payload=5_000)
        for number in range(5_000):
            try:
                handle.send_nowait(number)
            except trio.WouldBlock:
                await handle.send(number)
        info = await handle.wait_ended()
    assert (info.error, handle.result) == (None, sum(range(5_000)))


async def test_a_blocking_entry_gets_a_flood_whole_and_in_order(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            for number in range(5_000):
                assert process.receive() == number
            for number in range(5_000):
                process.send(number)
    """)
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        messages = handle.messages()
        for number in range(5_000):
            try:
                handle.send_nowait(number)
            except trio.WouldBlock:
                await handle.send(number)
        batches = await receive_all(messages)
        assert handle.info.error is None
    assert [number for batch in batches for number in batch] == list(range(5_000))


async def test_a_payload_just_under_the_limit_comes_back_as_it_was(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            async for message in process.messages():
                await process.send(message)
    """)
    records = [{"id": number, "title": f"[{number}], and more", "score": number / 7} for number in range(14_000)]
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        messages = handle.messages()
        for payload in ("x" * (2**20 - 2), records, ['"\\'] * 90_000):
            await handle.send(payload)
            assert await messages.receive_many() == [payload]


async def test_channels_of_messages_are_what_the_public_type_says(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            from spindle_trio import MessageReceiveChannel
            process.ready()
            return isinstance(process.messages(), MessageReceiveChannel)
    """)
    async with world.worker() as worker:
        assert isinstance(worker.backend_processes.messages(), MessageReceiveChannel)
        handle = await worker.backend_processes.spawn(entry)
        assert isinstance(handle.messages(), MessageReceiveChannel)
        await handle.wait_ended()
    assert handle.result is True
