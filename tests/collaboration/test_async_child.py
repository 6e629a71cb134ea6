"""The runtime of `async` entries over bare memory lanes: what an entry does, and what the host hears of it."""

from __future__ import annotations

import gc
import itertools
import json
import math
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from spindle_trio import PayloadError
from spindle_trio.child import ProcessContext, StopNotice
from spindle_trio.child._async_messages import MessageChannel
from spindle_trio.child._async_runtime import ChildEnd
from support.async_child import Host, end_of, running, some_facts

# Facts and repr.


async def test_the_context_shows_the_facts(autojump_clock: MockClock) -> None:
    seen: list[ProcessContext] = []

    async def entry(process: ProcessContext) -> None:
        seen.append(process)
        assert repr(process) == "<ProcessContext starting dist/entry.py p1>"
        process.ready()
        assert repr(process) == "<ProcessContext running dist/entry.py p1>"

    await end_of(entry, some_facts(heartbeat_timeout=3))
    (process,) = seen
    assert (process.process_id, process.entry, process.kind, process.key) == ("p1", "dist/entry.py", "kind", "key")
    assert (process.payload, process.has_payload, process.metadata) == ({"a": [1]}, True, {"m": 1})
    assert (process.user_id, process.heartbeat_timeout) == ("ada", 3)
    assert repr(process) == "<ProcessContext completed dist/entry.py p1>"


# Returning and raising.


