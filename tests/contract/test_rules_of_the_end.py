"""Rules 1, 2, 4 and 5 of the contract: the meaning of a terminal state, its subscribers, and what precedes it."""

from __future__ import annotations

import logging
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import (
    Limits,
    ProcessHandle,
    ProcessState,
    StartupFailedError,
    StartupTimeoutError,
    open_host,
)
from spindle_trio.launchers._local._containment import ControlGroupTree, GroupTree, NamespaceTree
from spindle_trio.testing import MemoryLauncher, ScriptedChild

READY = """
    async def run(process):
        process.ready()
        await trio.sleep_forever()
"""

LAST_WORDS = """
    async def run(process):
        process.ready()
        for number in range(20):
            process.send_nowait(number)
        return os.getpid()
"""


# Rule 1: a terminal state means that the process has been reaped.


async def test_at_the_terminal_event_the_process_is_reaped_its_messages_taken_in_and_its_key_free(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(LAST_WORDS)
    seen: list[str] = []
    async with world.worker(max_processes=1) as worker, trio.open_nursery() as nursery:
        processes = worker.backend_processes
        events = processes.lifecycle_events()

        async def respawn() -> None:
            """Started by the terminal handler: the key and the only slot must be free by then."""
            handle = await processes.spawn(entry, key="one")
            seen.append("spawned again")
            await handle.wait_ended()

        async def wait_ended() -> None:
            await first.wait_ended()
            seen.append("wait_ended")

        async def stop() -> None:
            await processes.stop(first.process_id)
            seen.append("stop")

        def heard(event) -> None:
            if event.state.is_terminal and event.process_id == first.process_id:
                seen.append("handler")
                assert world.opened.statistics().processes == 0
                assert world.payloads() == list(range(20))
                assert first.state is event.state
                with pytest.raises(trio.WouldBlock):
                    while True:
                        assert not events.receive_nowait().state.is_terminal
                if not world.is_virtual:
                    assert not Path(f"/proc/{first.pid}").exists()
                nursery.start_soon(respawn)

        processes.on_lifecycle(heard)
        first: ProcessHandle = await processes.spawn(entry, key="one")
        nursery.start_soon(wait_ended)
        nursery.start_soon(stop)
        await first.wait_ended()
        assert seen[0] == "handler"
        assert (await events.receive()).state.is_terminal
        await world.wait_state("running", 2)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(seen[1:]) == ["spawned again", "stop", "wait_ended"]


@pytest.mark.parametrize("statement", ["raise OSError('no disk')", "await trio.sleep_forever()"])
async def test_a_failing_spawn_raises_after_handlers_and_channels_have_heard(
    world, world_clock: MockClock | None, statement: str
) -> None:
    entry = world.entry(f"""
        async def run(process):
            {statement}
    """)
    async with world.worker() as worker, worker.backend_processes.lifecycle_events() as events:
        with pytest.raises((StartupFailedError, StartupTimeoutError)):
            await worker.backend_processes.spawn(entry, startup_timeout=0.5)
        assert len(world.states()) == 2
        assert events.receive_nowait().state is ProcessState.STARTING
        assert events.receive_nowait().state.is_terminal


async def test_a_replacement_begins_only_after_the_old_ones_end_has_been_announced(
    world, world_clock: MockClock | None
) -> None:
    """And nobody else gets the key in between, although it is free when the terminal event is heard."""
    entry = world.entry(READY)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        processes = worker.backend_processes
        first = await processes.spawn(entry, key="one")
        rivals = []

        def heard(event) -> None:
            if event.state.is_terminal and event.process_id == first.process_id:
                rivals.append(world.spawn_soon(nursery, worker, entry, key="one"))

        processes.on_lifecycle(heard)
        second = await processes.spawn(entry, key="one", replace_existing=True)
        await rivals[0].is_over.wait()
        assert rivals[0].error.existing.process_id == second.process_id
        assert world.states() == ["starting", "running", "stopping", "stopped", "starting", "running"]
        await second.stop()


async def test_what_sigkill_does_not_end_is_abandoned(
    virtual_world, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Simulated: such a process is stuck in the kernel. Stop, replacement and the host's exit go on without it."""
    first, second, third = ScriptedChild(), ScriptedChild(), ScriptedChild()
    launcher = MemoryLauncher({"child": [first, second, third]})
    async with virtual_world.worker(launcher=launcher, grace_period=5) as worker, trio.open_nursery() as nursery:
        for child in (first, second):
            child.resist_kill()
        pending = virtual_world.spawn_soon(nursery, worker, "child", key="one")
        await first.started()
        first.ready()
        await pending.is_over.wait()
        before = trio.current_time()
        await pending.handle.stop()
        assert trio.current_time() - before == 6.5
        info = pending.handle.info
        assert (info.state, info.exit_reason) == ("stopped", "stopped")
        assert "abandoned" in info.error
        assert any("abandoned" in record.message for record in caplog.records if record.levelno == logging.ERROR)
        assert virtual_world.opened.statistics().abandoned == 1
        # The key is free, and a replacement goes on as well.
        replaced = virtual_world.spawn_soon(nursery, worker, "child", key="one")
        await second.started()
        second.ready()
        await replaced.is_over.wait()
        before = trio.current_time()
        replacement = virtual_world.spawn_soon(nursery, worker, "child", key="one", replace_existing=True)
        await third.started()
        assert trio.current_time() - before == 6.5
        third.ready()
        await replacement.is_over.wait()
        third.exit(0)
        # One of them is reaped in the background at last, and nobody hears of it again.
        events = list(virtual_world.events)
        first.die()
        await trio.sleep(10)
        assert [event for event in virtual_world.events if event not in events and event.state != "failed"] == []
        assert virtual_world.opened.statistics().abandoned == 1
        left_at = trio.current_time()
    assert trio.current_time() - left_at <= 2


async def test_the_host_leaves_in_time_although_a_process_withstands_its_kill(
    virtual_world, autojump_clock: MockClock
) -> None:
    """Simulated, as above: the grace period plus 2 s at most in all."""
    child = ScriptedChild()
    child.resist_kill()
    async with trio.open_nursery() as nursery:
        async with virtual_world.worker(launcher=MemoryLauncher({"child": child}), grace_period=5) as worker:
            pending = virtual_world.spawn_soon(nursery, worker, "child")
            await child.started()
            child.ready()
            await pending.is_over.wait()
            left_at = trio.current_time()
        assert trio.current_time() - left_at <= 7
    assert virtual_world.reasons() == [("stopped", "backend_unloaded")]


async def test_a_real_process_that_withstands_its_kill_is_abandoned_and_reaped_later(
    real_world, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Simulated by a kill that does nothing. The log names its pid; the fixtures see that it is reaped at last."""
    entry = real_world.entry("""
        def run(process):
            process.on_stop(lambda notice: None)
            process.ready()
            while True:
                process.sleep(60)
    """)
    for tree in (NamespaceTree, ControlGroupTree, GroupTree):
        monkeypatch.setattr(tree, "kill", lambda tree: None)
    async with real_world.worker(grace_period=0.1) as worker:
        handle = await worker.backend_processes.spawn(entry, key="one")
        pid = handle.pid
        before = trio.current_time()
        await handle.stop()
        real_world.assert_took(before, 1.6)
        assert f"abandoned (pid {pid})" in handle.info.error
        assert any(str(pid) in record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
        assert Path(f"/proc/{pid}").exists()
        assert (await worker.backend_processes.spawn(entry, key="one")).state is ProcessState.RUNNING
        monkeypatch.undo()
        os.kill(pid, signal.SIGKILL)


# Rule 2: after ready it is a lifecycle event, and never raises in the host.


async def test_no_end_of_a_process_raises_in_the_host(world, world_clock: MockClock | None) -> None:
    statements = ["raise OSError", "sys.exit(3)", "process.fail('')", "raise KeyboardInterrupt", "return {1}"]
    if not world.is_virtual:
        statements += ["os._exit(1)", "os.abort()"]
    else:
        statements.remove("raise KeyboardInterrupt")  # in memory that is the whole test's
    entries = [
        world.entry(
            f"""
            async def run(process):
                process.ready()
                await trio.lowlevel.checkpoint()
                {statement}
            """,
            f"entry{number}.py",
        )
        for number, statement in enumerate(statements)
    ]
    async with world.worker() as worker:

        async def run(entry: str) -> None:
            handle = await worker.backend_processes.spawn(entry)
            assert (await handle.wait_ended()).state is ProcessState.FAILED

        async with trio.open_nursery() as nursery:
            for entry in entries:
                nursery.start_soon(run, entry)
    assert world.reasons() == [("failed", "failed")] * len(entries)


# Rule 4: one event for each transition, in order, with its time.


async def test_each_transition_is_one_event_with_the_time_of_that_transition(
    virtual_world, autojump_clock: MockClock
) -> None:
    """In virtual time, with exact times; the next test uses real time."""
    entry = virtual_world.entry("""
        async def run(process):
            asked = trio.Event()
            process.on_stop(lambda notice: asked.set())
            await trio.sleep(2)
            process.ready()
            for _ in range(10):
                await trio.sleep(1)
                process.heartbeat()
            await asked.wait()
            await trio.sleep(3)
            process.complete()
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
    """)
    opened = datetime(2026, 1, 1, tzinfo=UTC)
    async with virtual_world.worker(wall_clock=lambda: opened) as worker:
        handle = await worker.backend_processes.spawn(entry)
        await trio.sleep(20)
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            await handle.stop()
        await handle.stop()
        info = handle.info
    events = virtual_world.events
    assert [(event.previous_state, event.state, (event.at - opened).total_seconds()) for event in events] == [
        (None, "starting", 0),
        ("starting", "running", 2),
        ("running", "stopping", 22),
        ("stopping", "completed", 26),
    ]
    times = (info.started_at, info.ready_at, info.last_heartbeat_at, info.ended_at)
    assert [(at - opened).total_seconds() for at in times] == [0, 2, 12, 26]


async def test_the_times_of_events_are_those_on_the_info(world, world_clock: MockClock | None) -> None:
    entry = world.entry(READY)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
    starting, running, stopping, stopped = world.events
    info = handle.info
    assert (starting.at, running.at, stopped.at) == (info.started_at, info.ready_at, info.ended_at)
    assert starting.at <= running.at <= stopping.at <= stopped.at
    assert stopped.at - starting.at < timedelta(seconds=30)
    assert all(event.at.utcoffset() == timedelta(0) for event in world.events)


async def test_handlers_and_channels_hear_the_same_in_the_same_order(world, world_clock: MockClock | None) -> None:
    entry = world.entry(LAST_WORDS)
    async with world.worker() as worker:
        processes = worker.backend_processes
        events = processes.lifecycle_events()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(processes.spawn, entry)
        await world.wait_state("completed", 3)
        heard = [events.receive_nowait() for _ in world.events]
        assert heard == world.events
        for process_id in {event.process_id for event in heard}:
            assert world.states(process_id) == ["starting", "running", "completed"]


# Rule 5: messages arrive once and in order, and an end waits for no reader.


@pytest.mark.parametrize(
    ("statement", "state"),
    [("return None", "completed"), ("process.complete()", "completed"), ("raise OSError('no disk')", "failed")],
)
async def test_an_end_waits_for_no_reader_and_all_that_was_sent_is_readable_after_it(
    world, world_clock: MockClock | None, statement: str, state: str
) -> None:
    """The subscription is open and nobody reads; the child sends ten times what the inbox may hold."""
    entry = world.entry(f"""
        async def run(process):
            process.ready()
            for number in range(100):
                process.send_nowait(number)
            {statement}
    """)
    async with world.quiet_worker(limits=Limits(inbox_messages=10)) as worker:
        channel = worker.backend_processes.messages()
        handle = await worker.backend_processes.spawn(entry)
        assert (await handle.wait_ended()).state == state
        assert [channel.receive_nowait().payload for _ in range(100)] == list(range(100))
        with pytest.raises(trio.WouldBlock):
            channel.receive_nowait()
        assert handle.statistics().messages_received == 100


async def test_what_was_sent_before_an_exit_without_a_word_is_readable_after_it(
    world, world_clock: MockClock | None
) -> None:
    """Nothing announces such an end: an open subscription holds the child up until it is read, and loses nothing."""
    entry = world.entry("""
        async def run(process):
            process.ready()
            for number in range(100):
                process.send_nowait(number)
            sys.exit(3)
    """)
    async with world.quiet_worker(limits=Limits(inbox_messages=10)) as worker:
        channel = worker.backend_processes.messages()
        handle = await worker.backend_processes.spawn(entry)
        assert [(await channel.receive()).payload for _ in range(100)] == list(range(100))
        assert (await handle.wait_ended()).state == "failed"


async def test_messages_sent_while_stopping_and_in_clean_up_arrive_before_the_end(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            try:
                await trio.sleep_forever()
            finally:
                for number in range(50):
                    process.send_nowait(number)
    """)
    seen_at_the_end: list[int] = []
    async with world.worker(limits=Limits(inbox_messages=5)) as worker:
        handle = await worker.backend_processes.spawn(entry)
        worker.backend_processes.on_lifecycle(
            lambda event: seen_at_the_end.append(len(world.messages)) if event.state.is_terminal else None
        )
        await handle.stop()
    assert world.payloads() == list(range(50))
    assert seen_at_the_end == [50]


async def test_a_killed_process_s_last_messages_arrive(real_world) -> None:
    """On real processes: the killed process has written to a pipe that nobody has read."""
    entry = real_world.entry("""
        async def run(process):
            process.ready()
            async for _ in process.messages():
                break  # somebody listens by now
            for number in range(100):
                process.send_nowait(number)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    async with real_world.quiet_worker(limits=Limits(inbox_messages=10)) as worker:
        handle = await worker.backend_processes.spawn(entry)
        channel = handle.messages()
        await handle.send("go")
        assert "SIGKILL" in (await handle.wait_ended()).error
        assert [payload async for payload in channel] == list(range(100))


async def test_messages_each_way_arrive_once_and_in_order(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            async for message in process.messages():
                await process.send(message)
                if message == 499:
                    return
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        for number in range(500):
            await handle.send(number)
        await handle.wait_ended()
    assert world.payloads() == list(range(500))


async def test_the_host_opens_without_a_worker_and_leaves_at_once(world, world_clock: MockClock | None) -> None:
    """No worker, no process, no event: nothing to wait for."""
    before = trio.current_time()
    async with open_host(world.launcher()):
        pass
    world.assert_took(before, 0)
