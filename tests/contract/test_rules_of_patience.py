"""Rules 7, 8 and 9 of the contract: a host that is late or does not read, and a child that waits, are no hangs."""

from __future__ import annotations

import select

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import Limits, ProcessState
from spindle_trio.testing import MemoryLauncher, ScriptedChild


def stall(seconds: float) -> None:
    """Hold up this whole program: nothing is read, no deadline looked at, no task run."""
    select.select([], [], [], seconds)


BEATS = """
    async def run(process):
        process.beat_while_running()
        process.ready()
        await process.wait_stop()
"""

BEATS_BLOCKING = """
    def run(process):
        process.ready()
        while not process.stop_requested:
            process.sleep(0.05)
"""


# Rule 7: the host being late is not the child being late.


@pytest.mark.slow
@pytest.mark.parametrize("source", [BEATS, BEATS_BLOCKING], ids=["async", "blocking"])
async def test_a_host_that_stalls_for_five_heartbeat_timeouts_kills_nobody(real_world, source: str) -> None:
    """On real processes, which go on while the host stands still; the next test is the one in memory."""
    entry = real_world.entry(source)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.2)
        stall(1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert handle.state is ProcessState.RUNNING
        await handle.stop()
        assert handle.info.state in {ProcessState.COMPLETED, ProcessState.STOPPED}


async def test_a_jump_over_five_heartbeat_timeouts_kills_nobody(virtual_world, autojump_clock: MockClock) -> None:
    """In memory, where child and host stand still together: what is due for both comes first from the child."""
    entry = virtual_world.entry(BEATS)
    async with virtual_world.worker() as worker:
        for _ in range(15):  # the first jump comes in the very tick in which it has become ready
            handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=1.5)
            for _ in range(2):
                autojump_clock.jump(7.5)
                await trio.testing.wait_all_tasks_blocked()
                assert handle.state is ProcessState.RUNNING
            await handle.stop()


