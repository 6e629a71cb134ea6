"""Lifecycle fan-out: handlers and then channels, in one order for all, and a publisher that is never held up."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Callable

import pytest
import trio
import trio.testing

from spindle_trio._errors import LaggedError
from spindle_trio._messages._broadcast import Broadcast, HandlerList, LifecycleChannel


@pytest.fixture
def broadcast() -> Broadcast[int]:
    return Broadcast[int]("numbers", 3)


def publish(broadcast: Broadcast[int], *values: int) -> None:
    for value in values:
        broadcast.publish(value, "p1")


def received(channel: LifecycleChannel[int]) -> list[int]:
    """Receive what is there."""
    values: list[int] = []
    while True:
        try:
            values.append(channel.receive_nowait())
        except trio.WouldBlock:
            return values


# ---- handlers


def test_handlers_are_called_in_order_of_registration_and_each_once(broadcast: Broadcast[int]) -> None:
    calls: list[tuple[str, int]] = []

    def first(value: int) -> None:
        calls.append(("first", value))

    def second(value: int) -> None:
        calls.append(("second", value))

    broadcast.add_handler(first)
    broadcast.add_handler(second)
    broadcast.add_handler(first)
    publish(broadcast, 1, 2)
    assert calls == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]


def test_a_method_counts_once_too_and_its_object_is_not_another(broadcast: Broadcast[int]) -> None:
    one, other = list[int](), list[int]()
    for handler in (one.append, one.append, other.append):
        broadcast.add_handler(handler)
    publish(broadcast, 7)
    assert (one, other) == ([7], [7])


def test_what_cannot_be_called_is_no_handler(broadcast: Broadcast[int]) -> None:
    with pytest.raises(TypeError, match="a handler of numbers must be callable, not str"):
        broadcast.add_handler("print")  # type: ignore[arg-type]  # what is tested


def test_none_runs_after_its_unsubscribe_which_may_be_called_twice(broadcast: Broadcast[int]) -> None:
    seen: list[int] = []
    unsubscribe = broadcast.add_handler(seen.append)
    publish(broadcast, 1)
    unsubscribe()
    unsubscribe()
    publish(broadcast, 2)
    assert seen == [1]


def test_an_old_unsubscribe_does_not_take_a_later_registration_away(broadcast: Broadcast[int]) -> None:
    seen: list[int] = []
    first = broadcast.add_handler(seen.append)
    first()
    second = broadcast.add_handler(seen.append)
    first()
    publish(broadcast, 1)
    assert seen == [1]
    second()
    publish(broadcast, 2)
    assert seen == [1]


def test_the_unsubscribe_of_a_repeated_registration_takes_the_one_registration_away(broadcast: Broadcast[int]) -> None:
    """A function that is registered twice counts once: so either unsubscribe ends it."""
    seen: list[int] = []
    broadcast.add_handler(seen.append)
    again = broadcast.add_handler(seen.append)
    again()
    publish(broadcast, 1)
    assert seen == []


def test_a_handler_that_another_has_just_taken_away_is_not_called(broadcast: Broadcast[int]) -> None:
    seen: list[int] = []
    undo: list[Callable[[], None]] = []
    broadcast.add_handler(lambda _: undo[0]())
    undo.append(broadcast.add_handler(seen.append))
    publish(broadcast, 1)
    assert seen == []


def test_a_handler_that_is_taken_away_and_registered_again_meanwhile_hears_the_next_value(
    broadcast: Broadcast[int],
) -> None:
    seen: list[int] = []
    undo: list[Callable[[], None]] = []

    def again(_: int) -> None:
        undo[0]()
        undo[0] = broadcast.add_handler(seen.append)

    broadcast.add_handler(again)
    undo.append(broadcast.add_handler(seen.append))
    publish(broadcast, 1)
    assert seen == []


@pytest.mark.parametrize("kind", [LookupError, SystemExit, BaseException])
def test_a_handler_that_raises_is_logged_and_disturbs_nothing(
    broadcast: Broadcast[int], caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    """Whatever it is: a ``sys.exit()`` that went on from here would leave the publisher's scopes half closed."""
    seen: list[int] = []

    def faulty(value: int) -> None:
        raise kind(f"no {value}")

    broadcast.add_handler(faulty)
    broadcast.add_handler(seen.append)
    channel = broadcast.subscribe()
    with caplog.at_level(logging.ERROR, "spindle_trio.subscriptions"):
        publish(broadcast, 1)
    assert seen == [1]
    assert received(channel) == [1]
    (record,) = caplog.records
    assert "a handler of numbers raised, for process p1" in record.getMessage()
    assert record.exc_info is not None
    assert type(record.exc_info[1]) is kind


def test_handlers_are_true_while_there_is_one() -> None:
    handlers = HandlerList[int]("numbers")
    assert not handlers
    unsubscribe = handlers.add(print)
    assert handlers
    unsubscribe()
    assert not handlers


# ---- channels


async def test_channels_are_fed_after_the_handlers(broadcast: Broadcast[int]) -> None:
    channel = broadcast.subscribe()
    before: list[list[int]] = []
    broadcast.add_handler(lambda _: before.append(received(channel)))
    publish(broadcast, 1, 2)
    assert before == [[], [1]]
    assert received(channel) == [2]


