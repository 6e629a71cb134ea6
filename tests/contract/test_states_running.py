"""The rows of the contract's state table that begin in `running`."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import ProcessState
from spindle_trio.testing import MemoryLauncher, ScriptedChild

BEATS_WHEN_TOLD = """
    async def run(process):
        process.ready()
        async for message in process.messages():
            process.heartbeat()
            await process.send("has beaten")
"""

WEDGED = """
    async def run(process):
        process.ready()
        await trio.sleep_forever()
"""


async def test_a_heartbeat_moves_the_time_and_is_no_event(world, world_clock: MockClock | None) -> None:
    entry = world.entry(BEATS_WHEN_TOLD)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        before = handle.info
        await trio.sleep(world.seconds(10, real=0.01))
        await handle.send(None)
        await world.wait_payload("has beaten")
        after = handle.info
        assert after.ready_at == before.ready_at == before.last_heartbeat_at
        if world.is_virtual:
            assert (after.last_heartbeat_at - after.ready_at).total_seconds() == 10
        assert after.last_heartbeat_at > after.ready_at
        assert after.state is ProcessState.RUNNING
        assert world.states() == ["starting", "running"]


async def test_without_a_heartbeat_it_is_killed_at_the_timeout(world, world_clock: MockClock | None) -> None:
    entry = world.entry(WEDGED)
    timeout = world.seconds(15, real=0.3)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=timeout)
        before = trio.current_time()
        info = await handle.wait_ended()
        world.assert_took(before, timeout)
        assert (info.state, info.exit_reason) == ("timed_out", "timed_out")
        assert info.error == f"no heartbeat for {timeout:g} s"
        assert world.states() == ["starting", "running", "timed_out"]


async def test_the_timeout_counts_from_the_last_heartbeat(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            for _ in range(2):
                await trio.sleep(0.25)
                process.heartbeat()
            await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.4)
        before = trio.current_time()
        assert (await handle.wait_ended()).state is ProcessState.TIMED_OUT
        world.assert_took(before, 0.9)
        assert handle.info.last_heartbeat_at > handle.info.ready_at


async def test_what_it_says_after_the_kill_changes_nothing(virtual_world, autojump_clock: MockClock) -> None:
    """In memory, with a child that withstands its kill for a while: a real one says nothing once SIGKILL is sent."""
    child = ScriptedChild()
    child.resist_kill()
    async with (
        virtual_world.worker(launcher=MemoryLauncher({"child": child})) as worker,
        trio.open_nursery() as nursery,
    ):
        pending = virtual_world.spawn_soon(nursery, worker, "child", heartbeat_timeout=15)
        await child.started()
        child.ready()
        await child.kill_requested()
        child.heartbeat()
        child.complete("too late")
        child.fail("too late")
        child.send_raw_control(b"nonsense")
        await trio.sleep(0.5)
        assert virtual_world.states() == ["starting", "running"]
        child.die()
        assert pending.handle is not None
        info = await pending.handle.wait_ended()
        assert (info.state, info.exit_reason) == ("timed_out", "timed_out")
        assert info.error == "no heartbeat for 15 s"
        assert pending.handle.result is None


async def test_without_a_watchdog_silence_is_allowed(world, world_clock: MockClock | None) -> None:
    entry = world.entry(BEATS_WHEN_TOLD)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=math.inf)
        await trio.sleep(world.seconds(200, real=0.1))
        await handle.send(None)
        await world.wait_payload("has beaten")
        assert handle.state is ProcessState.RUNNING


@pytest.mark.parametrize("statement", ["process.complete({'n': 1})", "return {'n': 1}"])
async def test_complete_leaves_the_result_on_the_handle(world, world_clock: MockClock | None, statement: str) -> None:
    entry = world.entry(f"""
        async def run(process):
            process.ready()
            try:
                {statement}
                await trio.sleep_forever()
            finally:
                process.send_nowait("cleaned up")
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert handle.result is None
        info = await handle.wait_ended()
        assert (info.state, info.exit_reason, info.error) == ("completed", "completed", None)
        assert handle.result == {"n": 1}
        assert world.events[-1].result == {"n": 1}
        assert world.payloads() == ["cleaned up"]
        assert world.states() == ["starting", "running", "completed"]


