"""Inboxes: cursors, bounds, back-pressure, and the order between the processes of one worker."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from spindle_trio._errors import LaggedError
from spindle_trio._messages._hub import MessageHub, WorkerMessageChannel
from spindle_trio._messages._inbox import Inbox, ProcessMessageChannel
from spindle_trio._model import JsonValue, ProcessMessage


def inbox_of(
    name: str = "p1",
    *,
    messages: int = 3,
    size: int = 100,
    lossy: bool = False,
    hub: MessageHub | None = None,
) -> Inbox:
    """Make an inbox for that many messages and bytes."""
    return Inbox(name, "ada", max_messages=messages, max_bytes=size, lossy=lossy, hub=hub)


def put(inbox: Inbox, *payloads: JsonValue, size: int = 1) -> None:
    for payload in payloads:
        inbox.put(payload, size)


def received(channel: ProcessMessageChannel) -> list[JsonValue]:
    """Receive what is there."""
    payloads: list[JsonValue] = []
    while True:
        try:
            payloads.append(channel.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return payloads


def heard(channel: WorkerMessageChannel) -> list[tuple[str, JsonValue]]:
    """Receive what is there, with its senders."""
    messages: list[tuple[str, JsonValue]] = []
    while True:
        try:
            message = channel.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return messages
        assert message.user_id == "ada"
        messages.append((message.process_id, message.payload))


# ---- one process, its cursors


def test_a_message_goes_when_every_subscription_has_passed_it() -> None:
    inbox = inbox_of()
    one, other = inbox.subscribe(), inbox.subscribe()
    put(inbox, "a", "b")
    assert received(one) == ["a", "b"]
    assert (inbox.held, inbox.held_bytes) == (2, 2)
    assert other.receive_nowait() == "a"
    assert (inbox.held, inbox.held_bytes) == (1, 1)
    assert other.receive_nowait() == "b"
    assert (inbox.held, inbox.held_bytes, inbox.received, inbox.dropped) == (0, 0, 2, 0)


def test_a_subscription_begins_at_the_oldest_message_that_is_still_held() -> None:
    inbox = inbox_of()
    put(inbox, "a", "b")
    first = inbox.subscribe()
    assert first.receive_nowait() == "a"
    assert received(inbox.subscribe()) == ["b"]


def test_a_closed_subscription_gives_up_its_cursor() -> None:
    inbox = inbox_of()
    slow, quick = inbox.subscribe(), inbox.subscribe()
    put(inbox, "a", "b")
    assert received(quick) == ["a", "b"]
    slow.close()
    slow.close()
    assert (inbox.held, inbox.subscriptions) == (0, 1)
    with pytest.raises(trio.ClosedResourceError):
        slow.receive_nowait()


def test_a_collected_subscription_gives_up_its_cursor() -> None:
    inbox = inbox_of()
    slow, quick = inbox.subscribe(), inbox.subscribe()
    put(inbox, "a")
    assert received(quick) == ["a"]
    del slow
    gc.collect()
    assert (inbox.held, inbox.subscriptions) == (0, 1)


@pytest.mark.parametrize("reader", ["one process", "all processes", "both"])
async def test_what_a_collected_channel_has_read_nobody_reads_again(reader: str) -> None:
    """Within one step: the program has had no turn to see that the channel was collected."""
    hub = MessageHub()
    inbox = inbox_of(hub=hub, messages=100)
    put(inbox, *range(6))
    channels: dict[str, tuple[Callable[[], ProcessMessageChannel | WorkerMessageChannel], ...]] = {
        "one process": (inbox.subscribe,),
        "all processes": (hub.subscribe,),
        "both": (inbox.subscribe, hub.subscribe),
    }
    got: list[object] = []
    while len(got) < 6:
        for subscribe in channels[reader]:
            message = subscribe().receive_nowait()
            got.append(message.payload if isinstance(message, ProcessMessage) else message)
    assert got == list(range(6))
    await trio.testing.wait_all_tasks_blocked()
    put(inbox, 6)
    assert received(inbox.subscribe()) == [6]


async def test_what_is_held_beyond_the_bound_passes_from_a_collected_channel_to_the_next() -> None:
    """The bound in bytes is passed by one message, and nothing of it is lost as long as somebody listens."""
    inbox = inbox_of(messages=100, size=10)
    first = inbox.subscribe()
    put(inbox, "a", "b", "c", size=9)
    assert first.receive_nowait() == "a"
    del first
    assert received(inbox.subscribe()) == ["b", "c"]
    assert inbox.dropped == 0


async def test_a_handler_gets_nothing_that_a_collected_channel_has_read() -> None:
    hub = MessageHub()
    inbox = inbox_of(hub=hub)
    put(inbox, 1, 2)
    hub.subscribe().receive_nowait()
    handled: list[JsonValue] = []
    hub.add_handler(lambda message: handled.append(message.payload))
    assert handled == [2]


async def test_a_subscription_may_be_collected_in_any_thread() -> None:
    """A collection happens where something was allocated last, and Trio's parking lots belong to Trio's thread."""
    inbox = inbox_of(messages=1)
    held = [inbox.subscribe()]
    put(inbox, "a")

    async def resume() -> None:
        await inbox.wait_room()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(resume)
        await trio.testing.wait_all_tasks_blocked()
        other = threading.Thread(target=held.clear)
        other.start()
        other.join()
        assert inbox.subscriptions == 1, "it is given up in Trio's thread, and not in the middle of anything"
        with trio.fail_after(5):
            await trio.testing.wait_all_tasks_blocked()
    assert inbox.subscriptions == 0


def test_a_subscription_may_outlive_trio() -> None:
    async def main() -> tuple[Inbox, ProcessMessageChannel]:
        inbox = inbox_of()
        return inbox, inbox.subscribe()

    inbox, channel = trio.run(main)
    del channel
    gc.collect()
    put(inbox, "a")  # nothing was raised, here or by the collection
    assert inbox.subscriptions == 1


# ---- bounds


@pytest.mark.parametrize(("messages", "size"), [(3, 1_000), (1_000, 35)])
def test_while_nobody_listens_the_newest_up_to_the_bound_are_kept(
    messages: int, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = inbox_of(messages=messages, size=size)
    with caplog.at_level(logging.WARNING, "spindle_trio.subscriptions"):
        put(inbox, *range(10), size=10)
    assert received(inbox.subscribe()) == [7, 8, 9]
    assert (inbox.received, inbox.dropped) == (10, 7)
    (record,) = caplog.records
    assert "process p1: its messages are not read in time" in record.getMessage()


def test_while_somebody_listens_nothing_is_lost_and_the_room_says_when_to_pause() -> None:
    inbox = inbox_of(messages=3)
    assert inbox.room == 3
    channel = inbox.subscribe()
    rooms = []
    for number in range(5):
        put(inbox, number)
        rooms.append(inbox.room)
    assert rooms == [2, 1, 0, 0, 0]
    assert received(channel) == [0, 1, 2, 3, 4]
    assert (inbox.room, inbox.dropped) == (3, 0)


def test_the_room_ends_with_the_bytes_too() -> None:
    inbox = inbox_of(messages=9, size=20)
    channel = inbox.subscribe()
    put(inbox, "a", size=19)
    assert inbox.room == 8
    put(inbox, "b", size=500)  # one message may go beyond
    assert inbox.room == 0
    assert channel.receive_nowait() == "a"
    assert inbox.room == 0
    assert channel.receive_nowait() == "b"
    assert inbox.room == 9


def test_a_bound_holds_again_once_the_last_subscription_is_closed() -> None:
    inbox = inbox_of(messages=2)
    channel = inbox.subscribe()
    put(inbox, *range(5))
    channel.close()
    assert (inbox.held, inbox.dropped) == (2, 3)
    assert received(inbox.subscribe()) == [3, 4]


async def assert_wakes_a_paused_reader(inbox: Inbox, act: Callable[[], object]) -> None:
    """Let a task wait for room; it goes on after an action, and not before."""
    resumed = trio.Event()

    async def wait() -> None:
        await inbox.wait_room()
        resumed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not resumed.is_set()
        act()
        with trio.fail_after(5):
            await resumed.wait()


async def test_a_paused_reader_goes_on_when_a_message_has_been_read_by_all() -> None:
    inbox = inbox_of(messages=1)
    one, other = inbox.subscribe(), inbox.subscribe()
    put(inbox, "a")
    one.receive_nowait()
    await assert_wakes_a_paused_reader(inbox, other.receive_nowait)


async def test_a_paused_reader_goes_on_when_the_one_that_had_not_read_closes() -> None:
    inbox = inbox_of(messages=1)
    one, other = inbox.subscribe(), inbox.subscribe()
    put(inbox, "a")
    one.receive_nowait()
    await assert_wakes_a_paused_reader(inbox, other.close)


async def test_a_paused_reader_goes_on_when_nobody_listens_any_more() -> None:
    """Otherwise a process whose only reader has gone would be wedged for ever."""
    inbox = inbox_of(messages=1)
    channel = inbox.subscribe()
    put(inbox, "a")
    await assert_wakes_a_paused_reader(inbox, channel.close)
    assert inbox.room == 1


async def test_a_paused_reader_goes_on_when_it_is_told_to_look_again_and_at_the_end() -> None:
    for act in (Inbox.wake_room, Inbox.close):
        inbox = inbox_of(messages=1)
        channel = inbox.subscribe()
        put(inbox, "a")
        await assert_wakes_a_paused_reader(inbox, lambda: act(inbox))  # noqa: B023  # called at once
        assert received(channel) == ["a"]


async def test_where_there_is_room_nobody_waits() -> None:
    with trio.testing.assert_no_checkpoints():
        await inbox_of().wait_room()


# ---- a lossy inbox


def test_a_lossy_inbox_drops_the_oldest_although_somebody_listens() -> None:
    inbox = inbox_of(lossy=True)
    slow, quick = inbox.subscribe(), inbox.subscribe()
    for number in range(5):
        put(inbox, number)
        assert quick.receive_nowait() == number
        assert inbox.room == 3
    with pytest.raises(LaggedError, match="missed 2"):
        slow.receive_nowait()
    assert received(slow) == [2, 3, 4]
    assert inbox.dropped == 2


async def test_a_lag_is_told_to_whoever_waits_and_the_next_receive_goes_on() -> None:
    inbox = inbox_of(lossy=True)
    channel = inbox.subscribe()
    put(inbox, *range(4))
    with pytest.raises(LaggedError):
        await channel.receive()
    assert await channel.receive() == 1


@pytest.mark.parametrize("lossy", [False, True])
def test_beside_one_message_beyond_the_bound_of_bytes_others_are_held_up_to_it(lossy: bool) -> None:
    """So a message larger than the whole bound reaches its reader, even if more come behind it."""
    inbox = inbox_of(lossy=lossy, size=10)
    channel = inbox.subscribe() if lossy else None
    put(inbox, "huge", size=11)
    put(inbox, "small", "other", size=5)
    assert (inbox.held, inbox.held_bytes, inbox.dropped) == (3, 21, 0)
    put(inbox, "newer", size=12)
    assert (inbox.held, inbox.dropped) == (3, 1)
    if channel is not None:
        with pytest.raises(LaggedError, match="missed 1"):
            channel.receive_nowait()
        assert received(channel) == ["small", "other", "newer"]


# ---- waiting, ending


async def test_receive_waits_for_a_message_and_is_a_checkpoint_also_if_there_is_one() -> None:
    inbox = inbox_of()
    channel = inbox.subscribe()
    put(inbox, "a")
    with trio.testing.assert_checkpoints():
        assert await channel.receive() == "a"

    async def later() -> None:
        await trio.testing.wait_all_tasks_blocked()
        put(inbox, "b")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        assert await channel.receive() == "b"


async def test_of_two_that_wait_on_one_channel_each_gets_another_message() -> None:
    inbox = inbox_of()
    channel = inbox.subscribe()
    got: list[JsonValue] = []

    async def read() -> None:
        got.append(await channel.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        put(inbox, "a")
        await trio.testing.wait_all_tasks_blocked()
        assert got == ["a"]
        put(inbox, "b")
    assert got == ["a", "b"]


async def test_a_cancelled_receive_loses_nothing() -> None:
    inbox = inbox_of()
    channel = inbox.subscribe()
    with trio.move_on_after(0) as waiting:
        await channel.receive()
    put(inbox, "a")
    with trio.CancelScope() as at_once:
        at_once.cancel()
        await channel.receive()
    assert waiting.cancelled_caught
    assert at_once.cancelled_caught
    assert received(channel) == ["a"]


async def test_what_was_sent_before_the_end_is_readable_after_it() -> None:
    inbox = inbox_of()
    early = inbox.subscribe()
    put(inbox, "a", "b")
    inbox.close()
    inbox.close()
    assert "closed" in repr(inbox)
    late = inbox.subscribe()
    assert [payload async for payload in early] == ["a", "b"]
    assert [payload async for payload in late] == ["a", "b"]
    with pytest.raises(trio.EndOfChannel):
        late.receive_nowait()


async def test_the_end_wakes_whoever_waits() -> None:
    inbox = inbox_of()
    channel = inbox.subscribe()

    async def wait() -> None:
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        inbox.close()


async def test_closing_a_channel_wakes_whoever_waits() -> None:
    channel = inbox_of().subscribe()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        with trio.testing.assert_checkpoints():
            await channel.aclose()
    assert "closed" in repr(channel)


def test_inboxes_and_channels_show_themselves_as_status_lines() -> None:
    hub = MessageHub()
    inbox = inbox_of(hub=hub)
    channel, wide = inbox.subscribe(), hub.subscribe()
    put(inbox, "a")
    assert repr(inbox) == "<Inbox p1 held=1 subscriptions=2>"
    assert repr(channel) == "<ProcessMessageChannel of <Inbox p1 held=1 subscriptions=2>>"
    assert repr(wide) == "<WorkerMessageChannel waiting=1>"
    wide.close()
    assert repr(wide) == "<WorkerMessageChannel closed waiting=0>"


# ---- all processes of a worker


def test_a_hub_gives_messages_in_order_of_arrival() -> None:
    hub = MessageHub()
    one, two = inbox_of("p1", hub=hub), inbox_of("p2", hub=hub)
    put(one, "a")
    put(two, "b")
    put(one, "c")
    channel = hub.subscribe()
    put(two, "d")
    three = inbox_of("p3", hub=hub)
    put(three, "e")
    put(one, "f")
    assert heard(channel) == [("p1", "a"), ("p2", "b"), ("p1", "c"), ("p2", "d"), ("p3", "e"), ("p1", "f")]
    assert [inbox.held for inbox in (one, two, three)] == [0, 0, 0]


async def test_a_hubs_channel_reads_a_process_beyond_its_end_and_ends_with_the_worker() -> None:
    hub = MessageHub()
    inbox = inbox_of(hub=hub)
    channel = hub.subscribe()
    put(inbox, "a")
    inbox.close()
    assert await channel.receive() == ProcessMessage("p1", "a", "ada")
    assert inbox.subscriptions == 0, "nothing more can come from there"
    with pytest.raises(trio.WouldBlock):
        channel.receive_nowait()

    async def wait() -> None:
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        hub.close()
    assert [message async for message in hub.subscribe()] == []


async def test_a_hubs_channel_wakes_for_each_message_and_not_for_an_end() -> None:
    hub = MessageHub()
    one, two = inbox_of("p1", hub=hub), inbox_of("p2", hub=hub)
    channel = hub.subscribe()
    got: list[ProcessMessage] = []

    async def read() -> None:
        got.append(await channel.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        one.close()
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        assert one.subscriptions == 0
        put(two, "a")
    assert [message.payload for message in got] == ["a"]


def test_a_hubs_channel_holds_up_each_process_that_it_has_not_read() -> None:
    hub = MessageHub()
    one, two = inbox_of("p1", messages=1, hub=hub), inbox_of("p2", messages=1, hub=hub)
    channel = hub.subscribe()
    put(one, "a")
    assert (one.room, two.room) == (0, 1)
    channel.close()
    channel.close()
    assert (one.room, one.subscriptions, two.subscriptions) == (1, 0, 0)
    with pytest.raises(trio.ClosedResourceError):
        channel.receive_nowait()
    put(one, "b")
    assert received(one.subscribe()) == ["b"]


def test_a_hubs_channel_that_is_collected_holds_up_nobody() -> None:
    hub = MessageHub()
    inbox = inbox_of(messages=1, hub=hub)
    hub.subscribe()
    gc.collect()
    assert inbox.subscriptions == 0
    assert hub._channels == []


def test_a_hubs_channel_and_a_process_own_one_have_cursors_of_their_own() -> None:
    hub = MessageHub()
    inbox = inbox_of(hub=hub)
    wide, narrow = hub.subscribe(), inbox.subscribe()
    put(inbox, "a")
    assert heard(wide) == [("p1", "a")]
    assert inbox.held == 1
    assert received(narrow) == ["a"]
    assert inbox.held == 0


def test_a_lag_of_one_process_comes_in_its_place_in_the_hub() -> None:
    hub = MessageHub()
    one, two = inbox_of("p1", messages=2, lossy=True, hub=hub), inbox_of("p2", lossy=True, hub=hub)
    channel = hub.subscribe()
    put(two, "first")
    put(one, *range(4))
    put(two, "last")
    assert channel.receive_nowait().payload == "first"
    with pytest.raises(LaggedError, match="missed 2"):
        channel.receive_nowait()
    assert heard(channel) == [("p1", 2), ("p1", 3), ("p2", "last")]


def test_a_process_that_has_ended_is_forgotten_once_what_it_lost_has_been_told() -> None:
    hub = MessageHub()
    inbox = inbox_of(size=1, lossy=True, hub=hub)
    channel = hub.subscribe()
    put(inbox, "a", "b", size=2)
    inbox.close()
    with pytest.raises(LaggedError, match="missed 1"):
        channel.receive_nowait()
    assert heard(channel) == [("p1", "b")]
    assert inbox.subscriptions == 0


def test_a_hubs_channel_that_nobody_reads_does_not_grow_with_what_lossy_inboxes_drop() -> None:
    hub = MessageHub()
    quiet, loud = inbox_of("quiet", lossy=True, hub=hub), inbox_of("loud", lossy=True, hub=hub)
    channel = hub.subscribe()
    put(quiet, "before")
    put(loud, *range(20_000))
    put(quiet, "after")
    assert len(channel._arrivals.queue) < 3_000
    assert channel.receive_nowait().payload == "before"
    with pytest.raises(LaggedError, match="missed 19997"):
        channel.receive_nowait()
    assert heard(channel) == [("loud", 19_997), ("loud", 19_998), ("loud", 19_999), ("quiet", "after")]


# ---- handlers


def test_a_handler_is_called_at_the_arrival_and_before_channels_are_fed() -> None:
    hub = MessageHub()
    inbox = inbox_of(hub=hub)
    channel = hub.subscribe()
    calls: list[tuple[JsonValue, int]] = []
    hub.add_handler(lambda message: calls.append((message.payload, len(heard(channel)))))
    put(inbox, "a", "b")
    assert calls == [("a", 0), ("b", 1)]
    assert heard(channel) == [("p1", "b")]


def test_a_handler_counts_as_a_subscription_that_is_never_behind() -> None:
    hub = MessageHub()
    inbox = inbox_of(messages=1, hub=hub)
    unsubscribe = hub.add_handler(lambda _: None)
    put(inbox, *range(10))
    assert (inbox.held, inbox.dropped, inbox.subscriptions, inbox.room) == (0, 0, 1, 1)
    channel = inbox.subscribe()
    put(inbox, "a")
    assert (inbox.held, inbox.subscriptions, inbox.room) == (1, 2, 0)
    unsubscribe()
    assert inbox.subscriptions == 1
    assert received(channel) == ["a"]


def test_the_first_handler_gets_what_was_kept_while_nobody_listened_in_order_of_arrival() -> None:
    hub = MessageHub()
    one, two = inbox_of("p1", hub=hub), inbox_of("p2", hub=hub)
    put(one, "a")
    put(two, "b")
    put(one, "c")
    first, second = list[JsonValue](), list[JsonValue]()
    hub.add_handler(lambda message: first.append(message.payload))
    assert first == ["a", "b", "c"]
    assert (one.held, two.held) == (0, 0)
    hub.add_handler(lambda message: second.append(message.payload))
    put(two, "d")
    assert (first, second) == (["a", "b", "c", "d"], ["d"])


def test_a_subscription_that_a_handler_opens_reads_each_message_once() -> None:
    """The message that the handler was called with is held, and then arrives: it must not be there twice."""
    hub = MessageHub()
    inbox = inbox_of(hub=hub)
    opened: list[WorkerMessageChannel] = []

    def subscribe(_: ProcessMessage) -> None:
        if not opened:
            opened.append(hub.subscribe())

    hub.add_handler(subscribe)
    put(inbox, "a", "b")
    inbox.close()
    assert heard(opened[0]) == [("p1", "a"), ("p1", "b")]
    assert inbox.subscriptions == 1, "the handler's"


def test_a_subscription_that_a_handler_opens_survives_the_end_of_the_process() -> None:
    hub = MessageHub()
    inbox = inbox_of(hub=hub)
    opened: list[WorkerMessageChannel] = []
    hub.add_handler(lambda _: opened.append(hub.subscribe()))
    put(inbox, "a")
    assert opened[0].receive_nowait().payload == "a"
    inbox.close()
    with pytest.raises(trio.WouldBlock):
        opened[0].receive_nowait()


def test_an_inbox_without_a_hub_has_no_handlers_to_tell() -> None:
    inbox = inbox_of()
    put(inbox, "a")
    assert inbox.subscriptions == 0
    assert inbox.held == 1


def test_what_ended_before_the_first_handler_came_is_kept_for_channels() -> None:
    hub = MessageHub()
    inbox = inbox_of(hub=hub)
    put(inbox, "a", "b")
    inbox.close()
    seen: list[ProcessMessage] = []
    hub.add_handler(seen.append)
    first = inbox.subscribe()
    assert first.receive_nowait() == "a"
    first.close()
    assert seen == []
    assert received(inbox.subscribe()) == ["b"]


def test_a_lag_keeps_its_place_also_in_a_queue_that_was_swept() -> None:
    hub = MessageHub()
    quiet, loud = inbox_of("quiet", lossy=True, hub=hub), inbox_of("loud", lossy=True, hub=hub)
    channel = hub.subscribe()
    put(loud, "lost")
    put(quiet, "later")
    put(loud, *range(5_000))
    with pytest.raises(LaggedError, match="missed 4998"):
        channel.receive_nowait()
    assert heard(channel) == [("quiet", "later"), ("loud", 4_997), ("loud", 4_998), ("loud", 4_999)]


def test_a_handler_that_has_heard_enough_does_not_hear_it_again_later() -> None:
    hub = MessageHub()
    inbox = inbox_of(hub=hub)
    seen: list[JsonValue] = []

    def once(message: ProcessMessage) -> None:
        seen.append(message.payload)
        unsubscribe()

    unsubscribe = hub.add_handler(once)
    put(inbox, "a", "b")
    assert (seen, inbox.held) == (["a"], 1)
    unsubscribe = hub.add_handler(once)
    assert seen == ["a", "b"]


# ---- in batches


async def test_receive_many_gives_all_that_is_held_in_one_checkpoint() -> None:
    inbox = inbox_of(messages=10)
    channel = inbox.subscribe()
    inbox.put_many(["a", "b", "c"], [1, 2, 3])
    assert (inbox.held, inbox.held_bytes, inbox.received) == (3, 6, 3)
    with trio.testing.assert_checkpoints():
        assert await channel.receive_many(2) == ["a", "b"]
    assert (inbox.held, inbox.held_bytes) == (1, 3)
    put(inbox, "d")
    assert await channel.receive_many() == ["c", "d"]
    assert (inbox.held, inbox.held_bytes) == (0, 0)


async def test_receive_many_waits_for_a_message_and_raises_what_receive_does() -> None:
    inbox = inbox_of(messages=10)
    channel = inbox.subscribe()
    received: list[JsonValue] = []

    async def receive() -> None:
        received.extend(await channel.receive_many())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        inbox.put_many(["a", "b"], [1, 1])
    assert received == ["a", "b"]
    put(inbox, "last")
    inbox.close()
    assert await channel.receive_many() == ["last"]
    with pytest.raises(trio.EndOfChannel):
        await channel.receive_many()
    channel.close()
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive_many()


@pytest.mark.parametrize("most", [0, -1])
async def test_receive_many_never_returns_nothing(most: int) -> None:
    hub = MessageHub()
    inbox = inbox_of(hub=hub)
    put(inbox, "a")
    for channel in (inbox.subscribe(), hub.subscribe()):
        with pytest.raises(ValueError, match="at least one message"):
            await channel.receive_many(most)
        assert len(await channel.receive_many(1)) == 1


async def test_a_cancelled_receive_many_loses_nothing() -> None:
    inbox = inbox_of(messages=10)
    channel = inbox.subscribe()
    with trio.move_on_after(0) as waiting:
        await channel.receive_many()
    inbox.put_many(["a", "b"], [1, 1])
    with trio.CancelScope() as at_once:
        at_once.cancel()
        await channel.receive_many()
    assert waiting.cancelled_caught
    assert at_once.cancelled_caught
    assert await channel.receive_many() == ["a", "b"]


async def test_of_two_that_wait_for_many_one_gets_them_and_the_other_goes_on_waiting() -> None:
    inbox = inbox_of(messages=10)
    channel = inbox.subscribe()
    received: list[list[JsonValue]] = []

    async def receive() -> None:
        received.append(await channel.receive_many())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        inbox.put_many(["a", "b"], [1, 1])
        await trio.testing.wait_all_tasks_blocked()
        assert received == [["a", "b"]]
        put(inbox, "c")
    assert received == [["a", "b"], ["c"]]


async def test_a_lag_is_told_between_what_came_before_it_and_what_came_after() -> None:
    hub = MessageHub()
    one, two = inbox_of("p1", lossy=True, hub=hub), inbox_of("p2", lossy=True, hub=hub)
    channel = hub.subscribe()
    put(two, "before")
    one.put_many([0, 1, 2, 3, 4], [1] * 5)
    assert [message.payload for message in await channel.receive_many()] == ["before"]
    with pytest.raises(LaggedError) as caught:
        await channel.receive_many()
    assert caught.value.missed == 2
    assert [message.payload for message in await channel.receive_many()] == [2, 3, 4]


async def test_a_hubs_channel_gives_many_in_order_of_arrival_with_their_senders() -> None:
    hub = MessageHub()
    one, two = inbox_of("p1", messages=10, hub=hub), inbox_of("p2", messages=10, hub=hub)
    channel = hub.subscribe()
    one.put_many(["a", "b"], [1, 1])
    two.put_many(["c", "d"], [1, 1])
    put(one, "e")
    assert repr(channel) == "<WorkerMessageChannel waiting=5>"
    assert await channel.receive_many(3) == [
        ProcessMessage("p1", "a", "ada"),
        ProcessMessage("p1", "b", "ada"),
        ProcessMessage("p2", "c", "ada"),
    ]
    assert repr(channel) == "<WorkerMessageChannel waiting=2>"
    one.close()
    assert [message.payload for message in await channel.receive_many()] == ["d", "e"]
    hub.close()
    with pytest.raises(trio.EndOfChannel):
        await channel.receive_many()


def test_while_nobody_listens_a_batch_beyond_the_bound_keeps_its_newest() -> None:
    inbox = inbox_of(messages=3)
    inbox.put_many(list(range(10)), [1] * 10)
    assert (inbox.held, inbox.dropped, inbox.received) == (3, 7, 10)
    assert received(inbox.subscribe()) == [7, 8, 9]


def test_a_handler_sees_no_message_of_a_batch_before_its_turn() -> None:
    hub = MessageHub()
    inbox = inbox_of(messages=10, hub=hub)
    seen: list[tuple[JsonValue, int]] = []
    hub.add_handler(lambda message: seen.append((message.payload, inbox.received)))
    inbox.put_many(["a", "b", "c"], [1, 1, 1])
    assert seen == [("a", 1), ("b", 2), ("c", 3)]
    assert inbox.held == 0


async def test_a_full_inbox_of_many_is_read_into_again_once_that_is_worth_a_turn() -> None:
    """Not for each message that leaves it: the reader would be woken as often as there are messages."""
    inbox = inbox_of(messages=64, size=1_000)
    channel = inbox.subscribe()
    inbox.put_many(list(range(64)), [1] * 64)
    resumed = trio.Event()

    async def wait() -> None:
        await inbox.wait_room()
        resumed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        channel.receive_nowait()
        await trio.testing.wait_all_tasks_blocked()
        assert not resumed.is_set()
        channel.receive_nowait()
        await trio.testing.wait_all_tasks_blocked()
        assert resumed.is_set()


async def test_a_reader_looks_again_for_a_quick_answer_and_lets_other_tasks_bring_it() -> None:
    inbox = inbox_of()
    channel = inbox.subscribe()

    async def answer(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        put(inbox, number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            inbox.note_sent()
            nursery.start_soon(answer, number)
            assert await channel.receive() == number
    assert inbox.spinning is not None
    assert inbox.spinning.begin() == 0  # nothing was sent since
