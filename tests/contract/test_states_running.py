"""The rows of the contract's state table that begin in `running`."""

from __future__ import annotations

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


@pytest.mark.slow
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
