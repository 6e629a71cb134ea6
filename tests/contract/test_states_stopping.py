"""The rows of the contract's state table that begin in `stopping`."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import ProcessHandle, ProcessState
from spindle_trio.testing import ScriptedChild
from support.state import scripted, told_then

WEDGED = """
    async def run(process):
        process.ready()
        await trio.sleep_forever()
"""

STUBBORN = """
    async def run(process):
        process.on_stop(lambda notice: process.send_nowait("was told"))
        process.ready()
        await trio.sleep_forever()
"""


# the child's own word


async def test_the_childs_own_word_wins_over_a_plain_stop(world, world_clock: MockClock | None) -> None:
    cases = {
        "process.complete({'n': 1})": ("completed", {"n": 1}, ""),
        "return {'n': 1}": ("completed", {"n": 1}, ""),
        "process.fail('no disk')": ("failed", None, "no disk"),
        "raise OSError('no disk')": ("failed", None, "OSError: no disk"),
        "sys.exit(7)": ("stopped", None, ""),
    }
    entries = {
        statement: world.entry(told_then(statement), f"entry{number}.py") for number, statement in enumerate(cases)
    }
    async with world.worker() as worker:

        async def stop_one(statement: str) -> None:
            handle = await worker.backend_processes.spawn(entries[statement])
            await handle.stop("enough")
            state, result, error = cases[statement]
            assert (handle.info.state, handle.info.exit_reason, handle.result) == (state, state, result)
            assert (handle.info.error or "").partition(" (Traceback: ")[0] == error
            assert (handle.post_mortem is None) == (state != "failed")
            assert world.states(handle.process_id) == ["starting", "running", "stopping", state]
            assert [event.result for event in world.events if event.process_id == handle.process_id][-1] == result

        async with trio.open_nursery() as nursery:
            for statement in cases:
                nursery.start_soon(stop_one, statement)


async def test_an_exit_while_stopping_is_stopped(real_world) -> None:
    """On real processes: a coroutine cannot exit without a word. In memory see the scripted child below."""
    entry = real_world.entry(told_then("os._exit(process.payload)"))
    async with real_world.worker() as worker:
        for code in (0, 7):
            handle = await worker.backend_processes.spawn(entry, payload=code)
            await handle.stop()
            assert (handle.info.state, handle.info.exit_reason) == ("stopped", "stopped")


@pytest.mark.parametrize("end", [lambda child: child.exit(7), lambda child: child.say_stopped()])
async def test_an_exit_or_the_runtimes_stopped_is_stopped_in_memory(
    virtual_world, autojump_clock: MockClock, end
) -> None:
    """In memory, by hand. A child that says `stopped` and lives on has the rest of the grace period for that."""
    child = ScriptedChild()
    async with scripted(virtual_world, child, grace_period=5) as handle, trio.open_nursery() as nursery:
        asked_at = trio.current_time()
        nursery.start_soon(handle.stop)
        await child.stop_requested()
        end(child)
        info = await handle.wait_ended()
        assert (info.state, info.exit_reason, info.error) == ("stopped", "stopped", None)
        assert trio.current_time() - asked_at == (5 if child.was_killed else 0)


# the grace period


async def test_after_the_grace_period_it_is_killed_and_the_error_says_so(world, world_clock: MockClock | None) -> None:
    entry = world.entry(STUBBORN)
    grace = world.seconds(5, real=0.4)
    async with world.worker(grace_period=grace) as worker:
        handle = await worker.backend_processes.spawn(entry)
        asked_at = trio.current_time()
        await handle.stop()
        world.assert_took(asked_at, grace)
        assert (handle.info.state, handle.info.exit_reason) == ("stopped", "stopped")
        assert handle.info.error == f"did not end within {grace:g} s of the stop, and was killed"
        assert handle.post_mortem.error == handle.info.error
        assert world.events[-1].error == str(handle.post_mortem)


async def test_two_stops_are_one_stop_with_one_grace_period(world, world_clock: MockClock | None) -> None:
    entry = world.entry(STUBBORN)
    async with world.worker(grace_period=0.6) as worker:
        handle = await worker.backend_processes.spawn(entry)
        asked_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.stop, "first")
            await world.wait_payload("was told")
            await trio.sleep(0.3)
            await handle.stop("second")
            world.assert_took(asked_at, 0.6)
        assert world.payloads() == ["was told"]
        assert world.states() == ["starting", "running", "stopping", "stopped"]


async def test_a_host_sends_one_stop_frame_whoever_asks(virtual_world, autojump_clock: MockClock) -> None:
    """In memory: a scripted child counts the frames, which no runtime shows to its entry."""
    child = ScriptedChild()
    async with scripted(virtual_world, child, grace_period=5) as handle, trio.open_nursery() as nursery:
        for reason in ("first", "second"):
            nursery.start_soon(handle.stop, reason)
        assert await child.stop_requested() in {"first", "second"}
        with trio.move_on_after(1):
            await handle.stop("third")
        await trio.testing.wait_all_tasks_blocked()
        assert child.stop_requests == 1


async def test_a_cancelled_stop_withdraws_the_waiting_and_not_the_request(world, world_clock: MockClock | None) -> None:
    entry = world.entry(STUBBORN)
    async with world.worker(grace_period=0.4) as worker:
        handle = await worker.backend_processes.spawn(entry)
        asked_at = trio.current_time()
        with trio.move_on_after(0.1) as scope:
            await handle.stop()
        assert scope.cancelled_caught
        assert handle.state is ProcessState.STOPPING
        await handle.wait_ended()
        world.assert_took(asked_at, 0.4)


async def test_ready_and_heartbeats_while_stopping_change_nothing(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            asked = trio.Event()
            process.on_stop(lambda notice: asked.set())
            await process.send("begun")
            await asked.wait()
            process.ready()
            process.heartbeat()
            await process.send("has said ready")
            await trio.sleep_forever()
    """)
    async with world.worker(grace_period=0.4) as worker, trio.open_nursery() as nursery:
        world.spawn_soon(nursery, worker, entry, heartbeat_timeout=0.1)
        await world.wait_payload("begun")
        asked_at = trio.current_time()
        await worker.backend_processes.stop(world.events[0].process_id)
        world.assert_took(asked_at, 0.4)
        assert "has said ready" in world.payloads()
        assert world.states() == ["starting", "stopping", "stopped"]