async def test_a_channel_receives_what_is_published_from_then_on(broadcast: Broadcast[int]) -> None:
    publish(broadcast, 1)
    channel = broadcast.subscribe()
    publish(broadcast, 2)
    with trio.testing.assert_checkpoints():
        assert await channel.receive() == 2

    async def later() -> None:
        await trio.testing.wait_all_tasks_blocked()
        publish(broadcast, 3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        assert await channel.receive() == 3


async def test_a_channel_that_a_handler_opens_begins_with_the_next_value(broadcast: Broadcast[int]) -> None:
    """Also while values wait that were published before it: they are not "from now on"."""
    opened: list[LifecycleChannel[int]] = []

    def on_value(value: int) -> None:
        if value == 1:
            publish(broadcast, 2)
            opened.append(broadcast.subscribe())
            publish(broadcast, 3)

    broadcast.add_handler(on_value)
    publish(broadcast, 1)
    assert received(opened[0]) == [3]


async def test_a_value_published_by_a_handler_comes_after_the_one_that_it_was_called_with(
    broadcast: Broadcast[int],
) -> None:
    """All subscribers see one order: the second value waits until everybody has had the first."""
    seen: list[int] = []
    broadcast.add_handler(lambda value: publish(broadcast, value * 10) if value < 10 else None)
    broadcast.add_handler(seen.append)
    channel = broadcast.subscribe()
    publish(broadcast, 1)
    assert seen == [1, 10]
    assert received(channel) == [1, 10]


def test_a_ctrl_c_during_a_handler_is_no_error_of_the_handlers(broadcast: Broadcast[int]) -> None:
    """It is the program's, and comes when the handlers and channels have had the value."""
    seen: list[int] = []

    def interrupted(value: int) -> None:
        signal.raise_signal(signal.SIGINT)
        seen.append(value)

    async def main() -> None:
        broadcast.add_handler(interrupted)
        channel = broadcast.subscribe()
        try:
            publish(broadcast, 1)
        finally:
            seen.extend(received(channel))
        await trio.lowlevel.checkpoint()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert seen == [1, 1]


async def test_a_channel_that_falls_behind_loses_the_oldest_and_says_so_once(broadcast: Broadcast[int]) -> None:
    slow, quick = broadcast.subscribe(), broadcast.subscribe()
    for value in range(5):
        publish(broadcast, value)
        assert received(quick) == [value]
    assert "waiting=3 missed=2" in repr(slow)
    with pytest.raises(LaggedError) as caught, trio.testing.assert_checkpoints():
        await slow.receive()
    assert caught.value.missed == 2
    assert [await slow.receive() for _ in range(3)] == [2, 3, 4]
    publish(broadcast, 5, 6, 7, 8)
    with pytest.raises(LaggedError, match="missed 1 value"):
        slow.receive_nowait()
    assert received(slow) == [6, 7, 8]


async def test_two_readers_of_one_channel_hear_of_one_lag(broadcast: Broadcast[int]) -> None:
    channel = broadcast.subscribe()
    publish(broadcast, *range(5))
    outcomes: list[int | str] = []

    async def read() -> None:
        try:
            outcomes.append(await channel.receive())
        except LaggedError:
            outcomes.append("lagged")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(read)
    assert sorted(map(str, outcomes)) == ["2", "lagged"]


async def test_a_cancelled_receive_loses_nothing(broadcast: Broadcast[int]) -> None:
    channel = broadcast.subscribe()
    publish(broadcast, *range(4))
    for _ in range(2):
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.receive()
        assert scope.cancelled_caught
    with pytest.raises(LaggedError):
        await channel.receive()
    assert received(channel) == [1, 2, 3]


async def test_a_closed_broadcast_ends_channels_once_they_have_been_read(broadcast: Broadcast[int]) -> None:
    channel = broadcast.subscribe()
    publish(broadcast, 1)
    broadcast.close()
    publish(broadcast, 2)
    assert [value async for value in channel] == [1]
    with pytest.raises(trio.EndOfChannel):
        channel.receive_nowait()
    assert [value async for value in broadcast.subscribe()] == []


async def test_closing_wakes_whoever_waits_and_may_be_done_twice(broadcast: Broadcast[int]) -> None:
    channel = broadcast.subscribe()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        with trio.testing.assert_checkpoints():
            await channel.aclose()
    channel.close()
    publish(broadcast, 1)
    with pytest.raises(trio.ClosedResourceError):
        channel.receive_nowait()


async def test_a_closed_channel_says_that_it_is_closed_also_if_it_had_fallen_behind(broadcast: Broadcast[int]) -> None:
    channel = broadcast.subscribe()
    publish(broadcast, *range(9))
    channel.close()
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive()


async def test_a_channel_that_a_handler_closes_is_fed_no_more(broadcast: Broadcast[int]) -> None:
    channel, other = broadcast.subscribe(), broadcast.subscribe()
    broadcast.add_handler(lambda _: channel.close())
    publish(broadcast, 1)
    assert received(other) == [1]


async def test_a_channel_that_nobody_holds_is_forgotten(broadcast: Broadcast[int]) -> None:
    kept = broadcast.subscribe()
    broadcast.subscribe()
    gc.collect()
    assert broadcast._open_channels() == [kept]
    assert len(broadcast._channels) == 1
    publish(broadcast, 1)
    assert received(kept) == [1]
