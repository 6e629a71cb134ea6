"""Handles: what they know and when, sending with back-pressure, and the block that is a process's life."""

from __future__ import annotations

import gc
import inspect
from datetime import timedelta

import attrs
import pytest
import trio

import spindle_trio as spindle
from support.contract import ECHO, ENDS_WHEN_TOLD, IGNORES_STOP, NEVER_READY, WAITS, wait_until

NEVER_READS = """
async def run(process):
    process.ready()
    await process.wait_stop()
"""


# What a handle knows.


@pytest.mark.parametrize("name", ["spawn", "open"])
def test_help_shows_each_option_of_a_spawn_with_its_default(name: str) -> None:
    shown = inspect.signature(getattr(spindle.BackendProcesses, name)).parameters
    options = {field.name: field.default for field in attrs.fields(spindle.SpawnOptions) if field.name != "entry"}
    assert list(shown) == ["self", "entry", *options]
    assert {option: shown[option].default for option in options} == options


async def test_a_handle_shows_who_its_process_is(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", kind="index", key="k", metadata={"a": [1]})
        info = handle.info
        assert (handle.process_id, handle.entry, handle.kind, handle.key) == (
            info.process_id,
            "entry.py",
            "index",
            "k",
        )
        assert (handle.state, handle.result, info.metadata, info.user_id) == ("running", None, {"a": [1]}, "ada")
        assert handle.process_id == world.events[0].process_id
        assert (handle.pid is None) is world.is_virtual


async def test_a_handle_is_up_to_date_before_a_handler_hears_of_it(world, world_clock):
    """Info, state and result are those of the event, in the handler already, and so is what `refresh` would say."""
    world.entry(ENDS_WHEN_TOLD)
    handles, seen = [], []

    async with world.worker() as worker:

        def look(event):
            if handles:
                handle = handles[0]
                seen.append((event, handle.state, handle.info, handle.result))

        worker.backend_processes.on_lifecycle(look)
        handle = await worker.backend_processes.spawn("entry.py", payload=[1])
        handles.append(handle)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.stop)
            await wait_until(worker, lambda: handle.state == "stopping")
            await handle.send("end")
    assert [str(event.state) for event, *_ in seen] == ["stopping", "completed"]
    for event, state, info, result in seen:
        assert (state, info.state, info.exit_reason, info.error) == (
            event.state,
            event.state,
            event.exit_reason,
            event.error,
        )
        assert result == event.result == ([1] if state == "completed" else None)
    assert seen[-1][2].ended_at == seen[-1][0].at
    assert seen[-1][2] == handle.info


