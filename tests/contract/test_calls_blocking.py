"""Calls of a `def` entry, from end to end. Real processes only: in memory no `def` entry runs."""

from __future__ import annotations

import pytest
import trio

from spindle_trio import CallFailedError, CallTimeoutError, ProcessLostError, StartupFailedError, UnknownMethodError

TOOLS = """
    import sys
    import time

    def run(process):
        process.on_call("double", lambda payload: payload * 2)

        @process.on_call
        def fail(key):
            return {}[key]

        @process.on_call
        def look(payload):
            call = process.call
            return [call.method, call.deadline - time.monotonic(), call.is_cancelled]

        @process.on_call
        def wait(payload):
            process.send("waits")
            try:
                process.sleep(60)
            finally:
                process.send("cancelled")

        @process.on_call
        def compute(seconds):
            process.send("begun")
            time.sleep(seconds)
            return "finished"

        @process.on_call
        def leave(how):
            process.complete() if how == "complete" else sys.exit(0)

        @process.on_call
        def count(most):
            try:
                yield from range(most)
            finally:
                process.send("closed")

        @process.on_call
        def talk(payload):
            process.send(payload)
            return process.receive()

        process.ready()
"""


@pytest.fixture
def tools(real_world) -> str:
    """An entry with handlers of each kind."""
    return real_world.blocking_entry(TOOLS)


async def test_what_a_blocking_handler_raises_reaches_the_caller_and_the_process_goes_on(real_world, tools) -> None:
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        with pytest.raises(CallFailedError) as failed:
            await handle.call("fail", "missing")
        assert (failed.value.error_type, failed.value.text) == ("KeyError", "'missing'")
        assert "in fail" in failed.value.traceback
        assert "spindle_trio" not in failed.value.traceback
        with pytest.raises(UnknownMethodError) as unknown:
            await handle.call("no such")
        assert unknown.value.known == ("compute", "count", "double", "fail", "leave", "look", "talk", "wait")
        with pytest.raises(CallFailedError, match="read it with stream"):
            await handle.call("count", 1)
        assert await handle.call("double", "ab") == "abab"


async def test_a_blocking_handler_knows_how_much_time_is_left_and_is_told_when_it_is_over(real_world, tools) -> None:
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        method, left, is_cancelled = await handle.call("look", timeout=20)
        assert (method, is_cancelled) == ("look", False)
        assert 10 < left <= 20
        with pytest.raises(CallTimeoutError):
            await handle.call("wait", timeout=0.05)
        await real_world.wait_payload("cancelled")
        assert await handle.call("double", 2) == 4


async def test_a_blocking_handler_is_told_that_its_caller_was_cancelled(real_world, tools) -> None:
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.call, "wait")
            await real_world.wait_payload("waits")
            nursery.cancel_scope.cancel()
        await real_world.wait_payload("cancelled")
        assert await handle.call("double", 2) == 4


async def test_a_blocking_handler_exchanges_messages_in_the_middle_of_a_call(real_world, tools) -> None:
    async with real_world.worker() as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn(tools)

        async def answer() -> None:
            await real_world.wait_payload("what?")
            await handle.send("that")

        nursery.start_soon(answer)
        assert await handle.call("talk", "what?") == "that"


async def test_a_blocking_process_that_waits_for_calls_or_for_its_reader_beats_by_itself(real_world, tools) -> None:
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools, heartbeat_timeout=0.3)
        await trio.sleep(0.9)
        async with handle.stream("count", 3, window=1) as items:
            assert await items.receive() == 0
            await trio.sleep(0.9)
            assert [item async for item in items] == [1, 2]
        assert await handle.call("double", 2) == 4


async def test_nothing_beats_for_a_blocking_handler_that_computes(real_world, tools) -> None:
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools, heartbeat_timeout=0.2)
        with pytest.raises(ProcessLostError) as lost:
            await handle.call("compute", 60)
        assert lost.value.handed_over
        assert real_world.reasons() == [("timed_out", "timed_out")]


async def test_a_stop_lets_a_blocking_handler_finish_within_the_grace_period(real_world, tools) -> None:
    answers: list[object] = []
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)

        async def call() -> None:
            answers.append(await handle.call("compute", 0.2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await real_world.wait_payload("begun")
            began = trio.current_time()
            await handle.stop(grace=20)
            real_world.assert_took(began, 0.2)
        assert answers == ["finished"]
        assert real_world.reasons() == [("stopped", "stopped")]
        with pytest.raises(ProcessLostError):
            await handle.call("double", 2)


@pytest.mark.parametrize("how", ["complete", "exit"])
async def test_a_blocking_handler_that_ends_the_process_loses_its_call(how: str, real_world, tools) -> None:
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        with pytest.raises(ProcessLostError) as lost:
            await handle.call("leave", how)
        assert lost.value.handed_over
        assert str((await handle.wait_ended()).state) == "completed"


async def test_a_reader_that_leaves_a_stream_closes_the_generator_of_a_blocking_entry(real_world, tools) -> None:
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        async with handle.stream("count", 1_000_000) as items:
            assert await items.receive() == 0
        await real_world.wait_payload("closed")
        assert await handle.call("double", 2) == 4


async def test_a_module_of_plain_calls_needs_no_run_and_loads_no_trio(real_world) -> None:
    entry = real_world.blocking_entry("""
        import sys

        def square(n):
            return n * n

        calls = {"square": square, "modules": lambda payload: sorted(sys.modules)}
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert await handle.call("square", 3) == 9
        loaded = set(await handle.call("modules"))
        assert "spindle_trio.child._blocking_calls" in loaded
        assert loaded & {"trio", "typing", "inspect", "traceback", "spindle_trio.child._async_calls"} == set()


async def test_an_async_handler_in_a_blocking_entry_fails_it_with_the_way_out(real_world) -> None:
    entry = real_world.blocking_entry("""
        async def square(n):
            return n * n

        def run(process):
            process.on_call(square)
            process.ready()
    """)
    async with real_world.worker() as worker:
        with pytest.raises(StartupFailedError, match=r"'square' is async.*async def run\(process\)"):
            await worker.backend_processes.spawn(entry)
