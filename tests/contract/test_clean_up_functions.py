"""An entry may return a clean-up function: it lives on then, and the function runs once at its end."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import ExitReason, ProcessState
from support.contract import run_to_end, stderr_of

ENDS = [
    ("complete", ProcessState.COMPLETED, ExitReason.COMPLETED),
    ("fail", ProcessState.FAILED, ExitReason.FAILED),
    ("exit", ProcessState.COMPLETED, ExitReason.COMPLETED),
    ("exit 3", ProcessState.FAILED, ExitReason.FAILED),
    ("stop", ProcessState.STOPPED, ExitReason.STOPPED),
    ("replace", ProcessState.STOPPED, ExitReason.REPLACED),
    ("unload", ProcessState.STOPPED, ExitReason.BACKEND_UNLOADED),
]

HANDLER = """
            def handle(message):
                if message == "exit":
                    raise SystemExit
                if message == "exit 3":
                    raise SystemExit(3)
                getattr(process, message)("by handler")
"""


async def end_in_each_way(world, entry: str) -> None:
    """End a process of an entry in each way, and see that each has cleaned up once."""
    handles = []
    async with world.worker() as worker:
        processes = worker.backend_processes
        for end, _, _ in ENDS:
            handle = await processes.spawn(entry, key="one", heartbeat_timeout=float("inf"))
            handles.append(handle)
            if end == "stop":
                await handle.stop()
            elif end == "replace":
                other = await processes.spawn(entry, key="one", replace_existing=True)
                await other.send("complete")
                await other.wait_ended()
            elif end != "unload":  # that is what the worker's own end does
                await handle.send(end)
                await handle.wait_ended()
    for handle, (end, state, exit_reason) in zip(handles, ENDS, strict=True):
        assert (handle.info.state, handle.info.exit_reason) == (state, exit_reason), end
        assert sent_by(world, handle) == ["cleaned up"], end


def sent_by(world, handle) -> list[object]:
    return [message.payload for message in world.messages if message.process_id == handle.process_id]


@pytest.mark.parametrize("definition", ["def", "async def"])
async def test_it_runs_once_at_each_end_of_an_async_entry_that_lives_on(
    virtual_world, autojump_clock: MockClock, definition: str
) -> None:
    """In memory only, for there are many ends; the tests below do the same on real processes."""
    entry = virtual_world.entry(f"""
        async def run(process):
            {HANDLER}
            process.on_message(handle)
            process.ready()
            {definition} clean_up():
                process.send_nowait("cleaned up")
            return clean_up
    """)
    await end_in_each_way(virtual_world, entry)


async def test_it_runs_once_at_each_end_of_a_blocking_entry_that_lives_on(real_world) -> None:
    entry = real_world.blocking_entry(f"""
        def run(process):
            {HANDLER}
            process.on_message(handle)
            process.ready()
            def clean_up():
                process.heartbeat()
                process.sleep(0)  # raises nothing here, although the entry has been ended
                process.send("cleaned up")
            return clean_up
    """)
    await end_in_each_way(real_world, entry)


async def test_an_entry_that_only_returned_a_clean_up_function_lives_on_until_a_stop(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.beat_while_running()
            process.ready()
            async def clean_up():
                await process.send("cleaned up")
            return clean_up
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.2)
        if world.is_virtual:
            await trio.sleep(100)
        assert handle.state is ProcessState.RUNNING
        await handle.stop()
    assert handle.info.exit_reason is ExitReason.STOPPED
    assert world.payloads() == ["cleaned up"]


async def test_a_blocking_entry_that_only_returned_a_clean_up_function_lives_on_until_a_stop(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            return lambda: process.send("cleaned up")
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert (await handle.refresh()).state is ProcessState.RUNNING
        await handle.stop()
    assert handle.info.exit_reason is ExitReason.STOPPED
    assert real_world.payloads() == ["cleaned up"]


async def test_it_runs_also_where_the_entry_has_said_its_final_word_before_returning_it(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            process.complete("said")
            return lambda: process.send_nowait("cleaned up")
    """)
    handle = await run_to_end(world, entry)
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, "said")
    assert world.payloads() == ["cleaned up"]


@pytest.mark.parametrize("definition", ["def", "async def"])
async def test_one_that_raises_is_reported_on_stderr_and_changes_nothing(
    world, world_clock: MockClock | None, definition: str
) -> None:
    entry = world.entry(f"""
        async def run(process):
            process.ready()
            {definition} clean_up():
                raise LookupError("no broom")
            return clean_up
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
    assert (handle.info.state, handle.info.error) == (ProcessState.STOPPED, None)
    assert "LookupError: no broom" in stderr_of(handle)


async def test_one_of_a_blocking_entry_that_raises_is_reported_on_stderr_and_changes_nothing(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            def clean_up():
                raise LookupError("no broom")
            return clean_up
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
    assert (handle.info.state, handle.info.error) == (ProcessState.STOPPED, None)
    assert "LookupError: no broom" in stderr_of(handle)


async def test_it_does_not_run_in_a_process_that_is_killed(world, world_clock: MockClock | None) -> None:
    """A kill is an end that the child takes no part in: in memory no less than in a real process."""
    entry = world.entry("""
        async def run(process):
            process.on_stop(print)
            process.ready()
            return lambda: process.send_nowait("cleaned up")
    """)
    async with world.worker(grace_period=0.1) as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
    assert handle.info.state is ProcessState.STOPPED
    assert "was killed" in handle.info.error
    assert world.payloads() == []
