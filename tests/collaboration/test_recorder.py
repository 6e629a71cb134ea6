"""`EventRecorder`: what it keeps, what it can wait for, and what it shows when a test fails."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import spindle_trio as spindle
from spindle_trio import ProcessState
from spindle_trio.child import ProcessContext
from spindle_trio.testing import EventRecorder, MemoryLauncher


async def chatty(process: ProcessContext) -> str:
    process.ready()
    await trio.sleep(1)
    await process.send({"n": 1})
    await process.wait_stop()
    return "stopped nicely"


async def broken(process: ProcessContext) -> None:
    process.ready()
    await trio.sleep(2)
    raise ValueError("no such chat")


@asynccontextmanager
async def a_worker() -> AsyncIterator[spindle.Worker]:
    numbers = itertools.count(1)
    launcher = MemoryLauncher({"chatty": chatty, "broken": broken})
    async with (
        spindle.open_host(launcher, new_process_id=lambda: f"p{next(numbers)}") as host,
        host.open_worker("test", user_id="ada") as worker,
    ):
        yield worker


async def test_it_records_states_and_messages_by_process(autojump_clock: MockClock) -> None:
    async with a_worker() as worker:
        with EventRecorder(worker.backend_processes) as recorder:
            first = await worker.backend_processes.spawn("chatty")
            await worker.backend_processes.spawn("broken")
            await recorder.wait_for("failed")
            await first.stop()
            recorder.assert_states(["starting", "running", "stopping", "completed"], "p1")
            recorder.assert_states([ProcessState.STARTING, ProcessState.RUNNING, ProcessState.FAILED], "p2")
            recorder.assert_payloads([{"n": 1}], "p1")
            recorder.assert_payloads([], "p2")
            assert len(recorder.events) == len(recorder.states()) == 7
            assert repr(recorder) == "<EventRecorder open, 7 events, 1 messages>"
    assert repr(recorder) == "<EventRecorder closed, 7 events, 1 messages>"


async def test_wait_for_is_a_level_and_returns_the_event(autojump_clock: MockClock) -> None:
    async with a_worker() as worker:
        with EventRecorder(worker.backend_processes) as recorder:
            await worker.backend_processes.spawn("broken")
            before = trio.current_time()
            event = await recorder.wait_for("failed", "p1")
            assert trio.current_time() - before == 2
            assert await recorder.wait_for(ProcessState.FAILED) is event
            assert event.error is not None
            assert event.error.startswith("ValueError: no such chat")


async def test_waiting_for_what_cannot_come_any_more_fails_with_the_record(autojump_clock: MockClock) -> None:
    async with a_worker() as worker:
        with EventRecorder(worker.backend_processes) as recorder:
            await worker.backend_processes.spawn("broken")
            with pytest.raises(AssertionError) as caught:
                await recorder.wait_for("completed", "p1")
    *lines, last = str(caught.value).splitlines()[:5]
    assert last.startswith(
        "  2.000 s  p1  running → failed    broken; ValueError: no such chat (Traceback: test_recorder"
    )
    assert lines == [
        "process p1 never entered completed: it has ended as failed",
        "what was recorded:",
        "  0.000 s  p1  starting            broken",
        "  0.000 s  p1  starting → running  broken",
    ]


async def test_waiting_ends_when_the_recorder_is_closed(autojump_clock: MockClock) -> None:
    async def waits(recorder: EventRecorder) -> None:
        with pytest.raises(AssertionError, match="before the recorder was closed"):
            await recorder.wait_for("running")

    async with a_worker() as worker, trio.open_nursery() as nursery:
        recorder = EventRecorder(worker.backend_processes)
        nursery.start_soon(waits, recorder)
        await wait_all_tasks_blocked()
        recorder.close()
        recorder.close()
        await worker.backend_processes.spawn("chatty")
        assert recorder.events == []
        assert str(recorder) == "(nothing)"


async def test_unexpected_states_and_messages_are_shown_beside_the_expected_ones(autojump_clock: MockClock) -> None:
    async with a_worker() as worker:
        with EventRecorder(worker.backend_processes) as recorder:
            handle = await worker.backend_processes.spawn("chatty")
            await trio.sleep(2)
            await handle.stop()
            with pytest.raises(AssertionError) as states:
                recorder.assert_states(["starting", "failed"])
            with pytest.raises(AssertionError) as payloads:
                recorder.assert_payloads([])
    assert str(states.value).splitlines()[:3] == [
        "the states are not as expected",
        "  expected: starting → failed",
        "  recorded: starting → running → stopping → completed",
    ]
    assert "recorded: [{'n': 1}]" in str(payloads.value)
    assert "1.000 s  p1  message               {'n': 1}" in str(payloads.value)
    assert "completed  chatty; result 'stopped nicely'" in str(states.value)
