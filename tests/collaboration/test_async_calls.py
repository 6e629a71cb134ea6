"""Calls of an `async` entry over bare memory lanes: what its handlers get and give, and what the host hears of it."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from spindle_trio import LocalProtocolError
from spindle_trio._protocol._call_answers import Answer, CallFrame, Failure, Item, StreamEnd, encode_call
from spindle_trio.child import CallCancelled, ProcessContext
from spindle_trio.child._async_calls import CONCURRENCY
from spindle_trio.child._facts import ProcessFacts
from support.async_child import Entry, Host, running, some_facts, taken
from support.calls import READER, Caller

FACTS = some_facts(protocol=2, frame_bytes=100_000)


@asynccontextmanager
async def calling(entry: Entry, facts: ProcessFacts = FACTS) -> AsyncIterator[tuple[Host, Caller]]:
    """Run an entry that is ready to be called; at the end of the block it is stopped, if it has not ended."""
    async with running(entry, facts) as host:
        ready = await host.frame()
        assert ready.pop("concurrency") >= 1
        assert ready == {"type": "ready", "protocol": 2, "calls": True}
        yield host, caller_of(host)
        if host.end is None:
            host.stop()


def entry_with(**handlers: object) -> Entry:
    async def entry(process: ProcessContext) -> None:
        for name, handler in handlers.items():
            process.on_call(name, handler)
        process.ready()

    return entry


def caller_of(host: Host) -> Caller:
    return Caller(host.calls, host.say)


def cancelled(call_id: int) -> Failure:
    return Failure(call_id, is_cancelled=True)


# Registering, and what the host is told of it.


async def test_handlers_are_told_of_with_ready_and_answer() -> None:
    async def entry(process: ProcessContext) -> None:
        @process.on_call
        async def square(payload: int) -> int:
            await trio.lowlevel.checkpoint()
            return payload * payload

        @process.on_call("double")
        def twice(payload: int) -> int:
            return payload * 2

        assert process.on_call(abs) is abs
        assert process.on_call("length", len) is len
        process.ready()

    async with calling(entry) as (host, caller):
        assert await caller.answer("square", 3) == Answer(1, 9)
        assert await caller.answer("double", 3) == Answer(2, 6)
        assert await caller.answer("abs", -3) == Answer(3, 3)
        assert await caller.answer("length", [1, 2]) == Answer(4, 2)
    assert host.end is not None
    assert host.end.code == 0


async def test_a_handler_that_is_registered_after_ready_is_told_of_once() -> None:
    async def entry(process: ProcessContext) -> None:
        process.ready()
        decorate = process.on_call("late")
        await process.messages().receive()
        decorate(abs)
        process.on_call(len)

    async with running(entry, FACTS) as host:
        assert await host.frame() == {"type": "ready", "protocol": 2}
        await wait_all_tasks_blocked()
        assert host.frames_so_far() == []
        await host.send("go on")
        await wait_all_tasks_blocked()
        assert host.frames_so_far() == [{"type": "calls", "concurrency": 16}]
        assert await caller_of(host).answer("late", -1) == Answer(1, 1)
        host.stop()


async def test_the_host_is_told_that_16_run_at_a_time() -> None:
    async def entry(process: ProcessContext) -> None:
        process.on_call(abs)
        process.ready()

    async with running(entry, FACTS) as host:
        assert (await host.frame())["concurrency"] == 16
        host.stop()


async def test_the_host_is_told_how_many_run_at_a_time_and_whenever_that_changes() -> None:
    async def entry(process: ProcessContext) -> None:
        process.limit_calls(3)
        process.on_call(abs)
        process.ready()
        for concurrency in (3, 1, 1, 10**30):
            process.limit_calls(concurrency)

    async with running(entry, FACTS) as host:
        assert await host.frame() == {"type": "ready", "protocol": 2, "calls": True, "concurrency": 3}
        await wait_all_tasks_blocked()
        assert host.frames_so_far() == [{"type": "calls", "concurrency": told} for told in (1, 65_536)]
        host.stop()


async def test_a_host_of_protocol_1_hears_of_no_handler_and_the_process_lives_on() -> None:
    async def entry(process: ProcessContext) -> None:
        process.on_call(abs)
        process.ready()
        process.on_call(len)

    async with running(entry, some_facts(protocol=1)) as host:
        assert await host.frame() == {"type": "ready"}
        await wait_all_tasks_blocked()
        assert host.frames_so_far() == []
        assert host.end is None
        host.stop()


async def test_a_name_twice_and_what_is_no_function_are_refused_and_nothing_is_lost() -> None:
    errors: list[str] = []

    async def entry(process: ProcessContext) -> None:
        process.on_call(abs)
        for arguments in [(abs,), ("abs", len), ("", len), ("x" * 2000, len), (3,), ("x", 3)]:
            try:
                process.on_call(*arguments)
            except (TypeError, ValueError) as error:
                errors.append(type(error).__name__)
        process.ready()

    async with calling(entry) as (_, caller):
        assert await caller.answer("abs", -3) == Answer(1, 3)
    assert errors == ["ValueError", "ValueError", "ValueError", "PayloadError", "TypeError", "TypeError"]


async def test_an_unknown_method_gets_the_names_of_those_there_are() -> None:
    async with calling(entry_with(second=abs, first=abs)) as (_, caller):
        assert await caller.answer("no such") == Failure(1, known=("first", "second"))
        assert await caller.answer("x" * 1024) == Failure(2, known=("first", "second"))


async def test_a_call_of_a_generator_and_a_stream_of_a_function_are_refused() -> None:
    def count(payload: object) -> Iterator[int]:
        yield 1

    async with calling(entry_with(count=count, abs=abs)) as (_, caller):
        refused = await caller.answer("count")
        assert isinstance(refused, Failure)
        assert refused.text == "'count' is a generator: read it with stream(), not with call()"
        caller.call("abs", 1, window=4)
        refused = await caller.frame()
        assert isinstance(refused, Failure)
        assert refused.error_type == "TypeError"


# Answers and failures.


async def test_a_plain_function_that_returns_an_awaitable_answers_with_its_result() -> None:
    async def later(payload: int) -> int:
        await trio.lowlevel.checkpoint()
        return payload + 1

    async def never(payload: object) -> None:
        await trio.sleep_forever()

    def in_disguise(payload: int) -> object:
        return later(payload)

    def never_in_disguise(payload: object) -> object:
        return never(payload)

    async with calling(entry_with(it=in_disguise, never=never_in_disguise)) as (_, caller):
        assert await caller.answer("it", 1) == Answer(1, 2)
        caller.call("never")
        await wait_all_tasks_blocked()
        caller.cancel(2)
        assert await caller.frame() == cancelled(2)


async def never_ends() -> None:
    await trio.sleep_forever()


async def test_what_a_plain_function_has_returned_is_cancelled_also_before_it_is_awaited() -> None:
    async with calling(entry_with(never=lambda payload: never_ends())) as (_, caller):
        for _ in range(20):  # the task that awaits it begins before or after the one that hears of the cancellation
            call_id = caller.call("never")
            await trio.lowlevel.checkpoint()
            caller.cancel(call_id)
            with trio.fail_after(5):
                assert await caller.frame() == cancelled(call_id)


async def test_what_a_plain_function_has_returned_is_cancelled_if_that_has_ended_the_entry() -> None:
    async def entry(process: ProcessContext) -> None:
        @process.on_call
        def end(payload: object) -> object:
            process.complete("at once")
            return never_ends()

        process.ready()

    with trio.fail_after(5):
        async with calling(entry) as (host, caller):
            caller.call("end")
            assert (await host.frame())["type"] == "complete"
            assert await caller.frames_so_far() == []
    assert host.end is not None
    assert host.end.code == 0


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_a_handler_raises_is_a_failure_and_the_process_goes_on(is_async: bool) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    errors: list[BaseException] = [
        ValueError("no such folder"),
        ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
        Mute(),
        ValueError("a \ud800 surrogate"),
        KeyboardInterrupt(),
        GeneratorExit(),
        CallCancelled("out of the blue"),
    ]

    def fail(payload: int) -> None:
        raise errors[payload]

    async def fail_later(payload: int) -> None:
        await trio.lowlevel.checkpoint()
        raise errors[payload]

    async with calling(entry_with(fail=fail_later if is_async else fail, abs=abs)) as (host, caller):
        failures = [await caller.answer("fail", number) for number in range(len(errors))]
        assert await caller.answer("abs", 1) == Answer(len(errors) + 1, 1)
    assert all(isinstance(failure, Failure) for failure in failures)
    assert [failure.error_type.rpartition(".")[2] for failure in failures] == [
        "ValueError",
        "ExceptionGroup",
        "Mute",
        "ValueError",
        "KeyboardInterrupt",
        "GeneratorExit",
        "CallCancelled",
    ]
    assert failures[0].text == "no such folder"
    assert "fail" in failures[0].traceback
    assert "spindle_trio" not in failures[0].traceback
    assert "ValueError: one" in failures[1].text
    assert failures[2].text == "(its message could not be made)"
    assert failures[3].text == "a \\ud800 surrogate"
    assert host.reports == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_answer_that_is_not_json_safe_or_too_large_is_a_failure(is_async: bool) -> None:
    values = [{1, 2}, {"path": [b"bytes"]}, math.nan, "x" * 200_000, "\ud800"]

    def give(payload: int) -> object:
        return values[payload]

    async def give_later(payload: int) -> object:
        return values[payload]

    async with calling(entry_with(give=give_later if is_async else give)) as (_, caller):
        failures = [await caller.answer("give", number) for number in range(len(values))]
    assert all(isinstance(failure, Failure) for failure in failures)
    assert {failure.error_type for failure in failures} == {"PayloadError"}
    assert {failure.traceback for failure in failures} == {None}
    assert failures[0].text == "answer: set is not JSON-safe: send a list"
    assert failures[1].text.startswith("answer.path[0]: bytes is not JSON-safe")
    assert "in one frame" in failures[3].text


@pytest.mark.parametrize("kind", ["plain", "async", "group", "generator"])
async def test_a_system_exit_ends_the_entry_and_the_call_has_no_answer(kind: str) -> None:
    def leave(payload: object) -> None:
        sys.exit(3)

    async def leave_later(payload: object) -> None:
        await trio.lowlevel.checkpoint()
        sys.exit(3)

    async def leave_in_group(payload: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave_later, payload)

    async def generate(payload: object) -> AsyncIterator[int]:
        yield 1
        sys.exit(3)

    leaves = {"plain": leave, "async": leave_later, "group": leave_in_group, "generator": generate}
    async with calling(entry_with(leave=leaves[kind])) as (host, caller):
        caller.call("leave", window=4 if kind == "generator" else None)
        await wait_all_tasks_blocked()
    assert host.end.code == 3
    assert [frame for frame in await caller.frames_so_far() if not isinstance(frame, Item)] == []


# What a handler knows of its call.


async def test_a_handler_sees_its_call_and_nobody_else_does(autojump_clock: MockClock) -> None:
    seen: list[tuple[str, float, bool]] = []
    outside: list[str] = []

    async def entry(process: ProcessContext) -> None:
        def look(payload: object) -> None:
            seen.append((process.call.method, process.call.deadline, process.call.is_cancelled))
            assert process.call is process.call
            process.call.check()

        async def look_later(payload: object) -> None:
            await trio.sleep(1)
            look(payload)

        async def generate(payload: object) -> AsyncIterator[int]:
            look(payload)
            yield 1
            look(payload)

        try:
            assert process.call
        except LocalProtocolError as error:
            outside.append(str(error))
        process.on_call("plain", look)
        process.on_call("later", look_later)
        process.on_call("generate", generate)
        process.ready()

    async with calling(entry) as (_, caller):
        began = trio.current_time()
        caller.call("plain", seconds=5)
        caller.call("later", seconds=7)
        caller.call("generate", window=4)
        for _ in range(4):
            await caller.frame()
    assert sorted(seen) == sorted(
        [
            ("plain", began + 5, False),
            ("later", began + 7, False),
            ("generate", math.inf, False),
            ("generate", math.inf, False),
        ]
    )
    assert outside == ["process.call is there inside a handler of a call, while it serves one"]


async def test_a_thread_of_a_handler_sees_that_its_call_was_cancelled() -> None:
    contexts: list[ProcessContext] = []
    checked = threading.Event()

    def work() -> None:
        while True:
            contexts[0].call.check()
            checked.set()

    async def work_in_thread(payload: object) -> None:
        await trio.to_thread.run_sync(work)

    async def entry(process: ProcessContext) -> None:
        contexts.append(process)
        process.on_call(work_in_thread)
        process.ready()

    async with calling(entry) as (_, caller):
        caller.call("work_in_thread")
        await trio.to_thread.run_sync(checked.wait)
        caller.cancel(1)
        assert await caller.frame() == cancelled(1)
        caller.call("work_in_thread", seconds=0.01)
        assert await caller.frame() == cancelled(2)


async def test_what_a_handler_sets_in_its_context_is_gone_with_it() -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)

    def change(payload: int) -> int:
        before = variable.get()
        variable.set(payload)
        return before

    async def change_later(payload: int) -> int:
        await trio.lowlevel.checkpoint()
        return change(payload)

    async def entry(process: ProcessContext) -> None:
        variable.set(-1)
        process.limit_calls(1)
        process.on_call(change)
        process.on_call(change_later)
        process.ready()

    async with calling(entry) as (_, caller):
        for method in ["change", "change", "change_later", "change_later", "change"]:
            caller.call(method, 5)
        assert {frame.value for frame in await caller.frames_so_far()} == {-1}


# Order and concurrency.


async def test_calls_begin_in_order_and_so_many_run_at_a_time() -> None:
    begun: list[int] = []
    gates = [trio.Event() for _ in range(60)]

    async def wait(payload: int) -> int:
        begun.append(payload)
        await gates[payload].wait()
        return payload

    async with calling(entry_with(wait=wait)) as (_, caller):
        for number in range(60):
            caller.call("wait", number)
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert begun == list(range(CONCURRENCY))
        gates[5].set()
        gates[3].set()
        assert {frame.value for frame in await caller.frames_so_far()} == {3, 5}
        assert begun == list(range(CONCURRENCY + 2))
        for gate in gates:
            gate.set()
        assert len(await caller.frames_so_far()) == 58
    assert begun == list(range(60))


async def test_plain_functions_overtake_no_call_before_them() -> None:
    begun: list[int] = []

    async def later(payload: int) -> None:
        begun.append(payload)
        await trio.lowlevel.checkpoint()

    for _ in range(20):
        async with calling(entry_with(later=later, at_once=begun.append)) as (_, caller):
            begun.clear()
            for number in range(6):
                caller.call("later" if number % 3 != 2 else "at_once", number)
            assert len(await caller.frames_so_far()) == 6
        assert begun == list(range(6))


async def test_the_number_of_calls_at_a_time_can_be_set_and_changed() -> None:
    contexts: list[ProcessContext] = []
    running_now = 0
    most = 0

    async def entry(process: ProcessContext) -> None:
        contexts.append(process)
        process.limit_calls(2)

        @process.on_call
        async def wait(payload: object) -> None:
            nonlocal running_now, most
            running_now += 1
            most = max(most, running_now)
            try:
                await trio.sleep_forever()
            finally:
                running_now -= 1

        process.on_call(abs)
        process.ready()

    async with calling(entry) as (_, caller):
        for _ in range(9):
            caller.call("wait")
        caller.call("abs", -1)
        await wait_all_tasks_blocked()
        assert most == 2
        contexts[0].limit_calls(4)
        await wait_all_tasks_blocked()
        assert most == 4
        for number in range(1, 10):
            caller.cancel(number)
        frames = await caller.frames_so_far()
        assert sorted(frame.call_id for frame in frames) == list(range(1, 11))
        assert frames[-1] == Answer(10, 1)
        with pytest.raises(ValueError, match="from 1 on, not 0"):
            contexts[0].limit_calls(0)
        with pytest.raises(TypeError, match="takes an int, not float"):
            contexts[0].limit_calls(1.5)


async def test_calls_wait_in_their_lane_while_those_that_wait_here_fill_their_room() -> None:
    async def wait(payload: object) -> None:
        await trio.sleep_forever()

    async with calling(entry_with(wait=wait), some_facts(protocol=2, frame_bytes=10_000)) as (host, caller):
        sent = 0
        is_taken = True
        while is_taken and sent < 100:
            sent += 1
            is_taken = host.calls.send_nowait(encode_call(sent, "wait", math.inf, "x" * 5000, None, 10_000))
            await wait_all_tasks_blocked()
        assert CONCURRENCY < sent < 100
        frames: list[CallFrame] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.calls.send_pending)
            for number in range(1, sent + 1):
                caller.cancel(number)
                frames += await caller.frames_so_far()
        assert frames == [cancelled(number) for number in range(1, sent + 1)]


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_thousands_of_calls_at_once_are_each_answered_once(count: int) -> None:
    async def later(payload: int) -> int:
        await trio.lowlevel.checkpoint()
        return payload

    answered: list[int] = []
    async with calling(entry_with(later=later, at_once=abs)) as (host, _), trio.open_nursery() as nursery:

        async def read() -> None:
            while len(answered) < count:
                answered.extend(READER.read(body).value for body in await host.calls.receive(1000))

        nursery.start_soon(read)
        bodies = [
            encode_call(number, "later" if number % 2 else "at_once", math.inf, number, None, 1000)
            for number in range(1, count + 1)
        ]
        await host.calls.send_pending(bodies)
    assert sorted(answered) == list(range(1, count + 1))


async def test_an_answer_does_not_wait_for_a_function_that_may_take_long() -> None:
    """The host has it before that function begins, although one task runs both without a pause."""
    hosts: list[Host] = []
    seen: list[int] = []

    def look(payload: object) -> None:
        seen.append(len(taken(hosts[0].calls)))

    async with calling(entry_with(quick=abs, look=look)) as (host, caller):
        hosts.append(host)
        for number in range(3):
            await caller.answer("quick", number)
        for number in range(4):
            caller.call("quick", number)
        caller.call("look")
        assert await caller.frames_so_far() == [Answer(8, None)]
    assert seen == [4]


# Cancellation and deadlines.


async def test_a_cancelled_handler_is_cancelled_and_its_call_ends_when_it_has_given_up(
    autojump_clock: MockClock,
) -> None:
    events: list[str] = []

    async def wait(payload: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            events.append("cleaned up")

    async with calling(entry_with(wait=wait)) as (_, caller):
        caller.call("wait")
        await wait_all_tasks_blocked()
        caller.cancel(1)
        await trio.sleep(2)
        assert await caller.frames_so_far() == []
        await trio.sleep(2)
        assert await caller.frames_so_far() == [cancelled(1)]
        assert events == ["cleaned up"]
        caller.cancel(1)  # it has ended
        await wait_all_tasks_blocked()
        assert await caller.frames_so_far() == []


async def test_the_time_for_a_call_runs_from_its_arrival_and_cancels_it(autojump_clock: MockClock) -> None:
    async def wait(payload: float) -> str:
        await trio.sleep(payload)
        return "in time"

    async with calling(entry_with(wait=wait)) as (_, caller):
        began = trio.current_time()
        caller.call("wait", 1.9, seconds=2)
        caller.call("wait", 2.1, seconds=2)
        assert await caller.frame() == Answer(1, "in time")
        assert await caller.frame() == cancelled(2)
        assert trio.current_time() == began + 2


async def test_a_call_whose_time_was_over_before_its_turn_is_not_begun(autojump_clock: MockClock) -> None:
    begun: list[object] = []

    async def wait(payload: float) -> None:
        begun.append(payload)
        await trio.sleep(payload)

    async def entry(process: ProcessContext) -> None:
        process.limit_calls(1)
        process.on_call(wait)
        process.on_call("at_once", begun.append)
        process.ready()

    async with calling(entry) as (_, caller):
        caller.call("wait", 5)
        caller.call("wait", 1, seconds=3)
        caller.call("at_once", 2, seconds=3)
        caller.call("at_once", 3, seconds=0)
        frames = [await caller.frame() for _ in range(4)]
        assert frames == [Answer(1, None), cancelled(2), cancelled(3), cancelled(4)]
    assert begun == [5]


async def test_a_cancellation_may_come_before_its_call_and_for_one_that_waits() -> None:
    begun: list[object] = []

    async def wait(payload: object) -> None:
        begun.append(payload)
        await trio.sleep_forever()

    async def entry(process: ProcessContext) -> None:
        process.limit_calls(1)
        process.on_call(wait)
        process.ready()

    async with calling(entry) as (_, caller):
        caller.cancel(2)
        await wait_all_tasks_blocked()
        caller.call("wait", 1)
        caller.call("wait", 2)
        caller.call("wait", 3)
        assert await caller.frames_so_far() == [cancelled(2)]
        caller.cancel(3)
        assert await caller.frames_so_far() == [cancelled(3)]
        caller.cancel(1)
        assert await caller.frames_so_far() == [cancelled(1)]
        assert begun == [1]


async def test_a_handler_may_swallow_its_cancellation_and_answer() -> None:
    async def stubborn(payload: object) -> str:
        with trio.CancelScope() as scope:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:  # noqa: ASYNC103  # what a stubborn handler does
                scope.cancel()
        return "late"

    async def check(payload: object) -> None:
        pass

    async with calling(entry_with(stubborn=stubborn)) as (_, caller):
        caller.call("stubborn")
        await wait_all_tasks_blocked()
        caller.cancel(1)
        (frame,) = await caller.frames_so_far()
        assert frame.call_id == 1


async def test_check_raises_once_a_call_is_cancelled_and_that_ends_it_as_cancelled(
    autojump_clock: MockClock,
) -> None:
    contexts: list[ProcessContext] = []
    seen: list[bool] = []

    async def wait(payload: object) -> None:
        process = contexts[0]
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        seen.append(process.call.is_cancelled)
        async with trio.open_nursery():
            process.call.check()

    async def entry(process: ProcessContext) -> None:
        contexts.append(process)
        process.on_call(wait)
        process.ready()

    async with calling(entry) as (_, caller):
        caller.call("wait")
        await wait_all_tasks_blocked()
        caller.cancel(1)
        assert await caller.frame() == cancelled(1)
        assert seen == [True]


async def test_what_a_handler_raises_while_it_is_cancelled_is_told() -> None:
    async def wait(payload: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("in the clean-up")

    async with calling(entry_with(wait=wait)) as (_, caller):
        caller.call("wait")
        await wait_all_tasks_blocked()
        caller.cancel(1)
        failure = await caller.frame()
        assert isinstance(failure, Failure)
        assert failure.error_type == "KeyError"


async def test_frames_that_are_wrong_are_reported_or_end_the_connection() -> None:
    async with calling(entry_with(abs=abs)) as (host, caller):
        host.calls.send_nowait(b"\x09[]")
        host.calls.send_nowait(b"\x01[1,2]")
        assert await caller.answer("abs", -1) == Answer(1, 1)
        assert len(host.reports) == 2
        caller.credit(1, 3)  # it has ended
        host.say({"type": "cancel", "call": "1"})
        await wait_all_tasks_blocked()
        assert host.is_told_of_loss
        assert "not an integer" in host.reports[-1]


# Streams.


async def test_a_stream_sends_items_while_it_has_credit_and_then_holds_up_its_generator() -> None:
    made: list[int] = []

    async def count(payload: int) -> AsyncIterator[int]:
        for number in range(payload):
            made.append(number)
            yield number

    def count_plainly(payload: int) -> Iterator[int]:
        for number in range(payload):
            made.append(number)
            yield number

    async with calling(entry_with(count=count, count_plainly=count_plainly)) as (_, caller):
        for method in ("count", "count_plainly"):
            made.clear()
            stream = caller.call(method, 7, window=2)
            assert await caller.frames_so_far() == [Item(stream, 0), Item(stream, 1)]
            assert made == [0, 1]
            caller.credit(stream, 1)
            assert await caller.frames_so_far() == [Item(stream, 2)]
            assert made == [0, 1, 2]
            caller.credit(stream, 10)
            assert await caller.frames_so_far() == [
                *(Item(stream, number) for number in range(3, 7)),
                StreamEnd(stream),
            ]


async def test_an_error_of_a_generator_comes_after_the_items_before_it() -> None:
    async def fail(payload: object) -> AsyncIterator[int]:
        yield 1
        raise ValueError("in the middle")

    def fail_plainly(payload: object) -> Iterator[int]:
        yield 1
        raise ValueError("in the middle")

    async with calling(entry_with(fail=fail, fail_plainly=fail_plainly)) as (_, caller):
        for method in ("fail", "fail_plainly"):
            stream = caller.call(method, window=16)
            item, failure = await caller.frames_so_far()
            assert item == Item(stream, 1)
            assert (failure.call_id, failure.error_type, failure.text) == (stream, "ValueError", "in the middle")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("when", ["waits for credit", "ends by itself", "has an unsafe item"])
async def test_a_generator_is_closed_and_may_raise_in_its_clean_up(is_async: bool, when: str) -> None:
    events: list[str] = []

    def values() -> list[object]:
        return [{1}] if when == "has an unsafe item" else [1] if when == "ends by itself" else [1, 2, 3]

    async def generate(payload: bool) -> AsyncIterator[object]:
        try:
            for value in values():
                yield value
        finally:
            events.append("cleaned up")
            if payload:
                raise OSError("in the clean-up")

    def generate_plainly(payload: bool) -> Iterator[object]:
        try:
            yield from values()
        finally:
            events.append("cleaned up")
            if payload:
                raise OSError("in the clean-up")

    async with calling(entry_with(it=generate if is_async else generate_plainly)) as (_, caller):
        for raises in (False, True):
            stream = caller.call("it", raises, window=2)
            frames = await caller.frames_so_far()
            if when == "waits for credit":
                assert frames == [Item(stream, 1), Item(stream, 2)]
                assert events == []
                caller.cancel(stream)
                frames = await caller.frames_so_far()
            last = frames[-1]
            assert last.call_id == stream
            assert events == ["cleaned up"]
            events.clear()
            if raises:
                assert (last.error_type, last.text) == ("OSError", "in the clean-up")
            elif when == "waits for credit":
                assert last == cancelled(stream)
            elif when == "ends by itself":
                assert last == StreamEnd(stream)
            else:
                assert last.text == "item: set is not JSON-safe: send a list"


async def test_an_async_generator_is_cancelled_where_it_waits() -> None:
    events: list[str] = []

    async def generate(payload: object) -> AsyncIterator[int]:
        yield 1
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            events.append("cancelled")
            raise

    async with calling(entry_with(it=generate)) as (_, caller):
        stream = caller.call("it", window=16)
        assert await caller.frames_so_far() == [Item(stream, 1)]
        caller.cancel(stream)
        assert await caller.frames_so_far() == [cancelled(stream)]
        assert events == ["cancelled"]


async def test_a_generator_that_ignores_its_end_is_a_failure() -> None:
    def stubborn(payload: object) -> Iterator[int]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    async with calling(entry_with(stubborn=stubborn)) as (_, caller):
        stream = caller.call("stubborn", window=1)
        await caller.frames_so_far()
        caller.cancel(stream)
        (failure,) = await caller.frames_so_far()
        assert failure.error_type == "RuntimeError"


async def test_an_endless_plain_generator_with_much_credit_leaves_others_their_turn() -> None:
    def endless(payload: object) -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    async with calling(entry_with(endless=endless, abs=abs)) as (host, caller), trio.open_nursery() as nursery:
        items = 0
        answered = trio.Event()

        async def read() -> None:
            nonlocal items
            while True:
                for body in await host.calls.receive(1000):
                    frame = READER.read(body)
                    if isinstance(frame, Item):
                        items += 1
                    elif frame == Answer(2, 1):
                        answered.set()
                    elif frame == cancelled(1):
                        nursery.cancel_scope.cancel()

        nursery.start_soon(read)
        caller.call("endless", window=1_000_000)
        caller.call("abs", -1)
        await answered.wait()
        caller.cancel(1)
        await trio.sleep_forever()
    assert items < 1_000_000


# How long a process with calls lives, and its heartbeats.


async def test_a_process_that_takes_calls_beats_by_itself_from_ready_on(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        process.on_call(abs)
        await trio.sleep(10)
        process.ready()

    facts = some_facts(protocol=2, heartbeat_timeout=3)
    began = trio.current_time()
    async with calling(entry, facts) as (host, _):
        assert set(host.beats) == {began + 10}
        await trio.sleep(5)
        assert {beat - began for beat in host.beats} >= {10, 11, 12, 13, 14}


async def test_a_stop_lets_handlers_finish_begins_no_more_and_then_ends_the_entry(autojump_clock: MockClock) -> None:
    events: list[str] = []

    async def entry(process: ProcessContext) -> None:
        process.limit_calls(2)

        @process.on_call
        async def wait(payload: int) -> int:
            events.append(f"begun {payload}")
            await trio.sleep(payload)
            events.append(f"ended {payload}")
            return payload

        process.on_call("at_once", events.append)
        process.ready()
        try:
            await trio.sleep_forever()
        finally:
            events.append("entry ended")

    async with running(entry, FACTS) as host:
        caller = caller_of(host)
        await host.frame()
        caller.call("wait", 1)
        caller.call("wait", 2)
        caller.call("wait", 3)
        await wait_all_tasks_blocked()
        host.stop()
        await wait_all_tasks_blocked()
        caller.call("at_once", "too late")
        assert await host.frame() == {"type": "stopped", "messages": 0}
        frames = await caller.frames_so_far()
    assert events == ["begun 1", "begun 2", "ended 1", "ended 2", "entry ended"]
    assert frames == [Answer(1, 1), Answer(2, 2)]
    assert host.end.code == 0


async def test_an_entry_that_was_told_of_a_stop_ends_after_its_handlers(autojump_clock: MockClock) -> None:
    events: list[str] = []

    async def entry(process: ProcessContext) -> object:
        @process.on_call
        async def wait(payload: int) -> int:
            await trio.sleep(payload)
            events.append("handler ended")
            return payload

        process.ready()
        await process.wait_stop()
        events.append("entry returns")
        return lambda: events.append("cleaned up")

    async with running(entry, FACTS) as host:
        caller = caller_of(host)
        await host.frame()
        caller.call("wait", 2)
        await wait_all_tasks_blocked()
        host.stop()
        assert await host.frame() == {"type": "complete", "result": None, "messages": 0}
        assert await caller.frames_so_far() == [Answer(1, 2)]
    assert events == ["entry returns", "handler ended", "cleaned up"]


@pytest.mark.parametrize("ends", ["complete", "fail", "raise", "handler"])
async def test_the_end_of_the_entry_cancels_its_handlers_and_nobody_is_told(ends: str) -> None:
    events: list[str] = []

    async def entry(process: ProcessContext) -> None:
        @process.on_call
        async def wait(payload: object) -> None:
            try:
                await trio.sleep_forever()
            finally:
                events.append("handler ended")

        @process.on_call
        def finish(payload: object) -> str:
            process.complete("by a handler")
            return "bye"

        process.ready()
        await process.messages().receive()
        if ends == "complete":
            process.complete()
        elif ends == "fail":
            process.fail("for a reason")
        elif ends == "raise":
            raise ValueError
        await trio.sleep_forever()

    async with running(entry, FACTS) as host:
        caller = caller_of(host)
        await host.frame()
        caller.call("wait")
        await wait_all_tasks_blocked()
        if ends == "handler":
            assert await caller.answer("finish") == Answer(2, "bye")
        else:
            await host.send("end")
        assert (await host.frame())["type"] in ("complete", "fail")
        assert await caller.frames_so_far() == []
    assert events == ["handler ended"]


async def test_a_process_that_is_killed_begins_and_says_nothing_more() -> None:
    begun: list[object] = []

    async def wait(payload: object) -> None:
        begun.append(payload)
        await trio.sleep_forever()

    async def entry(process: ProcessContext) -> None:
        process.limit_calls(2)
        process.on_call(wait)
        process.ready()

    async with running(entry, FACTS) as host:
        caller = caller_of(host)
        await host.frame()
        for number in range(4):
            caller.call("wait", number)
        await wait_all_tasks_blocked()
        host.scope.cancel()
        assert await caller.frames_so_far() == []
    assert begun == [0, 1]


async def test_a_host_that_is_gone_ends_the_entry_and_its_handlers() -> None:
    events: list[str] = []

    async def wait(payload: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            events.append("handler ended")

    async with running(entry_with(wait=wait), FACTS) as host:
        await host.frame()
        caller_of(host).call("wait")
        await wait_all_tasks_blocked()
        host.calls.close()
        host.messages.close()
        host.control.close()
    assert events == ["handler ended"]
    assert host.is_told_of_loss


async def test_an_entry_without_calls_makes_and_loads_nothing_for_them() -> None:
    made: list[str] = []

    class Lanes(Host):
        @property
        def child_calls(self):
            made.append("a lane")

        @child_calls.setter
        def child_calls(self, lane) -> None:
            pass

    async def entry(process: ProcessContext) -> None:
        process.ready()
        await process.wait_stop()

    host = Lanes()
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run, entry, FACTS)
        host.stop()
    assert made == []
