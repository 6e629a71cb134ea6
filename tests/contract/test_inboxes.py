"""Message subscriptions: cursors in one inbox a process.

Back-pressure while somebody listens, and a bound while nobody does.
"""

from __future__ import annotations

import gc
import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from spindle_trio import ExitReason, Limits, ProcessState

SMALL = Limits(inbox_messages=8)

# Both wait for a message before they send, so that a test can subscribe, or not, before that.
COUNTING = """
    async def run(process):
        process.ready()
        await process.messages().receive()
        for number in range(process.payload):
            await process.send(number)
        return "done"
"""

BULKY = """
    async def run(process):
        process.ready()
        await process.messages().receive()
        for number in range(process.payload):
            await process.send([number, "x" * 50_000])
        return "done"
"""


async def settled(handle) -> int:
    """Wait until a process that is held up sends no more, and return how many of its messages the host has taken in."""
    before = 0
    while not before or before != handle.statistics().messages_received:
        before = handle.statistics().messages_received
        await wait_all_tasks_blocked(0.05)
    return before


# ---- while a subscription is open


async def assert_send_waits_and_nothing_is_lost(world, entry: str) -> None:
    async with world.quiet_worker(limits=SMALL) as worker:
        handle = await worker.backend_processes.spawn(entry, payload=100)
        messages = handle.messages()
        await handle.send("go")
        assert await settled(handle) < 100
        assert handle.state is ProcessState.RUNNING
        assert handle.statistics().inbox_messages <= 8
        payloads = [payload async for payload in messages]
    assert [number for number, _ in payloads] == list(range(100))
    assert handle.statistics().messages_dropped == 0
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, "done")


async def test_while_one_is_open_nothing_is_lost_and_the_childs_send_waits(
    world, world_clock: MockClock | None
) -> None:
    await assert_send_waits_and_nothing_is_lost(world, world.entry(BULKY))


async def test_while_one_is_open_nothing_is_lost_and_a_blocking_childs_send_waits(real_world) -> None:
    entry = real_world.blocking_entry(
        BULKY.replace("async def", "def").replace("await ", "").replace("messages().", "")
    )
    await assert_send_waits_and_nothing_is_lost(real_world, entry)


async def test_the_bound_counts_bytes_too(world, world_clock: MockClock | None) -> None:
    entry = world.entry(BULKY)
    async with world.quiet_worker(limits=Limits(inbox_bytes=200_000)) as worker:
        handle = await worker.backend_processes.spawn(entry, payload=100)
        async with handle.messages() as messages:
            await handle.send("go")
            await settled(handle)
            assert handle.statistics().inbox_bytes < 200_000 + 64 * 1024 + 2 * 50_000
            payloads = [payload async for payload in messages]
    assert [number for number, _ in payloads] == list(range(100))


async def test_a_full_inbox_pauses_that_child_alone(world, world_clock: MockClock | None) -> None:
    flooding = world.entry(BULKY, name="flooding.py")
    counting = world.entry(COUNTING, name="counting.py")
    async with world.quiet_worker(limits=SMALL) as worker:
        paused = await worker.backend_processes.spawn(flooding, payload=1_000)
        with_nobody_reading = paused.messages()
        await paused.send("go")
        await settled(paused)
        other = await worker.backend_processes.spawn(counting, payload=100)
        messages = other.messages()
        await other.send("go")
        assert [payload async for payload in messages] == list(range(100))
        await other.wait_ended()
        assert paused.state is ProcessState.RUNNING
        with_nobody_reading.close()


STOPPING_FLOOD = """
    async def run(process):
        process.ready()
        await process.wait_stop()
        for number in range(process.payload):
            await process.send([number, "x" * 50_000])
        return "done"
"""


async def test_while_it_stops_the_host_reads_on_beyond_the_bound(world, world_clock: MockClock | None) -> None:
    entry = world.entry(STOPPING_FLOOD)
    async with world.quiet_worker(limits=SMALL) as worker:
        handle = await worker.backend_processes.spawn(entry, payload=50)
        messages = handle.messages()
        await handle.stop()
    assert [number for number, _ in [payload async for payload in messages]] == list(range(50))
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, "done")


