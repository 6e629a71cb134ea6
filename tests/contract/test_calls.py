"""Calls and streams, from both ends: the rules for callers, over entries that answer, fail, hang and end."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import (
    CallFailedError,
    CallTimeoutError,
    ExitReason,
    PayloadError,
    ProcessLostError,
    ProcessState,
    UnknownMethodError,
)

ASYNC = """
    async def run(process):
        @process.on_call
        async def square(n):
            return n * n

        @process.on_call
        async def echo(payload):
            return payload

        @process.on_call
        async def fail(text):
            raise LookupError(text)

        @process.on_call
        async def leave(code):
            sys.exit(code)

        @process.on_call
        async def left(payload):
            call = process.call
            return [call.method, call.deadline - trio.current_time(), call.is_cancelled]

        @process.on_call
        async def wait(payload):
            try:
                await trio.sleep_forever()
            finally:
                process.send_nowait("given up")

        @process.on_call
        async def slow(seconds):
            await trio.sleep(seconds)
            return "done"

        @process.on_call
        async def count(most):
            try:
                for number in range(most):
                    process.send_nowait(number)
                    yield number
            finally:
                process.send_nowait("closed")

        @process.on_call
        async def break_off(most):
            for number in range(most):
                yield number
            raise OSError("disk full")

        @process.on_call
        async def idle(payload):
            await trio.sleep_forever()
            yield

        @process.on_call
        async def nonsense(payload):
            return object()

        process.ready()
"""

BLOCKING = """
    import sys
    import time

    def run(process):
        @process.on_call
        def square(n):
            return n * n

        @process.on_call
        def fail(text):
            raise LookupError(text)

        @process.on_call
        def leave(code):
            sys.exit(code)

        @process.on_call
        def linger(seconds):
            time.sleep(seconds)
            return seconds

        @process.on_call
        def wait(payload):
            try:
                while True:
                    process.call.check()
                    time.sleep(0.002)
            finally:
                process.send("given up")

        @process.on_call
        def hang(payload):
            while True:
                pass

        @process.on_call
        def slow(seconds):
            time.sleep(seconds)
            return "done"

        @process.on_call
        def count(most):
            try:
                for number in range(most):
                    process.send(number)
                    yield number
            finally:
                process.send("closed")

        @process.on_call
        def break_off(most):
            yield from range(most)
            raise OSError("disk full")

        process.ready()
"""


@pytest.fixture
def tools(world) -> str:
    return world.entry(ASYNC)


@pytest.fixture(params=["async", "blocking"])
def real_tools(request: pytest.FixtureRequest, real_world) -> str:
    return real_world.entry(ASYNC) if request.param == "async" else real_world.blocking_entry(BLOCKING)


async def test_a_call_is_answered(world, world_clock: MockClock | None, tools) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        assert await handle.call("square", 3) == 9
        for payload in (None, "ü" * 1000, [1.5, {"a": [None, True]}], 2**64 - 1, {}):
            assert await handle.call("echo", payload) == payload
        assert handle.statistics().messages_received == 0


async def test_what_a_handler_raises_is_raised_at_the_caller_and_its_process_goes_on(
    world, world_clock: MockClock | None, tools
) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        with pytest.raises(CallFailedError, match="LookupError: no such book") as caught:
            await handle.call("fail", "no such book")
        assert (caught.value.error_type, caught.value.text) == ("LookupError", "no such book")
        assert "in fail\n" in str(caught.value.traceback)
        with pytest.raises(CallFailedError) as caught:
            await handle.call("fail", "")
        assert str(caught.value) == f"'fail' failed in process {handle.process_id} ({tools}): LookupError"
        with pytest.raises(CallFailedError) as caught:
            await handle.call("nonsense")
        assert caught.value.error_type == "PayloadError"
        with pytest.raises(UnknownMethodError) as unknown:
            await handle.call("cube")
        assert "square" in unknown.value.known
        with pytest.raises(PayloadError):
            await handle.call("square", math.nan)
        assert await handle.call("square", 4) == 16


async def test_a_call_that_takes_too_long_times_out_there_and_here(world, world_clock: MockClock | None, tools) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        began = trio.current_time()
        with pytest.raises(CallTimeoutError):
            await handle.call("wait", timeout=0.25)
        world.assert_took(began, 0.25)
        await world.wait_payload("given up")
        assert await handle.call("square", 2) == 4


async def test_the_time_that_is_left_travels(world, world_clock: MockClock | None, tools) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        with trio.fail_after(20):
            method, left, is_cancelled = await handle.call("left", timeout=40)  # type: ignore[misc]
        assert (method, is_cancelled) == ("left", False)
        assert isinstance(left, float)
        assert 15 < left <= 20
        assert (await handle.call("left", timeout=10))[1] <= 10  # type: ignore[index,operator]


async def test_a_caller_that_is_cancelled_goes_on_and_its_handler_is_cancelled(
    world, world_clock: MockClock | None, tools
) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        with trio.move_on_after(0.1) as scope:
            await handle.call("wait")
        assert scope.cancelled_caught
        await world.wait_payload("given up")
        assert await handle.call("square", 2) == 4


async def test_calls_of_a_process_that_ends_are_lost_at_once(world, world_clock: MockClock | None, tools) -> None:
    async with world.worker() as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn(tools)
        lost = []

        async def wait() -> None:
            with pytest.raises(ProcessLostError) as caught:
                await handle.call("wait")
            lost.append(caught.value)

        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ProcessLostError) as caught:
            await handle.call("leave", 3)
        assert caught.value.handed_over
        assert caught.value.info.exit_reason is ExitReason.FAILED
        assert caught.value.post_mortem is not None
        assert "exited with code 3" in str(caught.value)
        with pytest.raises(ProcessLostError) as caught:
            await handle.call("square", 1)
        assert not caught.value.handed_over
    assert [error.handed_over for error in lost] == [True] * 3


async def test_a_process_that_is_stopping_finishes_its_call_and_takes_no_other(
    world, world_clock: MockClock | None, tools
) -> None:
    async with world.worker() as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn(tools)
        answers = []

        async def call() -> None:
            answers.append(await handle.call("slow", 0.4))

        nursery.start_soon(call)
        await trio.sleep(0.1)
        nursery.start_soon(handle.stop)
        await world.wait_state("stopping")
        with pytest.raises(ProcessLostError, match="is stopping") as caught:
            await handle.call("square", 1)
        assert not caught.value.handed_over
        assert (await handle.wait_ended()).state is ProcessState.STOPPED
    assert answers == ["done"]


async def test_messages_and_calls_do_not_hold_up_each_other(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.on_call("square", lambda n: n * n)
            process.ready()
            process.beat_while_running()
            for _ in range(200):
                await process.send("x" * 100_000)
            process.on_call("late", lambda n: n)
            await trio.sleep_forever()
    """)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        messages = handle.messages()  # and nobody reads: the process waits in its send
        for number in range(20):
            assert await handle.call("square", number) == number * number
        assert len(await messages.receive_many()) <= 200