async def test_a_handle_knows_the_times_of_its_transitions(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        await handle.stop()
    info = handle.info
    starting, running, _, stopped = world.events
    assert (info.started_at, info.ready_at, info.ended_at) == (starting.at, running.at, stopped.at)
    assert info.last_heartbeat_at is not None
    assert info.last_heartbeat_at >= running.at


async def test_refresh_asks_the_host_and_gives_none_after_the_end(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        assert await handle.refresh() == handle.info
        await handle.stop()
        assert await handle.refresh() is None
        assert handle.info.state == "stopped"
        last = handle.info
        assert await handle.refresh() is None
        assert handle.info == last


async def test_the_last_heartbeat_is_read_when_the_info_is(world, world_clock):
    """A heartbeat is no transition and no frame: nobody tells the handle of it."""
    world.entry("""
    async def run(process):
        process.ready()
        async for _ in process.messages():
            process.heartbeat()
            await process.send("beaten")
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        channel = handle.messages()
        ready_at = handle.info.ready_at
        assert handle.info.last_heartbeat_at == ready_at
        times = [ready_at]
        for _ in range(3):
            await trio.sleep(2 if world.is_virtual else 0.01)
            await handle.send("beat")
            await channel.receive()
            times.append(handle.info.last_heartbeat_at)
            assert (await handle.refresh()).last_heartbeat_at == times[-1]
            assert (await worker.backend_processes.list())[0].last_heartbeat_at == times[-1]
        assert times == sorted(set(times))
        if world.is_virtual:
            assert times == [ready_at + timedelta(seconds=seconds) for seconds in (0, 2, 4, 6)]
        await handle.stop()
        assert handle.info.last_heartbeat_at == times[-1]
    assert world.states() == ["starting", "running", "stopping", "stopped"]


async def test_everybody_who_waits_for_the_end_gets_the_last_snapshot(world, world_clock):
    """Several tasks at once, one that gives up, and one that comes later."""
    world.entry(ENDS_WHEN_TOLD)
    infos = []
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")

        async def wait():
            infos.append(await handle.wait_ended())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            with trio.CancelScope() as scope:
                nursery.start_soon(lambda: cancel_when_blocked(scope))
                await handle.wait_ended()
            assert scope.cancelled_caught
            assert handle.state == "running"
            await handle.send("end")
        assert infos == [handle.info] * 3
        assert await handle.wait_ended() == handle.info
        assert handle.info.state == "completed"


async def cancel_when_blocked(scope):
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_waiting_for_an_end_that_was_is_a_checkpoint(world, world_clock):
    world.entry("async def run(process): process.ready()")
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        await handle.wait_ended()
        for call in (handle.wait_ended, handle.refresh, handle.stop):
            with trio.testing.assert_checkpoints():
                await call()
            with trio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught


async def test_statistics_count_what_the_lanes_hold_and_have_carried(world, world_clock):
    world.entry(ECHO)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        empty = handle.statistics()
        assert (empty.messages_received, empty.inbox_messages, empty.inbox_bytes, empty.subscriptions) == (0, 0, 0, 0)
        assert (empty.outbox_messages, empty.outbox_bytes, empty.messages_dropped, empty.output_dropped) == (0, 0, 0, 0)
        channel, other = handle.messages(), handle.messages()
        for payload in ("a", "bc"):
            await handle.send(payload)
            assert await channel.receive() == payload
        statistics = handle.statistics()
        assert (statistics.messages_received, statistics.subscriptions) == (2, 2)
        assert (statistics.inbox_messages, statistics.inbox_bytes) == (2, 7)
        other.close()
        assert (handle.statistics().inbox_messages, handle.statistics().subscriptions) == (0, 1)
        channel.close()
        del channel, other
        gc.collect()
        await handle.stop()
        assert handle.statistics().messages_received == 2


@pytest.mark.parametrize("key", [None, "chat:42"])
async def test_a_repr_is_a_status_line(world, world_clock, key):
    world.entry(WAITS)
    async with world.host() as host, host.open_worker("indexer", root=world.root, user_id="ada") as worker:
        handle = await worker.backend_processes.spawn("entry.py", kind="index", key=key)
        for value in (handle, handle.info):
            shown = repr(value)
            for part in ("running", "entry.py", handle.process_id, *([] if key is None else [key])):
                assert part in shown
        assert f"pid={handle.pid}" in repr(handle)
        assert "index" in repr(handle.info)
        assert "processes=1" in repr(host)
        assert "open" in repr(host)
        assert all(part in repr(worker) for part in ("open", "indexer", "ada"))
        assert "indexer" in repr(worker.backend_processes)
        pid = handle.pid
        await handle.stop()
        assert all(part in repr(handle) for part in ("stopped", "entry.py", handle.process_id, f"pid={pid}"))
    assert "closed" in repr(worker)
    assert "closed" in repr(host)


# Sending, and waiting for room.


async def fill(handle, payload="x" * 1_000):
    """Send until there is no room any more; return how many messages were taken."""
    for count in range(100_000):
        try:
            handle.send_nowait(payload)
        except trio.WouldBlock:
            return count
        if count % 50 == 0:
            await trio.lowlevel.checkpoint()
    raise AssertionError("there was always room")


async def test_a_child_that_never_reads_makes_senders_wait_and_the_host_s_memory_stays_bounded(world, world_clock):
    """Row 22 of the reliability contract: `send_nowait` refuses, `send` waits and can be cancelled, a stop arrives."""
    world.entry(NEVER_READS)
    async with world.worker(limits=spindle.Limits(outbox_bytes=50_000)) as worker:
        handle = await worker.backend_processes.spawn("entry.py", heartbeat_timeout=1_000)
        assert await fill(handle) > 0
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        await fill(handle)
        statistics = handle.statistics()
        assert 0 < statistics.outbox_bytes <= 50_000
        assert statistics.outbox_messages == statistics.outbox_bytes // 1_002
        with trio.move_on_after(0.1) as scope:
            await handle.send("x" * 1_000)
        assert scope.cancelled_caught
        with trio.move_on_after(0.1) as scope:
            await worker.backend_processes.send(handle.process_id, "x" * 1_000)
        assert scope.cancelled_caught
        assert handle.statistics() == statistics
        with pytest.raises(trio.WouldBlock):
            handle.send_nowait("x" * 1_000)
        since = trio.current_time()
        await handle.stop()
        world.assert_took(since, 0)
        assert (handle.state, handle.info.exit_reason) == ("completed", "completed")


async def test_a_sender_that_waits_is_told_of_the_end(world, world_clock):
    world.entry(NEVER_READS)
    async with world.worker(limits=spindle.Limits(outbox_bytes=10_000)) as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        for _ in range(5):
            await fill(handle)
            await trio.lowlevel.checkpoint()
        told = []

        async def send():
            with pytest.raises(trio.BrokenResourceError) as caught:
                await handle.send("x" * 1_000)
            told.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(send)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            await handle.stop()
        assert len(told) == 2
        assert all(handle.process_id in text and "entry.py" in text for text in told), told


async def test_a_cancelled_send_was_not_sent_and_the_others_keep_their_order(world, world_clock):
    """The stop is what tells the child to begin to read: no message could, behind those that it does not read."""
    world.entry("""
    async def run(process):
        told = trio.Event()
        process.on_stop(lambda notice: told.set())
        process.ready()
        await told.wait()
        count = 0
        async for payload in process.messages():
            if payload == "end":
                return count
            if isinstance(payload, list):
                await process.send(payload[0])
            count += 1
    """)
    async with world.worker(limits=spindle.Limits(outbox_bytes=20_000)) as worker:
        handle = await worker.backend_processes.spawn("entry.py", heartbeat_timeout=100)
        taken = await fill(handle)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
            taken += await fill(handle)
        sent = []

        async def send(number, scope):
            with scope:
                await handle.send([number, "x" * 1_000])
                sent.append(number)

        scopes = [trio.CancelScope() for _ in range(6)]
        async with trio.open_nursery() as stopping:
            async with trio.open_nursery() as sending:
                for number, scope in enumerate(scopes):
                    sending.start_soon(send, number, scope)
                    # One after the other: the scheduler may start tasks in any order.
                    for _ in range(3):
                        await trio.lowlevel.checkpoint()
                assert sent == []
                scopes[1].cancel()
                scopes[4].cancel()
                stopping.start_soon(handle.stop)
            assert sent == [0, 2, 3, 5]
            await handle.send("end")
        info = handle.info
        assert (info.state, info.error, handle.result) == ("completed", None, taken + 4)
    assert world.payloads() == [0, 2, 3, 5]


async def test_a_message_longer_than_the_outbox_can_be_sent(world, world_clock):
    """One frame may wait whatever its length, or such a message could never leave."""
    world.entry(ECHO)
    async with world.worker(limits=spindle.Limits(outbox_bytes=100)) as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        channel = handle.messages()
        long = "x" * 500_000
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(handle.send, long)
            for _ in range(3):
                assert await channel.receive() == long


async def test_send_is_a_checkpoint_and_send_nowait_is_none(world, world_clock):
    world.entry(ECHO)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        with trio.testing.assert_checkpoints():
            await handle.send(1)
        with trio.testing.assert_checkpoints():
            await worker.backend_processes.send(handle.process_id, 2)
        with trio.testing.assert_no_checkpoints():
            handle.send_nowait(3)
        with trio.CancelScope() as scope:
            scope.cancel()
            await handle.send("never sent")
        assert scope.cancelled_caught
        channel = handle.messages()
        await handle.send(4)
        while await channel.receive() != 4:
            pass
    assert world.payloads() == [1, 2, 3, 4]


# The block that is a process's life.


async def test_leaving_the_block_ends_the_process_and_waits_for_it(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        async with worker.backend_processes.open("entry.py", kind="k", key="q", payload=1) as handle:
            assert (handle.state, handle.kind, handle.key) == ("running", "k", "q")
        assert (handle.state, handle.info.exit_reason) == ("stopped", "stopped")
        assert await worker.backend_processes.list() == []
    assert world.states() == ["starting", "running", "stopping", "stopped"]


@pytest.mark.parametrize("group", [False, True])
async def test_an_error_of_the_block_leaves_bare_once_the_process_is_gone(world, world_clock, group):
    """Not wrapped in a group, and a group that the block made is left as it is."""
    world.entry(ENDS_WHEN_TOLD)
    error = ExceptionGroup("made by the caller", [KeyError("k")]) if group else LookupError("of the block")
    async with world.worker(grace_period=0.3) as worker:
        with pytest.raises(type(error)) as caught:
            async with worker.backend_processes.open("entry.py") as handle:
                raise error
        assert caught.value is error
        assert caught.value.__context__ is None
        # It has ignored the stop: the grace period was waited for, and then it was killed.
        assert (handle.state, handle.info.exit_reason) == ("stopped", "stopped")


async def test_cancelling_the_block_ends_the_process_first(world, world_clock):
    """Shielded for the grace period and no longer, whatever the process does."""
    world.entry(IGNORES_STOP)
    async with world.worker(grace_period=0.4) as worker:
        with trio.CancelScope() as scope:
            async with worker.backend_processes.open("entry.py") as handle:
                since = trio.current_time()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        world.assert_took(since, 0.4)
        assert handle.state == "stopped"
        assert "0.4 s" in (handle.info.error or "")


async def test_cancelling_the_entering_of_the_block_leaves_no_process(world, world_clock):
    world.entry(NEVER_READY)
    async with world.worker() as worker:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def live():
                async with worker.backend_processes.open("entry.py", key="k"):
                    raise AssertionError("the process was never ready")

            await wait_until(worker, lambda: world.events)
            nursery.cancel_scope.cancel()
        assert world.states() == ["starting", "stopped"]
        assert await worker.backend_processes.list() == []


async def test_a_process_that_ends_by_itself_does_not_disturb_its_block(world, world_clock):
    """A child's crash never raises in the host: after ready it is a lifecycle event."""
    world.entry("""
    async def run(process):
        process.ready()
        raise ValueError("crashed")
    """)
    async with world.worker() as worker:
        async with worker.backend_processes.open("entry.py") as handle:
            await handle.wait_ended()
            assert handle.state == "failed"
        assert handle.info.error is not None
        assert "ValueError: crashed" in handle.info.error


async def test_entering_the_block_raises_what_a_spawn_raises(world, world_clock):
    world.entry("async def run(process): raise ValueError('no')")
    world.entry(WAITS, "waits.py")
    async with world.worker() as worker:
        with pytest.raises(spindle.StartupFailedError, match="ValueError: no"):
            async with worker.backend_processes.open("entry.py"):
                raise AssertionError("the process never became ready")
        async with worker.backend_processes.open("waits.py", key="k"):
            with pytest.raises(spindle.DuplicateKeyError):
                async with worker.backend_processes.open("waits.py", key="k"):
                    raise AssertionError("the key was taken")


async def test_a_block_may_be_left_after_its_worker_has_closed(world, world_clock):
    """The worker ends the process; the block waits for that and has nothing to add."""
    world.entry(ENDS_WHEN_TOLD)
    async with world.host(grace_period=0.3) as host:
        async with (
            trio.open_nursery() as nursery,
            host.open_worker("w", root=world.root, user_id="ada") as worker,
        ):
            opened = trio.Event()
            handles = []

            @nursery.start_soon
            async def live():
                async with worker.backend_processes.open("entry.py") as handle:
                    handles.append(handle)
                    opened.set()
                    await wait_until(worker, lambda: handle.state == "stopping")
                assert handle.state.is_terminal

            await opened.wait()
        assert handles[0].info.exit_reason == "backend_unloaded"


async def test_the_error_of_the_block_of_a_worker_or_host_leaves_bare_too(world, world_clock):
    world.entry(WAITS)
    error = LookupError("of the block")
    with pytest.raises(LookupError) as caught:
        async with world.worker() as worker:
            await worker.backend_processes.spawn("entry.py")
            raise error
    assert caught.value is error
    assert world.states() == ["starting", "running", "stopping", "stopped"]
    assert world.events[-1].exit_reason == "backend_unloaded"