@pytest.mark.slow
async def test_a_hang_is_still_seen_after_a_stall(real_world) -> None:
    """The other side of the rule: a process that did not beat while the host stood still is late."""
    entry = real_world.entry("""
        async def run(process):
            process.ready()
            await trio.sleep_forever()
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.2)
        stall(0.5)
        with trio.fail_after(0.5):
            assert (await handle.wait_ended()).state is ProcessState.TIMED_OUT


@pytest.mark.slow
async def test_a_host_that_stalls_past_the_startup_deadline_takes_in_ready_first(real_world) -> None:
    """The stall begins once the child says that it has begun; it is ready long before the deadline.

    On real processes, once. What the scheduler runs first after the stall is chance: the next test tries it often.
    """
    entry = real_world.blocking_entry("""
        def run(process):
            process.send("begun")
            process.sleep(0.1)
            process.ready()
            process.sleep(60)
    """)
    async with real_world.worker() as worker:
        worker.backend_processes.on_message(lambda message: stall(1.1))
        handle = await worker.backend_processes.spawn(entry, startup_timeout=1)
        assert handle.state is ProcessState.RUNNING
        assert real_world.states() == ["starting", "running"]


async def test_a_jump_past_the_startup_deadline_takes_in_ready_first(virtual_world, autojump_clock: MockClock) -> None:
    entry = virtual_world.entry("""
        async def run(process):
            await process.send("begun")
            await trio.sleep(1)
            process.ready()
            await trio.sleep_forever()
    """)
    async with virtual_world.worker() as worker:
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                pending = virtual_world.spawn_soon(nursery, worker, entry, startup_timeout=1.5)
                await trio.testing.wait_all_tasks_blocked()
                autojump_clock.jump(7.5)
            assert pending.error is None


async def test_a_stall_before_the_launch_is_not_the_childs(world, world_clock: MockClock | None) -> None:
    """`starting` has been announced, and the host stands still before it has launched anything."""
    entry = world.entry("""
        async def run(process):
            process.ready()
            await trio.sleep_forever()
    """)
    async with world.worker() as worker:

        def heard(event) -> None:
            if event.state == "starting":
                if world.is_virtual:
                    world_clock.jump(75)
                else:
                    stall(1.1)

        worker.backend_processes.on_lifecycle(heard)
        handle = await worker.backend_processes.spawn(entry, startup_timeout=world.seconds(15, real=1))
        assert handle.state is ProcessState.RUNNING


@pytest.mark.slow
async def test_a_stall_during_the_launch_is_not_the_childs(real_world) -> None:
    """On real processes: it begins while the process is being made, so that its first frame is late as well."""
    entry = real_world.blocking_entry(BEATS_BLOCKING)
    async with real_world.worker() as worker, trio.open_nursery() as nursery:
        pending = real_world.spawn_soon(nursery, worker, entry, startup_timeout=1)
        await real_world.wait_state("starting")
        while not real_world.system_state()[1]:
            await trio.lowlevel.checkpoint()
        stall(1.1)
        await pending.is_over.wait()
        assert pending.error is None
        await pending.handle.stop()


@pytest.mark.slow
async def test_a_stall_longer_than_the_grace_period_takes_in_the_last_word_first(real_world) -> None:
    entry = real_world.entry("""
        async def run(process):
            process.on_stop(lambda notice: process.complete("in time"))
            process.ready()
            await trio.sleep_forever()
    """)
    async with real_world.worker(grace_period=0.2) as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn(entry)
        nursery.start_soon(handle.stop)
        await real_world.wait_state("stopping")
        stall(0.5)
        await handle.wait_ended()
        assert (handle.state, handle.result, handle.info.error) == (ProcessState.COMPLETED, "in time", None)


@pytest.mark.slow
async def test_half_a_frame_is_not_late_because_the_host_is(real_world) -> None:
    """On real processes: in memory frames are never halved."""
    entry = real_world.entry("""
        import struct
        from time import sleep

        def run(process):
            process.ready()
            frame = b'"whole"'
            frame = struct.pack(">I", len(frame)) + frame
            os.write(process._controls._messages.fd, frame[:6])
            process.receive()
            process.sleep(0.1)
            os.write(process._controls._messages.fd, frame[6:])
            process.sleep(60)
    """)
    async with real_world.worker(limits=Limits(frame_seconds=0.2)) as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send("go on")
        stall(0.5)
        await real_world.wait_payload("whole")
        assert handle.state is ProcessState.RUNNING


# Rule 8: a child is not judged for the host's pauses.


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_a_waiting_send_counts_as_alive(real_world, kind: str) -> None:
    """On real processes for both kinds; the next test does it in memory."""
    entry = real_world.entry(
        """
        async def run(process):
            process.ready()
            for number in range(300):
                await process.send([number, "x" * 2000])
        """
        if kind == "async"
        else """
        def run(process):
            process.ready()
            for number in range(300):
                process.send([number, "x" * 2000])
        """
    )
    async with real_world.quiet_worker(limits=Limits(inbox_messages=5)) as worker:
        channel = worker.backend_processes.messages()
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.2)
        with trio.move_on_after(0.8):
            await handle.wait_ended()
        assert handle.state is ProcessState.RUNNING
        assert [(await channel.receive()).payload[0] for _ in range(300)] == list(range(300))
        assert (await handle.wait_ended()).state is ProcessState.COMPLETED


async def test_a_waiting_send_counts_as_alive_in_memory(virtual_world, autojump_clock: MockClock) -> None:
    entry = virtual_world.entry("""
        async def run(process):
            process.ready()
            for number in range(300):
                await process.send(number)
    """)
    async with virtual_world.quiet_worker(limits=Limits(inbox_messages=5)) as worker:
        channel = worker.backend_processes.messages()
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=15)
        await trio.sleep(200)
        assert handle.state is ProcessState.RUNNING
        assert [(await channel.receive()).payload for _ in range(300)] == list(range(300))
        assert (await handle.wait_ended()).state is ProcessState.COMPLETED


FLOODS_BEFORE_READY = """
    async def run(process):
        for number in range(300):
            await process.send([number, "x" * 2000])
        await trio.sleep(0.1)
        process.ready()
        await trio.sleep_forever()
"""


async def test_time_in_which_the_host_does_not_read_is_off_the_startup_deadline(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(FLOODS_BEFORE_READY)
    async with world.quiet_worker(limits=Limits(inbox_messages=5)) as worker, trio.open_nursery() as nursery:
        channel = worker.backend_processes.messages()
        pending = world.spawn_soon(nursery, worker, entry, startup_timeout=1.2)
        with trio.move_on_after(2):
            await pending.is_over.wait()
        assert world.states() == ["starting"]
        for _ in range(300):
            await channel.receive()
        await pending.is_over.wait()
        assert pending.error is None
        assert world.states() == ["starting", "running"]


async def test_only_the_pause_is_off_the_startup_deadline(virtual_world, autojump_clock: MockClock) -> None:
    """In virtual time, exact to the second: 15 s of its own, and 100 s in which nobody read."""
    entry = virtual_world.entry("""
        async def run(process):
            await trio.sleep(5)
            for number in range(300):
                await process.send(number)
            await trio.sleep_forever()
    """)
    async with virtual_world.quiet_worker(limits=Limits(inbox_messages=5)) as worker, trio.open_nursery() as nursery:
        channel = worker.backend_processes.messages()
        pending = virtual_world.spawn_soon(nursery, worker, entry, startup_timeout=15)
        await trio.sleep(105)
        for _ in range(300):
            await channel.receive()
        await pending.is_over.wait()
        assert trio.current_time() == 115
        assert virtual_world.reasons() == [("timed_out", "timed_out")]


@pytest.mark.slow
async def test_a_stalled_host_that_did_not_read_does_not_count_against_the_startup_deadline(real_world) -> None:
    """The child's pipe is full while the whole host stands still, so that it cannot come to its `ready`."""
    entry = real_world.blocking_entry("""
        def run(process):
            process.send("begun")
            for number in range(300):
                process.send([number, "x" * 10_000])
            process.ready()
            process.sleep(60)
    """)
    async with real_world.worker() as worker:
        worker.backend_processes.on_message(lambda message: stall(1.3) if message.payload == "begun" else None)
        handle = await worker.backend_processes.spawn(entry, startup_timeout=1)
        assert handle.state is ProcessState.RUNNING
        while len(real_world.messages) < 301:
            await real_world.wait_change()


# Rule 9: stop, ready, complete and fail never wait behind messages.


FILL_ITS_PIPE = """
            try:
                while True:
                    process.send_nowait("x" * 10_000)
            except trio.WouldBlock:
                pass
"""


async def test_a_stop_reaches_a_child_whose_pipes_are_full_both_ways(world, world_clock: MockClock | None) -> None:
    entry = world.entry(f"""
        async def run(process):
            process.on_stop(lambda notice: process.complete(["told", notice.reason]))
            process.ready()
            {FILL_ITS_PIPE.strip()}
            await trio.sleep_forever()
    """)
    async with world.quiet_worker(limits=Limits(inbox_messages=5)) as worker:
        channel = worker.backend_processes.messages()
        handle = await worker.backend_processes.spawn(entry)
        with pytest.raises(trio.WouldBlock):
            while True:
                handle.send_nowait("x" * 10_000)
        while handle.statistics().inbox_messages < 5:
            await trio.sleep(0.01)  # until the host reads no more; nothing tells of that
        await handle.stop("enough")
        assert (handle.state, handle.result) == (ProcessState.COMPLETED, ["told", "enough"])
        channel.close()


async def test_a_stop_reaches_a_blocking_child_whose_pipes_are_full_both_ways(real_world) -> None:
    """Its handler runs inside the `send` that waits. On real processes: only they run such entries."""
    entry = real_world.entry("""
        def run(process):
            process.on_stop(lambda notice: process.complete(["told", notice.reason]))
            process.ready()
            while True:
                process.send("x" * 10_000)
    """)
    async with real_world.quiet_worker(limits=Limits(inbox_messages=5)) as worker:
        channel = worker.backend_processes.messages()
        handle = await worker.backend_processes.spawn(entry)
        with pytest.raises(trio.WouldBlock):
            while True:
                handle.send_nowait("x" * 10_000)
        while handle.statistics().inbox_messages < 5:
            await trio.sleep(0.01)
        await handle.stop("enough")
        assert (handle.state, handle.result) == (ProcessState.COMPLETED, ["told", "enough"])
        channel.close()


async def test_ready_and_the_last_word_do_not_wait_behind_messages(world, world_clock: MockClock | None) -> None:
    """Nobody reads the messages that are in front of them."""
    entries = [
        world.entry(
            f"""
        async def run(process):
            {FILL_ITS_PIPE.strip()}
            process.ready()
            await process.wait_stop()
            {statement}
            await trio.sleep_forever()
            """,
            f"entry{number}.py",
        )
        for number, statement in enumerate(["process.complete(5)", "process.fail('no disk')"])
    ]
    async with world.quiet_worker(limits=Limits(inbox_messages=5)) as worker:
        channel = worker.backend_processes.messages()
        for entry, state in zip(entries, ["completed", "failed"], strict=True):
            handle = await worker.backend_processes.spawn(entry)
            assert handle.statistics().inbox_messages <= 64
            await handle.stop()
            assert handle.state == state
        channel.close()


async def test_ready_does_not_wait_although_nothing_was_ever_read(virtual_world, autojump_clock: MockClock) -> None:
    """In memory, by hand: the messages lane is full before `ready`, and the host has paused it."""
    child = ScriptedChild()
    async with (
        virtual_world.quiet_worker(
            launcher=MemoryLauncher({"child": child}), limits=Limits(inbox_messages=5)
        ) as worker,
        trio.open_nursery() as nursery,
    ):
        channel = worker.backend_processes.messages()
        pending = virtual_world.spawn_soon(nursery, worker, "child")
        await child.started()
        with trio.move_on_after(1):
            await child.send_all(range(100))
        child.ready()
        await pending.is_over.wait()
        assert pending.handle.state is ProcessState.RUNNING
        assert pending.handle.statistics().inbox_messages == 5
        channel.close()
        child.exit()