async def test_a_child_that_was_held_up_when_it_is_stopped_gets_rid_of_what_waits(
    world, world_clock: MockClock | None
) -> None:
    """The stop is what lets the host read on, although its inbox is full and nobody reads it."""
    entry = world.entry("""
        async def run(process):
            process.on_stop(lambda notice: None)
            process.ready()
            await process.messages().receive()
            for number in range(100):
                await process.send([number, "x" * 50_000])
            return "done"
    """)
    async with world.quiet_worker(limits=SMALL) as worker:
        handle = await worker.backend_processes.spawn(entry)
        messages = handle.messages()
        await handle.send("go")
        assert await settled(handle) < 100
        await handle.stop()
    assert [number for number, _ in [payload async for payload in messages]] == list(range(100))
    assert handle.result == "done"


async def test_more_than_ending_bytes_while_it_ends_breaks_the_protocol(world, world_clock: MockClock | None) -> None:
    entry = world.entry(STOPPING_FLOOD)
    async with world.quiet_worker(limits=Limits(ending_bytes=500_000)) as worker:
        handle = await worker.backend_processes.spawn(entry, payload=1_000)
        messages = handle.messages()
        await handle.stop()
    assert handle.info.exit_reason is ExitReason.STOPPED
    assert "broke the protocol: more than 500000 bytes of messages sent while it was ending" in handle.info.error
    numbers = [number for number, _ in [payload async for payload in messages]]
    assert numbers == list(range(len(numbers)))
    assert 0 < len(numbers) < 1_000


async def test_more_than_ending_bytes_after_complete_breaks_the_protocol_and_the_own_word_stays(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            process.complete("done")
            with trio.CancelScope(shield=True):
                for _ in range(100):
                    await process.send("x" * 50_000)
    """)
    async with world.quiet_worker(limits=Limits(ending_bytes=500_000)) as worker:
        handle = await worker.backend_processes.spawn(entry)
        since = trio.current_time()
        info = await handle.wait_ended()
        assert trio.current_time() - since < 5  # it was killed, not waited for
    assert info.state is ProcessState.COMPLETED


# ---- while none is open


async def test_with_nobody_subscribed_the_newest_are_kept_and_the_dropped_counted_and_logged_once(
    world, world_clock: MockClock | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "spindle_trio.subscriptions")
    entry = world.entry(COUNTING)
    async with world.quiet_worker(limits=SMALL) as worker:
        handle = await worker.backend_processes.spawn(entry, payload=1_000)
        await handle.send("go")
        info = await handle.wait_ended()  # neither wedged by the full inbox …
        statistics = handle.statistics()
    assert info.exit_reason is ExitReason.COMPLETED
    assert (statistics.messages_received, statistics.messages_dropped) == (1_000, 992)
    assert (statistics.inbox_messages, statistics.subscriptions) == (8, 0)  # … nor a leak
    assert [payload async for payload in handle.messages()] == list(range(992, 1_000))
    (record,) = [record for record in caplog.records if record.name == "spindle_trio.subscriptions"]
    assert handle.process_id in record.getMessage()


async def test_the_bound_in_bytes_holds_too_with_nobody_subscribed(world, world_clock: MockClock | None) -> None:
    entry = world.entry(BULKY)
    async with world.quiet_worker(limits=Limits(inbox_bytes=170_000)) as worker:
        handle = await worker.backend_processes.spawn(entry, payload=100)
        await handle.send("go")
        await handle.wait_ended()
    assert handle.statistics().inbox_bytes <= 170_000
    assert [number for number, _ in [payload async for payload in handle.messages()]] == [97, 98, 99]


async def test_nothing_is_logged_where_nothing_was_dropped(
    world, world_clock: MockClock | None, caplog: pytest.LogCaptureFixture
) -> None:
    entry = world.entry(COUNTING)
    async with world.quiet_worker(limits=SMALL) as worker:
        handle = await worker.backend_processes.spawn(entry, payload=8)
        await handle.send("go")
        await handle.wait_ended()
    assert [payload async for payload in handle.messages()] == list(range(8))
    assert handle.statistics().messages_dropped == 0
    assert not [record for record in caplog.records if record.name == "spindle_trio.subscriptions"]


# ---- cursors


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


async def test_a_new_subscription_begins_at_the_oldest_message_still_held(world, world_clock: MockClock | None) -> None:
    entry = world.entry(IN_STEPS)
    async with world.quiet_worker(limits=SMALL) as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send(5)
        await until_received(handle, 5)
        first = handle.messages()
        assert [first.receive_nowait() for _ in range(2)] == [0, 1]
        second = handle.messages()  # 0 and 1 went when every subscription had passed them
        assert [second.receive_nowait() for _ in range(3)] == [2, 3, 4]
        with pytest.raises(trio.WouldBlock):
            second.receive_nowait()
        assert first.receive_nowait() == 2


async def test_two_subscriptions_read_at_their_own_pace_and_both_get_everything(
    world, world_clock: MockClock | None
) -> None:
    """The slow one holds up the child, and not the fast one's reading of what there is."""
    entry = world.entry(COUNTING)
    async with world.quiet_worker(limits=SMALL) as worker:
        handle = await worker.backend_processes.spawn(entry, payload=40)
        fast, slow = handle.messages(), handle.messages()
        await handle.send("go")
        received_fast: list[object] = []

        async def read_fast() -> None:
            async for payload in fast:
                received_fast.append(payload)  # noqa: PERF401  # looked at while it grows

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_fast)
            assert await slow.receive() == 0
            await settled(handle)
            assert received_fast[:8] == list(range(8))
            assert len(received_fast) < 40 or not world.is_virtual
            received_slow = [0, *[payload async for payload in slow]]
    assert received_fast == received_slow == list(range(40))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["close", "aclose", "async with", "collect"])
