"""The host's side of streams, over a child that a test drives frame by frame."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from spindle_trio._errors import CallFailedError, CallTimeoutError, PayloadError, ProcessLostError, UnknownMethodError
from spindle_trio._messages._channel import MessageReceiveChannel
from spindle_trio._model import JsonValue
from support.scripted_calls import running


async def take_all(items: MessageReceiveChannel[JsonValue]) -> list[JsonValue]:
    return [item async for item in items]


async def test_a_stream_yields_its_items_in_order_and_ends_with_its_generator(autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("index", {"folder": "."}) as items:
        call = await stage.child.calls.next()
        assert (call.method, call.payload, call.seconds, call.window) == ("index", {"folder": "."}, None, 16)
        for item in ("a", "b", None):
            stage.child.calls.item(call.call_id, item)
        stage.child.calls.end(call.call_id)
        assert await take_all(items) == ["a", "b", None]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await items.receive()
        with pytest.raises(trio.EndOfChannel):
            await items.receive_many()
        assert stage.counts.pending == 0


async def test_items_are_received_in_batches_or_without_waiting(autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("index") as items:
        await stage.child.calls.next()
        with pytest.raises(trio.WouldBlock):
            items.receive_nowait()
        for item in range(5):
            stage.child.calls.item(1, item)
        await wait_all_tasks_blocked()
        assert items.receive_nowait() == 0
        assert await items.receive_many(2) == [1, 2]
        assert await items.receive_many() == [3, 4]
        with pytest.raises(ValueError, match="at least one"):
            await items.receive_many(0)


@pytest.mark.parametrize(("window", "third"), [(1, 1), (3, 1), (4, 2), (16, 6)])
async def test_credit_goes_back_in_thirds_of_the_window(window: int, third: int, autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("index", window=window) as items:
        await stage.child.calls.next()
        for item in range(window):
            stage.child.calls.item(1, item)
        for _ in range(third):
            await items.receive()
        assert await stage.child.calls.wait_credit() == (1, third)
        for item in range(third):
            stage.child.calls.item(1, item)
        await wait_all_tasks_blocked()
        assert stage.handle.state == "running"
        assert len(await items.receive_many()) == window


async def test_a_reader_that_does_not_read_gives_no_credit(autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("index", window=4):
        await stage.child.calls.next()
        for item in range(4):
            stage.child.calls.item(1, item)
        with trio.move_on_after(100):
            await stage.child.calls.wait_credit()
        assert stage.child.calls.credits == []


async def test_an_error_of_the_generator_is_raised_after_the_items_before_it(autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("index") as items:
        await stage.child.calls.next()
        stage.child.calls.item(1, "a")
        stage.child.calls.fail(1, "OSError", "disk full")
        await wait_all_tasks_blocked()
        assert await items.receive() == "a"
        for _ in range(2):
            with pytest.raises(CallFailedError, match=r"'index' failed in .* OSError: disk full"):
                await items.receive()
        with pytest.raises(CallFailedError):
            items.receive_nowait()


async def test_a_stream_of_an_unknown_method_names_the_known_ones(autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("cube") as items:
        await stage.child.calls.next()
        stage.child.calls.refuse(1, "square")
        with pytest.raises(UnknownMethodError) as caught:
            await items.receive()
        assert caught.value.known == ("square",)


async def test_a_stream_is_lost_with_its_process_after_the_items_before_that(autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("index") as items:
        await stage.child.calls.next()
        stage.child.calls.item(1, "a")
        stage.child.exit(3)
        await stage.handle.wait_ended()
        assert await items.receive() == "a"
        with pytest.raises(ProcessLostError) as caught:
            await items.receive()
        assert caught.value.handed_over
        assert caught.value.info.state == "failed"


# ---- its time, and its end from here


async def test_a_stream_whose_time_is_over_is_cancelled(autojump_clock: MockClock) -> None:
    async with running() as stage:
        began = trio.current_time()
        async with stage.handle.stream("index", timeout=2) as items:
            call = await stage.child.calls.next()
            assert call.seconds == 2
            stage.child.calls.item(1, "a")
            assert await items.receive() == "a"
            with pytest.raises(CallTimeoutError, match="within 2 s"):
                await items.receive()
            assert trio.current_time() == began + 2
            with pytest.raises(CallTimeoutError):
                items.receive_nowait()
            await stage.child.calls.wait_cancelled(1)
        stage.child.calls.item(1, "late")
        stage.child.calls.end(1)
        await wait_all_tasks_blocked()
        assert (stage.counts.pending, stage.counts.late, stage.handle.state) == (0, 1, "running")
        assert stage.child.calls.cancelled == [1]


async def test_what_came_before_the_time_was_over_is_still_read(autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("index", timeout=2) as items:
        await stage.child.calls.next()
        for item in range(3):
            stage.child.calls.item(1, item)
        await trio.sleep(10)
        stage.child.calls.say_cancelled(1)
        assert [await items.receive(), items.receive_nowait(), *(await items.receive_many())] == [0, 1, 2]
        with pytest.raises(CallTimeoutError):
            await items.receive_many()


async def test_a_reader_that_comes_long_after_the_time_was_over_hears_just_that(autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("index", timeout=2) as items:
        await stage.child.calls.next()
        stage.child.calls.item(1, "a")
        await trio.sleep(2)
        stage.child.calls.say_cancelled(1)  # by its own clock
        await trio.sleep(10)
        assert await items.receive() == "a"
        with pytest.raises(CallTimeoutError, match="within 2 s"):
            await items.receive()


async def test_a_reader_that_comes_after_the_time_hears_that_at_once(autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("index", timeout=1) as items:
        await stage.child.calls.next()
        autojump_clock.jump(1)
        with pytest.raises(CallTimeoutError):
            items.receive_nowait()


async def test_a_stream_that_has_outlived_the_scope_it_was_opened_in_says_no_number(autojump_clock: MockClock) -> None:
    async with running() as stage:
        with trio.CancelScope(deadline=trio.current_time() + 2) as scope:
            async with stage.handle.stream("index") as items:
                scope.deadline += 10
                with pytest.raises(CallTimeoutError, match="in time, and was cancelled"):
                    await items.receive()


async def test_a_cancelled_reader_loses_nothing_and_the_stream_goes_on(autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("index") as items:
        await stage.child.calls.next()
        with trio.move_on_after(1):
            await items.receive()
        stage.child.calls.item(1, "a")
        assert await items.receive() == "a"
        assert stage.child.calls.cancelled == []


@pytest.mark.parametrize("leave", ["return", "close", "error", "cancel"])
async def test_leaving_the_block_cancels_the_stream(leave: str, autojump_clock: MockClock) -> None:
    async with running() as stage:
        with trio.CancelScope() as scope:
            try:
                async with stage.handle.stream("index") as items:
                    await stage.child.calls.next()
                    stage.child.calls.item(1, "unread")
                    await wait_all_tasks_blocked()
                    if leave == "close":
                        items.close()
                        items.close()
                        with pytest.raises(trio.ClosedResourceError, match="this stream is closed"):
                            items.receive_nowait()
                    if leave == "error":
                        raise LookupError
                    if leave == "cancel":
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
            except LookupError:
                pass
        await stage.child.calls.wait_cancelled(1)
        stage.child.calls.item(1, "under way")
        stage.child.calls.say_cancelled(1)
        await wait_all_tasks_blocked()
        assert (stage.counts.pending, stage.handle.state) == (0, "running")
        assert stage.child.calls.cancelled == [1]


async def test_leaving_the_block_of_a_stream_that_has_ended_says_nothing(autojump_clock: MockClock) -> None:
    async with running() as stage:
        async with stage.handle.stream("index") as items:
            await stage.child.calls.next()
            stage.child.calls.end(1)
            assert await take_all(items) == []
        async with stage.handle.stream("index"):
            await stage.child.calls.next()
        await stage.child.calls.wait_cancelled(2)
        assert stage.child.calls.cancelled == [2]


async def test_a_channel_that_is_closed_wakes_its_reader(autojump_clock: MockClock) -> None:
    async with running() as stage, stage.handle.stream("index") as items:
        await stage.child.calls.next()

        async def close() -> None:
            await wait_all_tasks_blocked()
            await items.aclose()

        stage.nursery.start_soon(close)
        with pytest.raises(trio.ClosedResourceError):
            await items.receive()


async def test_a_generator_that_goes_on_has_its_process_killed_also_if_nobody_reads(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5) as stage:
        began = trio.current_time()
        async with stage.handle.stream("hang", timeout=2, overrun="kill"):
            await stage.child.calls.next()
            info = await stage.handle.wait_ended()
        assert trio.current_time() == began + 2.5
        assert info.state == "timed_out"
        assert "'hang' went on for 0.5 s" in (info.error or "")


async def test_a_generator_that_goes_on_after_its_block_was_left_has_its_process_killed(
    autojump_clock: MockClock,
) -> None:
    async with running(cancel_grace=0.5) as stage:
        began = trio.current_time()
        async with stage.handle.stream("hang", timeout=100, overrun="kill"):
            await stage.child.calls.next()
            await trio.sleep(1)
        info = await stage.handle.wait_ended()
        assert trio.current_time() == began + 1.5
        assert info.state == "timed_out"


async def test_a_stream_with_a_deadline_that_ends_in_time_kills_nobody(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5) as stage:
        async with stage.handle.stream("index", timeout=2, overrun="kill") as items:
            await stage.child.calls.next()
            stage.child.calls.end(1)
            assert await take_all(items) == []
        await trio.sleep(100)
        assert stage.handle.state == "running"


# ---- breaches


@pytest.mark.parametrize(
    ("says", "text"),
    [
        (lambda calls: [calls.item(1, item) for item in range(3)], "an item for call 1 beyond its credit"),
        (lambda calls: calls.answer(1), "an answer for call 1, which is a stream"),
        (lambda calls: [calls.end(1), calls.item(1, 0)], "an item for call 1, which has ended or never began"),
        (lambda calls: [calls.end(1), calls.end(1)], "an end for call 1, which has ended or never began"),
        (lambda calls: [calls.say_cancelled(1), calls.fail(1, "E", "x")], "a failure for call 1, which has ended"),
    ],
)
async def test_a_process_that_breaks_the_rules_of_streams_is_ended_as_failed(
    says: Callable[[object], object], text: str, autojump_clock: MockClock
) -> None:
    async with running() as stage, stage.handle.stream("index", window=2):
        await stage.child.calls.next()
        says(stage.child.calls)
        info = await stage.handle.wait_ended()
        assert info.state == "failed"
        assert f"broke the protocol: {text}" in (info.error or "")


async def test_credit_counts_on_after_a_stream_was_given_up(autojump_clock: MockClock) -> None:
    async with running() as stage:
        async with stage.handle.stream("index", window=2):
            await stage.child.calls.next()
        for item in range(2):
            stage.child.calls.item(1, item)
        await wait_all_tasks_blocked()
        assert stage.handle.state == "running"
        stage.child.calls.item(1, "too many")
        info = await stage.handle.wait_ended()
        assert "beyond its credit" in (info.error or "")


async def test_a_stream_that_cannot_be_sent_is_refused_on_entering(autojump_clock: MockClock) -> None:
    async with running(calls=False) as stage:
        with pytest.raises(UnknownMethodError):
            async with stage.handle.stream("index"):
                pass
        with pytest.raises(PayloadError):
            async with stage.handle.stream("index", math.nan):
                pass
