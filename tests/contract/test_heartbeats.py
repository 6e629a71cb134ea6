"""Which waiting counts as alive, what a heartbeat is worth, and what it is not."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import ExitReason, Limits, ProcessState, StartupTimeoutError
from support.contract import run_to_end, wait_state


async def test_a_heartbeat_before_ready_changes_nothing(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.beat_while_running()
            while True:
                process.heartbeat()
                await trio.sleep(0.01)
    """)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        processes = worker.backend_processes

        async def look() -> None:
            event = await wait_state(worker, None, ProcessState.STARTING)
            await trio.sleep(0.6)
            info = await processes.get(event.process_id)
            assert info.state is ProcessState.STARTING
            assert (info.ready_at, info.last_heartbeat_at) == (None, None)

        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        since = trio.current_time()
        with pytest.raises(StartupTimeoutError):
            await processes.spawn(entry, startup_timeout=0.8, heartbeat_timeout=0.1)
        world.assert_took(since, 0.8)
    assert world.states() == ["starting", "timed_out"]


async def test_ready_is_the_first_heartbeat_and_a_heartbeat_moves_it_without_an_event(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            messages = process.messages()
            await messages.receive()
            process.heartbeat()
            await process.send("beaten")
            await messages.receive()
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert handle.info.last_heartbeat_at == handle.info.ready_at
        if world.is_virtual:
            await trio.sleep(3)
        messages = handle.messages()  # before the answer can come: what comes while only handlers listen is read
        await handle.send("beat")
        await messages.receive()
        moved = (handle.info.last_heartbeat_at - handle.info.ready_at).total_seconds()
        assert moved == 3 if world.is_virtual else moved > 0
        await handle.send("end")
        await handle.wait_ended()
    assert world.states() == ["starting", "running", "completed"]


async def test_an_async_entry_that_waits_for_messages_must_beat(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            await process.messages().receive()
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.3)
        since = trio.current_time()
        info = await handle.wait_ended()
        world.assert_took(since, 0.3)
    assert info.exit_reason is ExitReason.TIMED_OUT


@pytest.mark.parametrize("where", ["before ready", "after ready"])
async def test_beat_while_running_is_a_plain_call_after_which_the_runtime_beats_until_the_end(
    world, world_clock: MockClock | None, where: str
) -> None:
    entry = world.entry(f"""
        async def run(process):
            if {where == "before ready"}:
                assert process.beat_while_running() is None
            process.ready()
            if {where == "after ready"}:
                assert process.beat_while_running() is None
            process.beat_while_running()
            return await process.messages().receive()
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.2)
        await trio.sleep(100 if world.is_virtual else 0.5)
        assert handle.state is ProcessState.RUNNING
        await handle.send("go")
        await handle.wait_ended()
    assert handle.result == "go"


async def test_calling_heartbeat_in_time_keeps_it_alive(world, world_clock: MockClock | None) -> None:
    """At half of the timeout, which the context tells."""
    entry = world.entry("""
        async def run(process):
            process.ready()
            for _ in range(6):
                await trio.sleep(process.heartbeat_timeout / 2)
                process.heartbeat()
            return process.heartbeat_timeout
    """)
    assert (await run_to_end(world, entry, heartbeat_timeout=0.25)).result == 0.25


async def test_beat_while_running_says_no_more_than_that_the_loop_is_alive(real_world) -> None:
    """Real processes only: in memory an entry that blocks the loop blocks its host."""
    entry = real_world.entry("""
        async def run(process):
            process.ready()
            process.beat_while_running()
            await trio.lowlevel.checkpoint()
            signal.pause()
    """)
    info = (await run_to_end(real_world, entry, heartbeat_timeout=0.3)).info
    assert info.exit_reason is ExitReason.TIMED_OUT


async def test_waiting_in_receive_or_sleep_counts_as_alive_in_a_blocking_entry(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            eval(f"process.{process.payload}")
    """)
    async with real_world.worker() as worker:
        handles = [
            await worker.backend_processes.spawn(entry, payload=call, heartbeat_timeout=0.15)
            for call in ("receive()", "receive(timeout=3600)", "sleep(3600)")
        ]
        await trio.sleep(0.5)
        for handle in handles:
            assert handle.state is ProcessState.RUNNING
            since_beat = handle.info.last_heartbeat_at - handle.info.ready_at
            assert since_beat.total_seconds() > 0.3


async def test_a_waiting_send_counts_as_alive(world, world_clock: MockClock | None) -> None:
    """The host pauses reading; that is not the child's fault (rule 8)."""
    entry = world.entry("""
        async def run(process):
            process.ready()
            while True:
                await process.send("x" * 100_000)
    """)
    async with world.quiet_worker(limits=Limits(inbox_messages=1)) as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.2)
        async with handle.messages():
            await trio.sleep(100 if world.is_virtual else 0.6)
            assert handle.state is ProcessState.RUNNING