# ---- streams


async def test_a_stream_yields_all_its_items_and_ends(world, world_clock: MockClock | None, tools) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        async with handle.stream("count", 100) as items:
            assert [item async for item in items] == list(range(100))
        async with handle.stream("count", 0) as items:
            assert [item async for item in items] == []
        await world.wait_payload("closed")


async def test_a_slow_reader_holds_up_the_generator_and_not_the_process(
    world, world_clock: MockClock | None, tools
) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        async with handle.stream("count", 1000, window=4) as items:
            assert await items.receive() == 0
            assert await handle.call("square", 5) == 25
            await trio.sleep(0.2)
            assert 4 <= len(world.payloads()) <= 7
        await world.wait_payload("closed")
        assert len(world.payloads()) <= 8


async def test_an_error_of_a_generator_comes_after_its_items(world, world_clock: MockClock | None, tools) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        received = []
        async with handle.stream("break_off", 40) as items:
            with pytest.raises(CallFailedError, match="OSError: disk full"):
                async for item in items:
                    received.append(item)  # noqa: PERF401  # a comprehension would lose them
        assert received == list(range(40))


async def test_a_stream_that_yields_nothing_times_out(world, world_clock: MockClock | None, tools) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        began = trio.current_time()
        async with handle.stream("idle", timeout=0.25) as items:
            with pytest.raises(CallTimeoutError):
                await items.receive()
        world.assert_took(began, 0.25)
        assert await handle.call("square", 2) == 4


async def test_a_generator_that_is_told_of_a_call_and_a_function_of_a_stream_fail(
    world, world_clock: MockClock | None, tools
) -> None:
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(tools)
        with pytest.raises(CallFailedError):
            await handle.call("count", 3)
        async with handle.stream("square", 3) as items:
            with pytest.raises(CallFailedError):
                await items.receive()
        assert await handle.call("square", 2) == 4
        assert handle.state is ProcessState.RUNNING


# ---- both flavours of a real process


async def test_calls_of_real_processes_are_answered_or_fail(real_world, real_tools) -> None:
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(real_tools)
        for number in range(300):
            assert await handle.call("square", number) == number * number
        with pytest.raises(CallFailedError, match="LookupError: no"):
            await handle.call("fail", "no")
        with pytest.raises(UnknownMethodError):
            await handle.call("cube")
        with pytest.raises(CallTimeoutError):
            await handle.call("wait", timeout=0.05)
        await real_world.wait_payload("given up")
        with pytest.raises(ProcessLostError, match="code 7"):
            await handle.call("leave", 7)


async def test_many_calls_at_once_are_all_answered(real_world, real_tools) -> None:
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(real_tools)
        answers = {}

        async def call(number: int) -> None:
            answers[number] = await handle.call("square", number)

        async with trio.open_nursery() as nursery:
            for number in range(2_000):
                nursery.start_soon(call, number)
        assert answers == {number: number * number for number in range(2_000)}