async def test_a_returned_value_completes(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> object:
        process.ready()
        return {"done": 3}

    host = await end_of(entry)
    assert host.frames_so_far() == [
        {"type": "ready"},
        {"type": "complete", "result": {"done": 3}, "messages": 0},
    ]
    assert host.end == ChildEnd(0, 0)


async def test_a_returned_value_that_is_not_json_safe_fails(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> object:
        return {"done": {1, 2}}

    host = await end_of(entry)
    (frame,) = host.frames_so_far()
    assert frame == {
        "type": "fail",
        "error": "PayloadError: result.done: set is not JSON-safe: send a list",
        "messages": 0,
    }
    assert host.end == ChildEnd(1, 0)


async def test_an_exception_fails_with_its_type_message_and_traceback_of_the_entrys_own_code(
    autojump_clock: MockClock,
) -> None:
    async def entry(process: ProcessContext) -> None:
        raise LookupError("no such chat")

    host = await end_of(entry, some_facts(frame_bytes=100_000))
    (frame,) = host.frames_so_far()
    error, traceback = str(frame["error"]), str(frame["traceback"])
    assert frame["type"] == "fail"
    assert error.startswith("LookupError: no such chat (Traceback: test_async_child.py:")
    assert error.endswith(" in entry)")
    assert 'raise LookupError("no such chat")' in traceback
    assert "_async_runtime" not in traceback, "the runtime's own frames tell the author of an entry nothing"
    assert host.end == ChildEnd(1, 0)


async def test_an_exception_group_fails_with_all_that_it_holds(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        raise ExceptionGroup("two troubles", [ValueError("one"), KeyError("two")])

    host = await end_of(entry, some_facts(frame_bytes=100_000))
    (frame,) = host.frames_so_far()
    assert str(frame["error"]).splitlines() == [
        "ExceptionGroup: two troubles (2 sub-exceptions) [ValueError: one; KeyError: 'two']"
    ]
    assert "ValueError: one" in str(frame["traceback"])
    assert "KeyError: 'two'" in str(frame["traceback"])


async def test_of_a_large_group_the_first_members_are_named(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        raise ExceptionGroup("many\ntroubles", [ValueError(number) for number in range(5)])

    host = await end_of(entry, some_facts(frame_bytes=100_000))
    assert host.frames_so_far()[0]["error"] == (
        "ExceptionGroup: many | troubles (5 sub-exceptions) [ValueError: 0; ValueError: 1; ValueError: 2; …]"
    )


@pytest.mark.parametrize("raised", [RuntimeError, SystemExit, KeyboardInterrupt])
async def test_an_exception_whose_message_cannot_be_made_fails_all_the_same(
    autojump_clock: MockClock, raised: type[BaseException]
) -> None:
    """Even if making it exits the program: an entry's exception must not end its runtime."""

    is_unspeakable = True  # while the entry runs: a test that fails has to show it

    class Unspeakable(Exception):
        def __str__(self) -> str:
            if is_unspeakable:
                raise raised
            return "was unspeakable"

    async def entry(process: ProcessContext) -> None:
        raise Unspeakable

    try:
        host = await end_of(entry, some_facts(frame_bytes=100_000))
    finally:
        is_unspeakable = False
    (frame,) = host.frames_so_far()
    assert frame["type"] == "fail"
    assert "Unspeakable: (its message could not be made)" in str(frame["error"])


async def test_a_failure_too_long_for_a_frame_is_cut_in_the_middle(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        process.fail("first " + "\0" * 5000 + " last")

    host = await end_of(entry, some_facts(frame_bytes=900))
    (frame,) = host.frames_so_far()
    assert len(json.dumps(frame)) <= 900
    assert str(frame["error"]).startswith("first ")
    assert str(frame["error"]).endswith(" last"), "the end of the text stays"


@pytest.mark.parametrize("room", [900, 10_000])
async def test_a_traceback_has_the_room_that_the_error_leaves(autojump_clock: MockClock, room: int) -> None:
    async def entry(process: ProcessContext) -> None:
        raise RuntimeError("first " + "\0" * 5000 + " last")

    host = await end_of(entry, some_facts(frame_bytes=room))
    (frame,) = host.frames_so_far()
    assert len(json.dumps(frame)) <= room
    assert str(frame["error"]).startswith("RuntimeError: first ")
    assert str(frame["error"]).endswith(" in entry)")
    assert ("traceback" in frame) == (room == 10_000)
    assert str(frame.get("traceback", " last")).endswith(" last")


async def test_keyboard_interrupt_of_the_entry_fails(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        raise KeyboardInterrupt

    host = await end_of(entry)
    assert host.frames_so_far()[0]["type"] == "fail"


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(),
        SystemExit(0),
        ExceptionGroup.__mro__[1]("group", [SystemExit(0), SystemExit(None)]),
    ],
    ids=["none", "zero", "in a group"],
)
async def test_system_exit_with_nothing_wrong_completes_with_none(
    autojump_clock: MockClock, error: BaseException
) -> None:
    async def entry(process: ProcessContext) -> None:
        raise error

    host = await end_of(entry)
    assert host.frames_so_far() == [{"type": "complete", "result": None, "messages": 0}]
    assert host.end == ChildEnd(0, 0)


async def test_system_exit_with_a_code_says_no_final_word(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        async with trio.open_nursery():
            raise SystemExit(3)

    host = await end_of(entry)
    assert host.frames_so_far() == []
    assert host.end == ChildEnd(3, 0)


async def test_system_exit_with_a_text_shows_it_and_exits_with_1(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        raise SystemExit("the disk is full")

    host = await end_of(entry)
    assert host.reports == ["the disk is full"]
    assert host.end == ChildEnd(1, 0)


async def test_system_exit_beside_another_exception_fails(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        raise BaseExceptionGroup("both", [SystemExit(0), ValueError("but")])

    host = await end_of(entry)
    assert host.frames_so_far()[0]["type"] == "fail"


# ready, complete, fail.


async def test_ready_complete_and_fail_count_once(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> str:
        process.ready()
        process.ready()
        process.complete(1)
        process.complete(2)
        process.fail("too late")
        process.ready()
        return "also too late"

    host = await end_of(entry)
    assert host.frames_so_far() == [{"type": "ready"}, {"type": "complete", "result": 1, "messages": 0}]


async def test_complete_cancels_the_entry_at_its_next_checkpoint_and_finally_blocks_run(
    autojump_clock: MockClock,
) -> None:
    steps: list[str] = []

    async def entry(process: ProcessContext) -> None:
        try:
            process.complete("done")
            steps.append("after complete")
            await trio.sleep_forever()
        finally:
            process.send_nowait("from finally")
            with trio.CancelScope(shield=True):
                await process.send("from a shielded finally")

    host = await end_of(entry)
    assert steps == ["after complete"]
    assert host.frames_so_far() == [{"type": "complete", "result": "done", "messages": 0}]
    assert host.messages_so_far() == ["from finally", "from a shielded finally"]
    assert host.end == ChildEnd(0, 2), "the program's last frame has the final count"


async def test_what_is_raised_after_the_final_word_is_reported_only(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        process.complete("done")
        raise ValueError("in the aftermath")

    host = await end_of(entry)
    assert [frame["type"] for frame in host.frames_so_far()] == ["complete"]
    assert "ValueError: in the aftermath" in host.reports[0]
    assert host.end == ChildEnd(0, 0)


async def test_fail_trims_its_text_and_takes_nothing_else(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        with pytest.raises(TypeError):
            process.fail(ValueError("no text"))  # type: ignore[arg-type]
        process.fail("  broken pipe \n")

    host = await end_of(entry)
    assert host.frames_so_far() == [{"type": "fail", "error": "broken pipe", "messages": 0}]
    assert host.end == ChildEnd(1, 0)


async def test_a_result_that_is_not_json_safe_is_refused_and_nothing_happens(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> str:
        with pytest.raises(PayloadError, match="result"):
            process.complete(object())
        with pytest.raises(PayloadError, match="1000 in one frame"):
            process.complete("x" * 1000)
        await trio.lowlevel.checkpoint()
        return "went on"

    host = await end_of(entry)
    assert host.frames_so_far() == [{"type": "complete", "result": "went on", "messages": 0}]


async def test_a_task_of_the_entry_may_complete_it(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        async def worker() -> None:
            await trio.sleep(1)
            process.complete("by a task")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker)
            await trio.sleep_forever()

    host = await end_of(entry)
    assert host.frames_so_far() == [{"type": "complete", "result": "by a task", "messages": 0}]


# Messages out.


async def test_messages_arrive_in_order_and_are_counted(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        for number in range(100):
            if number % 2:
                await process.send(number)
            else:
                process.send_nowait(number)

    async with running(entry) as host:
        got: list[object] = []
        while len(got) < 100:
            got.append(await host.message())
    assert got == list(range(100))
    assert host.frames_so_far() == [{"type": "complete", "result": None, "messages": 100}]


async def test_send_returns_once_the_message_is_in_the_lane(autojump_clock: MockClock) -> None:
    """An entry may stop yielding right after: what it sent must not depend on a task that never runs again."""
    host = Host()
    looks: list[list[object]] = []

    async def entry(process: ProcessContext) -> None:
        await process.send("out")
        looks.append(host.messages_so_far())

    await host.run(entry, some_facts())
    assert looks == [["out"]]
    assert host.end == ChildEnd(0, 1)


async def test_send_waits_while_the_host_does_not_read_and_send_nowait_would_block(autojump_clock: MockClock) -> None:
    blocked_at: list[int] = []

    async def entry(process: ProcessContext) -> None:
        payload = "x" * 500
        try:
            while True:
                process.send_nowait(payload)
                blocked_at.append(1)
        except trio.WouldBlock:
            pass
        await process.send("waited")

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        assert host.end is None
        assert 16 <= len(blocked_at) <= 20
        while await host.message() != "waited":
            pass
    assert host.end == ChildEnd(0, len(blocked_at) + 1)


async def test_a_waiting_send_beats(autojump_clock: MockClock) -> None:
    """A child is not judged for the host's pauses (contract, rule 8)."""

    async def entry(process: ProcessContext) -> None:
        process.ready()
        for _ in range(17):
            await process.send(0)

    async with running(entry, some_facts(heartbeat_timeout=15)) as host:
        before = trio.current_time()
        await trio.sleep(60)
        host.messages_so_far()
    beats = [at - before for at in host.beats]
    assert max(late - early for early, late in itertools.pairwise(beats)) == 5
    assert beats[-1] >= 55


async def test_a_cancelled_send_that_had_no_room_was_not_sent(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> int:
        sent = 0
        with trio.move_on_after(1):
            while True:
                await process.send("x" * 900)
                sent += 1
        return sent

    async with running(entry) as host:
        await trio.sleep(2)
        await wait_all_tasks_blocked()
        got = 0
        while host.end is None or host.messages_so_far():
            got += len(host.messages_so_far())
            await trio.sleep(1)
    (frame,) = host.frames_so_far()
    assert frame["messages"] == got


async def test_tasks_that_send_together_are_served_in_turn_and_beat_while_they_wait(
    autojump_clock: MockClock,
) -> None:
    async def entry(process: ProcessContext) -> None:
        process.ready()

        async def send_some(task: int) -> None:
            for number in range(20):
                await process.send([task, number, "x" * 300])

        async with trio.open_nursery() as nursery:
            for task in range(5):
                nursery.start_soon(send_some, task)

    async with running(entry, some_facts(heartbeat_timeout=6)) as host:
        before = trio.current_time()
        await trio.sleep(20)
        assert host.end is None
        assert {at - before for at in host.beats} >= set(range(0, 20, 2))
        got: list[object] = []
        while len(got) < 100:
            got.append(await host.message())
    for task in range(5):
        numbers = [message[1] for message in got if isinstance(message, list) and message[0] == task]
        assert numbers == list(range(20))
    assert host.end == ChildEnd(0, 100)


async def test_a_send_that_is_cancelled_while_it_waits_for_room_is_not_sent(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(process.send, [number, "x" * 600])
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        got = 0
        while host.end is None:
            got += len(host.messages_so_far())
            await trio.lowlevel.checkpoint()
        got += len(host.messages_so_far())
    (frame,) = host.frames_so_far()
    assert 16 <= got < 20
    assert frame["messages"] == got


async def test_a_payload_that_is_not_json_safe_is_refused_at_the_sender(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        with pytest.raises(PayloadError, match=r"payload\[1\]: tuple is not JSON-safe"):
            await process.send([1, (2,)])
        with pytest.raises(PayloadError, match="nan is not JSON-safe"):
            process.send_nowait(math.nan)
        with pytest.raises(PayloadError, match="in one frame"):
            process.send_nowait("x" * 1000)

    host = await end_of(entry)
    assert host.messages_so_far() == []
    assert host.frames_so_far() == [{"type": "complete", "result": None, "messages": 0}]


# Heartbeats.


async def test_heartbeats_count_from_ready_on(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        process.heartbeat()
        await trio.sleep(1)
        process.ready()
        await trio.sleep(1)
        process.heartbeat()

    before = trio.current_time()
    host = await end_of(entry)
    assert [at - before for at in host.beats] == [1, 2]


@pytest.mark.parametrize("is_early", [True, False], ids=["before ready", "after ready"])
async def test_beat_while_running_beats_until_the_end(autojump_clock: MockClock, is_early: bool) -> None:
    async def entry(process: ProcessContext) -> Callable[[], None]:
        if is_early:
            process.beat_while_running()
        await trio.sleep(10)
        process.ready()
        if not is_early:
            process.beat_while_running()
        process.beat_while_running()
        await trio.sleep(30)
        return lambda: None

    async with running(entry, some_facts(heartbeat_timeout=15)) as host:
        before = trio.current_time()
        await trio.sleep(62)
        host.stop()
    assert sorted({at - before for at in host.beats}) == list(range(10, 62, 5))


async def test_nothing_beats_where_nobody_watches(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        process.ready()
        process.beat_while_running()
        await trio.sleep(1000)

    host = await end_of(entry)
    assert len(host.beats) == 1


# Messages in.


async def test_messages_wait_until_the_entry_asks(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> list[object]:
        await trio.sleep(10)
        got: list[object] = []
        async for payload in process.messages():
            got.append(payload)
            if len(got) == 40:
                return got
        return got

    async with running(entry, some_facts(frame_bytes=5000)) as host:
        await host.send(*range(16))
        await wait_all_tasks_blocked()
        await host.send(*range(16, 40))
    assert host.frames_so_far()[0]["result"] == list(range(40))


async def test_unread_messages_hold_up_the_host(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        channel = process.messages()
        assert await channel.receive() == 0
        await process.wait_stop()

    async with running(entry) as host:
        with trio.move_on_after(5) as scope:
            await host.send(*range(1000))
        assert scope.cancelled_caught
        host.stop()


async def test_a_channel_of_messages_has_a_short_repr(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> list[object]:
        channel = process.messages()
        shown: list[object] = [repr(channel)]
        channel.close()
        return [*shown, repr(channel)]

    host = await end_of(entry)
    assert host.frames_so_far()[0]["result"] == ["<MessageChannel open>", "<MessageChannel closed>"]


async def test_a_handler_and_each_channel_get_every_message(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> list[object]:
        handled: list[object] = []
        process.on_message(handled.append)
        unsubscribe = process.on_message(handled.append)
        one, two = process.messages(), process.messages()
        got = [await one.receive(), await one.receive(), await two.receive(), await two.receive()]
        unsubscribe()
        unsubscribe()
        return [handled, got]

    async with running(entry) as host:
        await host.send("a", "b")
    assert host.frames_so_far()[0]["result"] == [["a", "b"], ["a", "b", "a", "b"]]


@pytest.mark.parametrize("waits_for_collection", [False, True])
async def test_a_broken_off_loop_is_followed_by_what_comes_next_each_time(
    autojump_clock: MockClock, waits_for_collection: bool
) -> None:
    """A collected channel does not count for the next caller, even before this program has had its turn to notice."""

    async def entry(process: ProcessContext) -> list[object]:
        got: list[object] = []
        while len(got) < 20:
            async for payload in process.messages():
                got.append(payload)
                break
            if waits_for_collection:
                await trio.lowlevel.checkpoint()
        return got

    async with running(entry) as host:
        await host.send(*range(20))
    assert host.frames_so_far()[0]["result"] == list(range(20))


async def test_a_handler_gets_nothing_that_a_broken_off_loop_has_had(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        async for _ in process.messages():
            break
        handled: list[object] = []
        process.on_message(handled.append)
        await trio.sleep(1)
        process.complete(handled)

    async with running(entry) as host:
        await host.send(1, 2, 3, 4)
    assert host.frames_so_far()[0]["result"] == [2, 3, 4]


async def test_a_broken_off_loop_leaves_what_it_has_not_received_to_the_next(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> list[object]:
        got: list[object] = []
        for _ in range(3):
            async for payload in process.messages():
                got.append(payload)
                break
            gc.collect()
            await trio.lowlevel.checkpoint()
        return got

    async with running(entry) as host:
        await host.send(1, 2, 3)
    assert host.frames_so_far()[0]["result"] == [1, 2, 3]


async def test_a_collected_channel_keeps_nobody_waiting(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> list[object]:
        forgotten = process.messages()
        kept = process.messages()
        got = [await kept.receive(), await kept.receive()]
        del forgotten
        gc.collect()
        return [*got, await kept.receive()]

    async with running(entry) as host:
        await host.send(1, 2)
        await wait_all_tasks_blocked()
        await host.send(3)
    assert host.frames_so_far()[0]["result"] == [1, 2, 3]


async def test_a_closed_channel_is_closed_for_its_reader_and_keeps_nobody_waiting(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> object:
        one, two = process.messages(), process.messages()

        async def closed_while_waiting() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await one.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(closed_while_waiting)
            await wait_all_tasks_blocked()
            await one.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await one.receive()
        return await two.receive()

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        await host.send("for two")
    assert host.frames_so_far()[0]["result"] == "for two"


async def test_a_cancelled_receive_loses_nothing(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> object:
        channel = process.messages()
        with trio.move_on_after(1):
            await channel.receive()
        return await channel.receive()

    async with running(entry) as host:
        await trio.sleep(2)
        await host.send("kept")
    assert host.frames_so_far()[0]["result"] == "kept"


async def test_a_handler_that_raises_is_reported_and_the_others_still_run(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        def broken(payload: object) -> None:
            raise ZeroDivisionError("in the handler")

        process.on_message(broken)
        process.on_message(process.complete)
        await trio.sleep_forever()

    async with running(entry, some_facts(frame_bytes=100_000)) as host:
        await host.send("through")
    assert "on_message handler" in host.reports[0]
    assert "ZeroDivisionError: in the handler" in host.reports[0]
    assert host.frames_so_far()[0]["result"] == "through"


async def test_a_handler_that_has_been_taken_back_does_not_run_even_in_the_same_round(
    autojump_clock: MockClock,
) -> None:
    async def entry(process: ProcessContext) -> list[object]:
        got: list[object] = []

        def first(payload: object) -> None:
            unsubscribe_second()

        unsubscribe_first = process.on_message(first)
        unsubscribe_second = process.on_message(got.append)
        await process.messages().receive()
        unsubscribe_first()
        return got

    async with running(entry) as host:
        await host.send("once")
    assert host.frames_so_far()[0]["result"] == []


async def test_no_handler_runs_after_the_final_word(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        process.on_message(process.send_nowait)
        process.on_message(lambda payload: process.complete() if payload == 2 else None)
        await trio.sleep_forever()

    async with running(entry) as host:
        await host.send(1, 2, 3)
    assert host.messages_so_far() == [1, 2]


@pytest.mark.parametrize("register", ["on_message", "on_stop"])
async def test_handlers_are_plain_functions(autojump_clock: MockClock, register: str) -> None:
    async def coroutine_function(value: object) -> None: ...

    class Callable_:  # noqa: N801
        async def __call__(self, value: object) -> None: ...

        async def method(self, value: object) -> None: ...

    async def entry(process: ProcessContext) -> None:
        for handler in (coroutine_function, Callable_(), Callable_().method):
            with pytest.raises(TypeError, match="is async"):
                getattr(process, register)(handler)
        with pytest.raises(TypeError, match="not int"):
            getattr(process, register)(3)

    host = await end_of(entry)
    assert host.frames_so_far()[0]["type"] == "complete"


async def test_a_handler_that_returns_a_coroutine_is_reported(autojump_clock: MockClock) -> None:
    async def lost() -> None: ...

    async def entry(process: ProcessContext) -> None:
        process.on_message(lambda payload: lost())
        await process.messages().receive()
        process.complete()

    async with running(entry) as host:
        await host.send(1)
    assert "returned a coroutine" in host.reports[0]


async def test_sys_exit_in_a_message_handler_ends_the_process(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        def leave(payload: object) -> None:
            raise SystemExit(payload)

        process.on_message(leave)
        await trio.sleep_forever()

    async with running(entry) as host:
        await host.send(5, 6)
    assert host.end == ChildEnd(5, 0)
    async with running(entry) as host:
        await host.send(0)
    assert host.frames_so_far() == [{"type": "complete", "result": None, "messages": 0}]


async def test_receive_nowait_takes_what_has_been_read(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> object:
        channel = process.messages()
        assert isinstance(channel, MessageChannel)
        with pytest.raises(trio.WouldBlock):
            channel.receive_nowait()
        await trio.sleep(1)
        return [channel.receive_nowait(), channel.receive_nowait()]

    async with running(entry) as host:
        await host.send(1, 2)
    assert host.frames_so_far()[0]["result"] == [1, 2]


@pytest.mark.parametrize("is_broken", [False, True], ids=["closed", "nonsense"])
async def test_messages_end_when_their_lane_does(autojump_clock: MockClock, is_broken: bool) -> None:
    async def entry(process: ProcessContext) -> object:
        got = [payload async for payload in process.messages()]
        with pytest.raises(trio.EndOfChannel):
            await process.messages().receive()
        return got

    async with running(entry) as host:
        await host.send(1)
        if is_broken:
            assert host.messages.send_nowait(b"{")
        else:
            host.messages.close()
    assert host.frames_so_far()[0]["result"] == [1]
    assert [report.partition(": ")[0] for report in host.reports] == [
        "the host sent a message that is not JSON"
    ] * is_broken


async def test_a_handler_begins_with_the_oldest_message_still_held(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> object:
        async for payload in process.messages():
            assert payload == 1
            break
        got: list[object] = []
        process.on_message(got.append)
        process.on_message(lambda payload: process.complete(got) if payload == 3 else None)
        await trio.sleep_forever()
        return None

    async with running(entry) as host:
        await host.send(1, 2, 3)
    assert host.frames_so_far()[0]["result"] == [2, 3]


async def test_a_channel_gives_many_messages_at_once(autojump_clock: MockClock) -> None:
    seen: list[object] = []

    async def entry(process: ProcessContext) -> None:
        async with process.messages() as channel, process.messages() as other:
            seen.append(await channel.receive_many(2))
            seen.append(await channel.receive_many())
            with trio.move_on_after(1) as scope:
                await channel.receive_many()
            assert scope.cancelled_caught
            seen.append([await other.receive(), *await other.receive_many()])
            with pytest.raises(ValueError, match="at least one message"):
                await other.receive_many(0)
            seen.append(await channel.receive_many())
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive_many()

    async with running(entry) as host:
        await host.send(1, 2, 3, 4)
        await trio.sleep(2)
        await host.send(5, 6)
    assert seen == [[1, 2], [3, 4], [1, 2, 3, 4], [5, 6]]


# Stops.


async def test_a_stop_that_is_there_before_the_entry_is_called_ends_the_process_without_calling_it(
    autojump_clock: MockClock,
) -> None:
    async def entry(process: ProcessContext) -> None:
        raise AssertionError("called")

    host = Host()
    host.stop("early")
    await host.run(entry, some_facts())
    assert host.frames_so_far() == [{"type": "stopped", "messages": 0}]
    assert host.end == ChildEnd(0, 0)


async def test_a_stop_that_nobody_wants_to_hear_of_cancels_the_entry(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        process.ready()
        try:
            await trio.sleep_forever()
        finally:
            process.send_nowait("cleaned up")

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.stop()
    assert host.frames_so_far() == [{"type": "ready"}, {"type": "stopped", "messages": 1}]
    assert host.messages_so_far() == ["cleaned up"]
    assert host.end == ChildEnd(0, 1)


async def test_an_entry_that_swallows_the_cancellation_and_returns_has_completed(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:  # noqa: ASYNC103  # what is tested
            return "rescued"  # noqa: ASYNC104

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.stop()
    assert host.frames_so_far() == [{"type": "complete", "result": "rescued", "messages": 0}]


async def test_an_entry_that_raises_something_else_during_the_cancellation_has_failed(
    autojump_clock: MockClock,
) -> None:
    async def entry(process: ProcessContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("while cleaning up")

    async with running(entry, some_facts(frame_bytes=100_000)) as host:
        await wait_all_tasks_blocked()
        host.stop()
    (frame,) = host.frames_so_far()
    assert frame["type"] == "fail"
    assert "ValueError: while cleaning up" in str(frame["error"])


async def test_stop_handlers_are_told_once_in_order_and_the_entry_ends_itself(autojump_clock: MockClock) -> None:
    notices: list[tuple[str, StopNotice]] = []

    async def entry(process: ProcessContext) -> str:
        done = trio.Event()

        def broken(notice: StopNotice) -> None:
            raise ValueError("first handler")

        process.on_stop(broken)
        process.on_stop(lambda notice: notices.append(("second", notice)))
        process.on_stop(lambda notice: done.set())
        await done.wait()
        await trio.sleep(1)
        return "by itself"

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.stop("enough")
        host.stop("again")
    assert notices == [("second", StopNotice("enough"))]
    assert host.frames_so_far() == [{"type": "complete", "result": "by itself", "messages": 0}]
    assert "first handler" in host.reports[0]


async def test_wait_stop_is_told_and_is_a_level(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> list[object]:
        first = await process.wait_stop()
        second = await process.wait_stop()
        assert first is second
        return [first.reason, second.reason]

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.stop("level")
    assert host.frames_so_far()[0]["result"] == ["level", "level"]


async def test_a_stop_without_a_reason_says_none(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> object:
        return (await process.wait_stop()).reason

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.stop()
    assert host.frames_so_far()[0] == {"type": "complete", "result": None, "messages": 0}


async def test_the_runtime_looks_once_when_the_stop_arrives(autojump_clock: MockClock) -> None:
    """A waiter that has been cancelled, and a handler that has been taken back, do not count."""

    async def entry(process: ProcessContext) -> None:
        process.on_stop(lambda notice: None)()
        with trio.move_on_after(1):
            await process.wait_stop()
        await trio.sleep_forever()

    async with running(entry) as host:
        await trio.sleep(2)
        host.stop()
    assert host.frames_so_far() == [{"type": "stopped", "messages": 0}]


async def test_a_handler_registered_after_the_stop_is_not_called(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        await process.wait_stop()
        process.on_stop(lambda notice: process.fail("called"))
        await trio.sleep(1)
        process.complete()

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.stop()
    assert host.frames_so_far()[0]["type"] == "complete"


async def test_a_stop_after_the_final_word_changes_nothing(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        process.on_stop(lambda notice: process.send_nowait("told"))
        process.complete("first")
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    async with running(entry) as host:
        await trio.sleep(1)
        host.stop()
    assert host.frames_so_far() == [{"type": "complete", "result": "first", "messages": 0}]
    assert host.messages_so_far() == []


async def test_sys_exit_in_a_handler_ends_the_process(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        def leave(notice: StopNotice) -> None:
            raise SystemExit(4)

        process.on_stop(leave)
        await trio.sleep_forever()

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.stop()
    assert host.frames_so_far() == []
    assert host.end == ChildEnd(4, 0)


# Living on after the return.


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize("ender", ["complete", "fail", "stop"])
async def test_an_entry_that_returned_a_clean_up_function_lives_on_and_cleans_up_once(
    autojump_clock: MockClock, is_async: bool, ender: str
) -> None:
    cleaned: list[str] = []

    async def entry(process: ProcessContext) -> object:
        def finish(payload: object) -> None:
            if ender == "complete":
                process.complete("by handler")
            else:
                process.fail("by handler")

        if ender != "stop":
            process.on_message(finish)

        def clean_up() -> None:
            cleaned.append("up")
            process.send_nowait("from clean-up")

        async def async_clean_up() -> None:
            await trio.sleep(1)
            clean_up()

        process.ready()
        return async_clean_up if is_async else clean_up

    async with running(entry) as host:
        await trio.sleep(100)
        assert host.end is None
        if ender == "stop":
            host.stop()
        else:
            await host.send("now")
    assert cleaned == ["up"]
    _, frame = host.frames_so_far()
    assert frame["type"] == {"complete": "complete", "fail": "fail", "stop": "stopped"}[ender]
    assert frame["messages"] == (1 if ender == "stop" else 0), "a stop waits for the clean-up, a final word does not"
    assert host.messages_so_far() == ["from clean-up"]
    assert host.end == ChildEnd(1 if ender == "fail" else 0, 1)


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_handler_left_registered_keeps_the_process_alive(autojump_clock: MockClock, is_told: bool) -> None:
    async def entry(process: ProcessContext) -> str:
        process.ready()
        process.on_message(process.send_nowait)
        if is_told:
            process.on_stop(lambda notice: process.complete("told"))
        return "no result"

    async with running(entry) as host:
        await trio.sleep(10)
        await host.send("still there?")
        assert await host.message() == "still there?"
        host.stop()
    assert host.frames_so_far()[1:] == [
        {"type": "complete", "result": "told", "messages": 1} if is_told else {"type": "stopped", "messages": 1}
    ]


async def test_an_entry_that_was_told_of_a_stop_completes_by_returning_with_its_handler_registered(
    autojump_clock: MockClock,
) -> None:
    """Otherwise the usual `on_stop(lambda notice: done.set())` would leave every such entry to the grace period."""

    async def entry(process: ProcessContext) -> str:
        done = trio.Event()
        process.on_stop(lambda notice: done.set())
        await done.wait()
        return "result"

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.stop()
    assert host.frames_so_far() == [{"type": "complete", "result": "result", "messages": 0}]


async def test_an_entry_that_was_told_of_a_stop_and_returns_a_clean_up_function_cleans_up_and_completes(
    autojump_clock: MockClock,
) -> None:
    cleaned: list[str] = []

    async def entry(process: ProcessContext) -> Callable[[], None]:
        await process.wait_stop()
        return lambda: cleaned.append("up")

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.stop()
    assert cleaned == ["up"]
    assert host.frames_so_far() == [{"type": "complete", "result": None, "messages": 0}]


async def test_complete_and_then_a_returned_clean_up_function_runs_it(autojump_clock: MockClock) -> None:
    cleaned: list[str] = []

    async def entry(process: ProcessContext) -> Callable[[], None]:
        process.complete("now")
        return lambda: cleaned.append("up")

    host = await end_of(entry)
    assert cleaned == ["up"]
    assert host.frames_so_far() == [{"type": "complete", "result": "now", "messages": 0}]


async def test_a_clean_up_function_that_raises_is_reported_and_changes_nothing(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> Callable[[], None]:
        def clean_up() -> None:
            raise OSError("cannot delete")

        return clean_up

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.stop()
    assert host.frames_so_far() == [{"type": "stopped", "messages": 0}]
    assert "OSError: cannot delete" in host.reports[0]


# The host's end, and a kill.


async def test_the_end_of_the_control_lane_ends_the_entry(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        process.ready()
        await trio.sleep_forever()

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.control.close()
        host.messages.close()
    assert host.is_told_of_loss
    assert host.end == ChildEnd(1, 0)


async def test_a_host_that_is_gone_before_the_entry_is_called(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        raise AssertionError("called")

    host = Host()
    host.control.close()
    await host.run(entry, some_facts())
    assert host.end == ChildEnd(1, 0)


async def test_a_host_that_talks_nonsense_counts_as_gone(autojump_clock: MockClock) -> None:
    async def entry(process: ProcessContext) -> None:
        await trio.sleep_forever()

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        host.say({"type": "dance"})
    assert "broke the protocol" in host.reports[0]
    assert host.is_told_of_loss


@pytest.mark.parametrize("moment", ["in the entry", "living on", "cleaning up", "flushing"])
async def test_a_cancellation_from_outside_passes_through_and_nothing_is_said(
    autojump_clock: MockClock, moment: str
) -> None:
    async def entry(process: ProcessContext) -> object:
        process.ready()
        if moment == "in the entry":
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("no word of a process that was killed")
        if moment == "living on":
            return lambda: process.fail("cleaned up")
        if moment == "flushing":
            for _ in range(17):
                process.send_nowait(0)
            return None
        process.complete()
        return trio.sleep_forever

    async with running(entry) as host:
        await wait_all_tasks_blocked()
        before = host.frames_so_far()
        host.scope.cancel()
    assert host.end is None
    assert host.scope.cancelled_caught
    assert [frame["type"] for frame in before + host.frames_so_far()][:1] == ["ready"]
    assert "fail" not in [frame["type"] for frame in host.frames_so_far()]