async def test_a_waiting_send_counts_as_alive_in_a_blocking_entry(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            while True:
                process.send("x" * 100_000)
    """)
    async with real_world.quiet_worker(limits=Limits(inbox_messages=1)) as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.15)
        async with handle.messages():
            await trio.sleep(0.5)
            assert handle.state is ProcessState.RUNNING


async def test_a_blocking_entry_that_computes_without_a_heartbeat_is_killed(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            while True:
                pass
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.3)
        since = trio.current_time()
        info = await handle.wait_ended()
        real_world.assert_took(since, 0.3)
    assert info.exit_reason is ExitReason.TIMED_OUT


async def test_a_blocking_entry_that_computes_and_beats_lives_on(real_world) -> None:
    entry = real_world.blocking_entry("""
        import time

        def run(process):
            process.ready()
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                process.heartbeat()
            return process.heartbeat_timeout
    """)
    assert (await run_to_end(real_world, entry, heartbeat_timeout=0.2)).result == 0.2


async def test_an_idle_blocking_entry_that_lives_on_through_a_handler_beats(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.on_message(process.complete)
            process.ready()
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.15)
        await trio.sleep(0.4)
        await handle.send("still there")
        await handle.wait_ended()
    assert handle.result == "still there"


async def test_a_process_cannot_beat_into_the_future(real_world) -> None:
    """Real processes only: in memory there is no page to write to. Neither the watchdog nor the info believes it."""
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            process._words[0] = 1e12
            process.send("lied")
            while True:
                pass
    """)
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.3)
        assert await handle.messages().receive() == "lied"
        info = await handle.refresh()
        assert (info.last_heartbeat_at - info.ready_at).total_seconds() < 0.3 + 1
        since = trio.current_time()
        ended = await handle.wait_ended()
        real_world.assert_took(since, 0.3)
    assert ended.exit_reason is ExitReason.TIMED_OUT


BEATS = 10_000

BEATEN_BY_THE_ENTRY = """
def run(process):
    process.ready()
    for _ in range(process.receive()):
        process.heartbeat()
    process.send("beaten")
    process.receive()
"""
BEATEN_BY_AN_ASYNC_ENTRY = """
async def run(process):
    process.ready()
    messages = process.messages()
    for _ in range(await messages.receive()):
        process.heartbeat()
    await process.send("beaten")
    await messages.receive()
"""


class StepCounter(trio.abc.Instrument):
    """Counts how often any task of this program was woken."""

    def __init__(self) -> None:
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1


@pytest.mark.parametrize("source", [BEATEN_BY_THE_ENTRY, BEATEN_BY_AN_ASYNC_ENTRY], ids=["blocking", "async"])
async def test_no_heartbeat_wakes_the_host(real_world, source: str) -> None:
    entry = real_world.blocking_entry(source)
    counter = StepCounter()
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        async with handle.messages() as messages:
            trio.lowlevel.add_instrument(counter)
            await handle.send(BEATS)
            assert await messages.receive() == "beaten"
            trio.lowlevel.remove_instrument(counter)
        assert handle.info.last_heartbeat_at > handle.info.ready_at
    # The sending, the answer and what reads it; spares that are forked meanwhile.
    assert counter.steps < BEATS / 100


@pytest.mark.slow
async def test_no_beat_of_the_runtime_wakes_the_host(real_world) -> None:
    """The process is made to beat a thousand times a second, while its host looks at it once in 5 s."""
    entry = real_world.blocking_entry("""
        import trio

        async def run(process):
            process._controls.facts.heartbeat_timeout = 0.003
            process.ready()
            messages = process.messages()
            await messages.receive()
            process.beat_while_running()
            runtime, beats = process._controls, 0
            beat = runtime._beat

            def count():
                nonlocal beats
                beats += 1
                beat()

            runtime._beat = count
            while beats < 300:
                await trio.sleep(0.01)
            await process.send("beaten")
            await messages.receive()
    """)
    counter = StepCounter()
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=5)
        async with handle.messages() as messages:
            trio.lowlevel.add_instrument(counter)
            await handle.send("begin")
            assert await messages.receive() == "beaten"
            trio.lowlevel.remove_instrument(counter)
        assert handle.info.last_heartbeat_at > handle.info.ready_at
    assert counter.steps < 100


async def test_the_context_tells_the_watchdogs_timeout(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            return [process.heartbeat_timeout == math.inf, str(process.heartbeat_timeout)]
    """)
    async with world.worker() as worker:
        handles = [
            await worker.backend_processes.spawn(entry, **options)
            for options in ({"heartbeat_timeout": math.inf}, {"heartbeat_timeout": 0.75}, {})
        ]
        for handle in handles:
            await handle.wait_ended()
    assert [handle.result for handle in handles] == [[True, "inf"], [False, "0.75"], [False, "15.0"]]


async def test_a_blocking_context_tells_the_watchdogs_timeout(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            return str(process.heartbeat_timeout)
    """)
    async with real_world.worker() as worker:
        handles = [
            await worker.backend_processes.spawn(entry, heartbeat_timeout=seconds) for seconds in (math.inf, 0.75)
        ]
        for handle in handles:
            await handle.wait_ended()
    assert [handle.result for handle in handles] == ["inf", "0.75"]


async def test_without_a_watchdog_nobody_needs_to_beat(world, world_clock: MockClock | None) -> None:
    """No longer wait is needed on real processes: a timeout of 0, as infinity travels, would kill at once."""
    entry = world.entry("""
        async def run(process):
            process.ready()
            await process.messages().receive()
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=math.inf)
        await trio.sleep(200 if world.is_virtual else 0.2)
        assert handle.state is ProcessState.RUNNING