async def test_streams_of_real_processes_keep_their_credit_and_order(real_world, real_tools) -> None:
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(real_tools)
        async with handle.stream("count", 1_000, window=5) as items:
            assert [item async for item in items] == list(range(1_000))
        async with handle.stream("count", 1_000, window=5) as items:
            assert await items.receive() == 0
        await real_world.wait_payload("closed")
        received = []
        async with handle.stream("break_off", 40) as items:
            with pytest.raises(CallFailedError, match="disk full"):
                async for item in items:
                    received.append(item)  # noqa: PERF401  # a comprehension would lose them
        assert received == list(range(40))
        assert await handle.call("square", 3) == 9


async def test_a_hung_call_ends_its_process_with_the_stacks_of_what_hangs(real_world) -> None:
    entry = real_world.blocking_entry(BLOCKING)
    async with real_world.worker(cancel_grace=0.2) as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert await handle.call("square", 3, timeout=5, overrun="kill") == 9
        began = trio.current_time()
        with pytest.raises(CallTimeoutError):
            await handle.call("hang", timeout=0.1, overrun="kill")
        real_world.assert_took(began, 0.1)
        info = await handle.wait_ended()
        real_world.assert_took(began, 0.3)
        assert (info.state, info.exit_reason) == (ProcessState.TIMED_OUT, ExitReason.TIMED_OUT)
        assert info.error == "its handler of 'hang' went on for 0.2 s after call 2 was cancelled"
        assert "in hang" in str(handle.post_mortem.stacks)


async def test_a_stop_waits_for_a_hung_call_no_longer_than_its_own_grace_and_shows_its_stacks(real_world) -> None:
    entry = real_world.blocking_entry(BLOCKING)
    async with real_world.worker(cancel_grace=0.2) as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert await handle.call("square", 3) == 9
        with trio.move_on_after(0.05):
            await handle.call("hang", overrun="kill")
        began = trio.current_time()
    real_world.assert_took(began, 0.2)
    assert real_world.reasons() == [("stopped", "backend_unloaded")]
    post_mortem = handle.post_mortem
    assert post_mortem.error == "its handler of 'hang' went on for 0.2 s after call 2 was cancelled"
    assert "by its host" in post_mortem.exit_status
    assert "in hang" in post_mortem.stacks


async def test_a_call_behind_a_long_one_may_be_given_up_and_ends_nothing(real_world) -> None:
    entry = real_world.blocking_entry(BLOCKING)
    async with real_world.worker(cancel_grace=0.05) as worker:
        handle = await worker.backend_processes.spawn(entry)
        answers = []

        async def call_long() -> None:
            answers.append(await handle.call("linger", 0.4))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call_long)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(CallTimeoutError):
                await handle.call("square", 3, timeout=0.05, overrun="kill")
        await handle.wait_idle()
        assert (answers, handle.state) == ([0.4], ProcessState.RUNNING)
        assert await handle.call("square", 3, timeout=5, overrun="kill") == 9


async def test_a_real_handler_that_gives_up_in_time_ends_nothing(real_world, real_tools) -> None:
    async with real_world.worker(cancel_grace=2) as worker:
        handle = await worker.backend_processes.spawn(real_tools)
        with pytest.raises(CallTimeoutError):
            await handle.call("wait", timeout=0.05, overrun="kill")
        await real_world.wait_payload("given up")
        assert await handle.call("square", 2) == 4


async def test_a_killed_process_loses_its_calls(real_world, real_tools) -> None:
    async with real_world.worker() as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn(real_tools)
        lost = []

        async def wait() -> None:
            with pytest.raises(ProcessLostError, match="has ended") as caught:
                await handle.call("wait")
            lost.append(caught.value)

        for _ in range(5):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await handle.kill()
    assert all(error.info.state is ProcessState.STOPPED for error in lost)
    assert len(lost) == 5


DECORATED = """
import functools

def timed(function):
    @functools.wraps(function)
    def call(payload):
        return function(payload)
    return call

@timed
def count(most):
    yield from range(most)

@timed
def square(number):
    return number * number
"""

ASYNC_DECORATED = """
@timed
async def count_async(most):
    for number in range(most):
        yield number

async def later(payload):
    return payload
"""


@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_a_plain_function_that_returns_a_generator_is_a_stream(real_world, kind: str) -> None:
    methods = ["square", "count"] + ["count_async", "later"] * (kind == "async")
    source = DECORATED + ASYNC_DECORATED * (kind == "async")
    entry = real_world.blocking_entry(f"{source}\ncalls = {{{', '.join(f'{name!r}: {name}' for name in methods)}}}")
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        for method in methods[1:3]:
            async with handle.stream(method, 3) as items:
                assert [item async for item in items] == [0, 1, 2]
            with pytest.raises(CallFailedError, match=r"has returned a generator: read it with stream\(\)"):
                await handle.call(method, 3)
        async with handle.stream("square", 3) as items:
            with pytest.raises(CallFailedError, match="'square' is no generator, and answers once") as refused:
                await items.receive()
        assert refused.value.traceback is None
        assert await handle.call("square", 3) == 9