# the host's reasons


ANY_END = ["process.complete(1)", "process.fail('no disk')", "sys.exit(7)", ""]
"""The host's reason wins over anything that a child says about its end, and over a kill."""


@pytest.mark.slow
async def test_a_replacement_while_stopping_takes_over_and_does_not_extend_the_grace_period(
    world, world_clock: MockClock | None
) -> None:
    entries = [
        world.entry(told_then(f"await trio.sleep(0.3); {statement}"), f"entry{number}.py")
        for number, statement in enumerate(ANY_END)
    ]
    other = world.entry(WEDGED, "other.py")
    async with world.worker(grace_period=0.6) as worker:
        processes = worker.backend_processes

        async def replace(handle: ProcessHandle) -> None:
            await processes.spawn(other, kind=handle.kind, key="one", replace_existing=True)

        handles = [await processes.spawn(entry, kind=entry, key="one") for entry in entries]
        async with trio.open_nursery() as nursery:
            for handle in handles:
                nursery.start_soon(handle.stop, "enough")
            await world.wait_state("stopping", len(handles))
            await trio.sleep(0.15)
            for handle in handles:
                nursery.start_soon(replace, handle)
        stopping_at = next(event.at for event in world.events if event.state == "stopping")
        for handle, statement in zip(handles, ANY_END, strict=True):
            info = handle.info
            assert (info.state, info.exit_reason, handle.result) == ("stopped", "replaced", None), statement
            assert world.states(handle.process_id) == ["starting", "running", "stopping", "stopped"]
            # Without the start of the replacements, which takes as long as the machine is busy.
            world.assert_was(0.3 if statement else 0.6, (info.ended_at - stopping_at).total_seconds())


@pytest.mark.slow
async def test_an_unload_while_stopping_takes_over_and_does_not_extend_the_grace_period(
    world, world_clock: MockClock | None
) -> None:
    entries = [
        world.entry(told_then(f"await trio.sleep(0.3); {statement}"), f"entry{number}.py")
        for number, statement in enumerate(ANY_END)
    ]
    async with trio.open_nursery() as nursery:
        async with world.worker(grace_period=0.6) as worker:
            handles = [await worker.backend_processes.spawn(entry) for entry in entries]
            asked_at = trio.current_time()
            for handle in handles:
                nursery.start_soon(handle.stop, "enough")
            await world.wait_state("stopping", len(handles))
            await trio.sleep(0.15)
        world.assert_took(asked_at, 0.6)
    assert world.reasons() == [("stopped", "backend_unloaded")] * len(ANY_END)
    assert {event.result for event in world.events} == {None}


@pytest.mark.slow
async def test_the_hosts_first_reason_stays(world, world_clock: MockClock | None) -> None:
    """Replaced, and then unloaded while it still stops: it ends as replaced, and the replacement never begins."""
    entry = world.entry(STUBBORN)
    async with trio.open_nursery() as nursery:
        async with world.worker(grace_period=0.5) as worker:
            handle = await worker.backend_processes.spawn(entry, key="one")
            asked_at = trio.current_time()
            pending = world.spawn_soon(nursery, worker, entry, key="one", replace_existing=True)
            await world.wait_state("stopping")
            await trio.sleep(0.2)
        world.assert_took(asked_at, 0.5)
        await pending.is_over.wait()
    assert isinstance(pending.error, trio.ClosedResourceError)
    assert world.reasons() == [("stopped", "replaced")]
    assert handle.info.exit_reason == "replaced"
    assert world.states() == ["starting", "running", "stopping", "stopped"]