@pytest.mark.parametrize(
    ("statement", "error"), [("process.fail('no disk')", "no disk"), ("raise OSError('no disk')", "OSError: no disk")]
)
async def test_fail_leaves_the_error_on_the_info(
    world, world_clock: MockClock | None, statement: str, error: str
) -> None:
    entry = world.entry(f"""
        async def run(process):
            process.ready()
            {statement}
            await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        info = await handle.wait_ended()
        assert (info.state, info.exit_reason) == ("failed", "failed")
        assert info.error.partition(" (Traceback: ")[0] == error
        assert "\n" not in info.error
        assert ("Traceback" in info.error) == ("raise" in statement)
        assert world.states() == ["starting", "running", "failed"]


async def test_an_exit_with_a_code_is_a_failure_that_shows_the_last_of_stderr(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            process._controls._report("the disk is on fire")
            sys.exit(3)
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        info = await handle.wait_ended()
        assert (info.state, info.exit_reason) == ("failed", "failed")
        assert info.error.startswith("exited with code 3 without complete() or fail()")
        assert info.error.endswith("the disk is on fire")


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("os._exit(0)", "exited with code 0"),
        ("os._exit(7)", "exited with code 7"),
        ("os.abort()", "killed by SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
    ],
)
async def test_an_end_without_a_word_is_a_failure_that_names_it(real_world, statement: str, text: str) -> None:
    """On real processes; in memory the same is played by hand, below. Exit code 0 makes no difference."""
    entry = real_world.entry(f"""
        async def run(process):
            print("the disk is on fire", file=sys.stderr)
            process.ready()
            {statement}
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        info = await handle.wait_ended()
        assert (info.state, info.exit_reason) == ("failed", "failed")
        assert info.error.startswith(f"{text} without complete() or fail()")
        assert "the disk is on fire" in info.error
        assert real_world.states() == ["starting", "running", "failed"]


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (lambda child: child.exit(0), "exited with code 0"),
        (lambda child: child.kill_by(11), "killed by SIGSEGV"),
        (lambda child: child.vanish(), "an unknown status"),
    ],
)
async def test_an_end_without_a_word_is_a_failure_in_memory_too(
    virtual_world, autojump_clock: MockClock, end, text: str
) -> None:
    """In memory, by hand: an entry that is a coroutine cannot end without a word."""
    child = ScriptedChild()
    async with (
        virtual_world.worker(launcher=MemoryLauncher({"child": child})) as worker,
        trio.open_nursery() as nursery,
    ):
        pending = virtual_world.spawn_soon(nursery, worker, "child")
        await child.started()
        child.ready()
        child.write_stderr("the disk is on fire")
        end(child)
        await pending.is_over.wait()
        info = await pending.handle.wait_ended()
        assert (info.state, info.exit_reason) == ("failed", "failed")
        assert text in info.error
        assert "the disk is on fire" in info.error
        assert virtual_world.states() == ["starting", "running", "failed"]


TELLS_WHY_IT_IS_TO_STOP = """
    async def run(process):
        asked = trio.Event()
        notices = []
        process.on_stop(lambda notice: (notices.append(notice.reason), asked.set()))
        process.ready()
        await asked.wait()
        await trio.sleep(0.3)
        await process.send(notices)
        await trio.sleep_forever()
"""


async def test_a_stop_gives_the_reason_ends_the_watchdog_and_starts_the_grace_period(
    world, world_clock: MockClock | None
) -> None:
    """The child is silent for longer than the heartbeat timeout while it stops: a slow clean stop is not a hang."""
    entry = world.entry(TELLS_WHY_IT_IS_TO_STOP)
    async with world.worker(grace_period=0.5) as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.2)
        asked_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.stop, "enough")
            await world.wait_state("stopping")
            assert handle.state is ProcessState.STOPPING
            await world.wait_payload(["enough"])
        world.assert_took(asked_at, 0.5)
        assert world.reasons() == [("stopped", "stopped")]
        assert world.states() == ["starting", "running", "stopping", "stopped"]


async def test_a_stop_without_a_reason_gives_none(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.on_stop(lambda notice: process.complete([notice.reason]))
            process.ready()
            await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
        assert handle.result == [None]


async def test_a_replacement_tells_the_child_so(world, world_clock: MockClock | None) -> None:
    entry, other = world.entry(TELLS_WHY_IT_IS_TO_STOP), world.entry(WEDGED, "other.py")
    async with world.worker(grace_period=0.4) as worker:
        processes = worker.backend_processes
        old = await processes.spawn(entry, kind="k", key="one", heartbeat_timeout=0.2)
        asked_at = trio.current_time()
        await processes.spawn(other, kind="k", key="one", replace_existing=True)
        world.assert_took(asked_at, 0.4)
        assert world.payloads() == [["replaced"]]
        assert world.states(old.process_id) == ["starting", "running", "stopping", "stopped"]
        assert world.reasons(old.process_id) == [("stopped", "replaced")]


async def test_an_unload_tells_the_child_so(world, world_clock: MockClock | None) -> None:
    entry = world.entry(TELLS_WHY_IT_IS_TO_STOP)
    async with world.worker(grace_period=0.4) as worker:
        await worker.backend_processes.spawn(entry, heartbeat_timeout=0.2)
        left_at = trio.current_time()
    world.assert_took(left_at, 0.4)
    assert world.payloads() == [["backend_unloaded"]]
    assert world.states() == ["starting", "running", "stopping", "stopped"]
    assert world.reasons() == [("stopped", "backend_unloaded")]
