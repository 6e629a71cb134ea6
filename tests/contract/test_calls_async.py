"""Calls and streams of `async` entries, from end to end: what the entry's part of them promises.

`tests/collaboration/test_async_calls.py` shows the details on bare lanes, and `test_calls.py` the host's part.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import (
    CallFailedError,
    CallTimeoutError,
    ProcessLostError,
    UnknownMethodError,
)

TOOLS = """
    async def run(process):
        @process.on_call
        async def square(payload):
            await trio.sleep(0)
            return payload["n"] ** 2

        @process.on_call("double")
        def twice(payload):
            return payload * 2

        @process.on_call
        async def fail(payload):
            raise KeyError(payload)

        @process.on_call
        async def wait(payload):
            process.send_nowait("waits")
            try:
                await trio.sleep_forever()
            finally:
                process.send_nowait("cancelled" if process.call.is_cancelled else "ended")

        @process.on_call
        async def finish(payload):
            process.send_nowait("begun")
            await trio.sleep(payload)
            return "finished"

        @process.on_call
        async def count(payload):
            try:
                for number in range(payload):
                    yield number
            finally:
                process.send_nowait("closed")

        @process.on_call
        def count_and_fail(payload):
            yield from range(payload)
            raise OSError("no more")

        @process.on_call
        async def leave(payload):
            if payload == "exit":
                sys.exit(0)
            process.complete("by a handler")
            await trio.sleep_forever()

        @process.on_call
        def look(payload):
            return [process.call.method, process.call.deadline - trio.current_time(), process.call.is_cancelled]

        process.on_call("unsafe", lambda payload: {payload})
        process.ready()
"""


@pytest.fixture
def tools(world) -> str:
    """An entry with handlers of each kind."""
    return world.entry(TOOLS)


async def test_plain_and_async_functions_answer(world, tools, world_clock: MockClock | None) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        assert await handle.call("square", {"n": 3}) == 9
        assert await handle.call("double", "ab", timeout=20) == "abab"
        answers: dict[int, object] = {}

        async def call(number: int) -> None:
            answers[number] = await handle.call("square", {"n": number})

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(call, number)
        assert answers == {number: number**2 for number in range(100)}


async def test_what_a_handler_raises_reaches_the_caller_and_the_process_goes_on(
    world, tools, world_clock: MockClock | None
) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        with pytest.raises(CallFailedError) as failed:
            await handle.call("fail", "missing")
        assert failed.value.error_type == "KeyError"
        assert failed.value.text == "'missing'"
        assert "in fail" in failed.value.traceback
        with pytest.raises(CallFailedError, match="answer: set is not JSON-safe"):
            await handle.call("unsafe", 1)
        with pytest.raises(UnknownMethodError) as unknown:
            await handle.call("no such")
        assert "square" in unknown.value.known
        with pytest.raises(CallFailedError, match="read it with stream"):
            await handle.call("count", 1)
        assert await handle.call("double", 2) == 4


async def test_a_handler_is_cancelled_with_its_caller_or_when_its_time_is_over(
    world, tools, world_clock: MockClock | None
) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        began = trio.current_time()
        with pytest.raises(CallTimeoutError):
            await handle.call("wait", timeout=world.seconds(30, 0.1))
        world.assert_took(began, world.seconds(30, 0.1))
        await world.wait_payload("cancelled")
        world.messages.clear()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.call, "wait")
            await world.wait_payload("waits")
            nursery.cancel_scope.cancel()
        await world.wait_payload("cancelled")
        assert await handle.call("double", 2) == 4


async def test_a_handler_knows_its_method_and_how_much_time_is_left(
    world, tools, world_clock: MockClock | None
) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        method, left, is_cancelled = await handle.call("look", timeout=20)
        assert (method, is_cancelled) == ("look", False)
        assert left == 20 if world.is_virtual else 10 < left <= 20
        with trio.move_on_after(10):
            _, left, _ = await handle.call("look", timeout=20)
            assert left <= 10


async def test_a_stream_is_whole_and_its_error_comes_after_its_items(
    world, tools, world_clock: MockClock | None
) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        for window in (1, 16):
            async with handle.stream("count", 100, window=window) as items:
                assert [item async for item in items] == list(range(100))
            async with handle.stream("count_and_fail", 40, window=window) as items:
                assert [await items.receive() for _ in range(40)] == list(range(40))
                with pytest.raises(CallFailedError, match="no more"):
                    await items.receive()


async def test_a_stream_that_is_left_closes_its_generator(world, tools, world_clock: MockClock | None) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        async with handle.stream("count", 1_000_000) as items:
            assert await items.receive() == 0
            assert await handle.call("double", 2) == 4
        await world.wait_payload("closed")
        assert await handle.call("double", 2) == 4


async def test_a_process_that_waits_for_calls_beats_by_itself(world, tools, world_clock: MockClock | None) -> None:
    async with world.worker() as worker:
        timeout = world.seconds(5, 0.5)
        handle = await worker.backend_processes.spawn(tools, heartbeat_timeout=timeout)
        await trio.sleep(timeout * 3)
        assert await handle.call("double", 2) == 4


async def test_a_stop_lets_a_handler_finish_within_the_grace_period(
    world, tools, world_clock: MockClock | None
) -> None:
    answers: list[object] = []
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)

        async def call() -> None:
            answers.append(await handle.call("finish", world.seconds(2, 0.2)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await world.wait_payload("begun")
            began = trio.current_time()
            await handle.stop(grace=world.seconds(30, 10))
            world.assert_took(began, world.seconds(2, 0.2))
        assert answers == ["finished"]
        assert world.reasons() == [("stopped", "stopped")]
        with pytest.raises(ProcessLostError):
            await handle.call("double", 2)


@pytest.mark.parametrize("how", ["complete", "exit"])
async def test_a_handler_that_ends_the_process_loses_the_calls(
    how: str, world, tools, world_clock: MockClock | None
) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(ProcessLostError) as lost:
                    await handle.call("wait")
                assert lost.value.handed_over

            nursery.start_soon(wait)
            await world.wait_payload("waits")
            with pytest.raises(ProcessLostError):
                await handle.call("leave", how)
        assert str((await handle.wait_ended()).state) == "completed"


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_module_with_calls_needs_no_run(kind: str, world, world_clock: MockClock | None) -> None:
    source = f"{kind} square(n):\n    return n * n\n\ncalls = {{'square': square}}\n"
    entry = world.blocking_entry(source) if kind == "def" else world.entry(source)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert await handle.call("square", 3) == 9
        await handle.stop()
    assert world.reasons() == [("stopped", "stopped")]


@pytest.mark.parametrize("source", ["calls = 3", "calls = {}", "calls = {'x': None}"])
async def test_calls_that_are_no_mapping_to_functions_fail_the_spawn_with_the_reason(source: str, real_world) -> None:
    (real_world.root / "tools.py").write_text(source)
    async with real_world.worker() as worker:
        with pytest.raises(Exception, match=r"'calls' of .*tools\.py"):
            await worker.backend_processes.spawn("tools.py")