async def test_a_closed_or_collected_subscription_gives_up_its_cursor_and_the_child_goes_on(
    world, world_clock: MockClock | None, way: str
) -> None:
    entry = world.entry(BULKY)
    async with world.quiet_worker(limits=SMALL) as worker:
        handle = await worker.backend_processes.spawn(entry, payload=100)
        messages = handle.messages()
        await handle.send("go")
        assert await settled(handle) < 100
        if way == "close":
            messages.close()
        elif way == "aclose":
            await messages.aclose()
        elif way == "async with":
            async with messages:
                pass
        del messages
        gc.collect()
        while handle.statistics().subscriptions:
            await trio.sleep(0.001)
        info = await handle.wait_ended()
    assert info.exit_reason is ExitReason.COMPLETED
    assert handle.statistics().messages_received == 100


@pytest.mark.parametrize("way", ["close", "collect"])
async def test_the_same_holds_for_a_subscription_to_all_processes(
    world, world_clock: MockClock | None, way: str
) -> None:
    entry = world.entry(BULKY)
    async with world.quiet_worker(limits=SMALL) as worker:
        messages = worker.backend_processes.messages()
        handle = await worker.backend_processes.spawn(entry, payload=100)
        await handle.send("go")
        assert await settled(handle) < 100
        assert handle.statistics().subscriptions == 1
        if way == "close":
            messages.close()
        del messages
        gc.collect()
        while handle.statistics().subscriptions:
            await trio.sleep(0.001)
        info = await handle.wait_ended()
    assert info.exit_reason is ExitReason.COMPLETED


async def test_a_closed_subscription_raises_and_whoever_waits_in_it_too(world, world_clock: MockClock | None) -> None:
    entry = world.entry(IN_STEPS)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        for messages in (handle.messages(), worker.backend_processes.messages()):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_for_closing, messages)
                await wait_all_tasks_blocked()
                messages.close()
                messages.close()
            with pytest.raises(trio.ClosedResourceError):
                messages.receive_nowait()


async def wait_for_closing(messages) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await messages.receive()


async def test_a_cancelled_receive_loses_nothing(world, world_clock: MockClock | None) -> None:
    entry = world.entry(IN_STEPS)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        messages = handle.messages()
        with trio.move_on_after(0.01) as scope:
            await messages.receive()
        assert scope.cancelled_caught
        await handle.send(1)
        assert await messages.receive() == 0
