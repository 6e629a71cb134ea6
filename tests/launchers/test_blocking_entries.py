"""The frames that a `def` entry sends and takes, on real processes that are driven by hand.

What can be seen through a host is in `tests/contract`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from spindle_trio._model import Limits

if TYPE_CHECKING:
    from conftest import Launch


def kinds(frames: list[dict[str, object]]) -> list[object]:
    return [frame["type"] for frame in frames]


# ---- how an entry ends


@pytest.mark.parametrize(
    ("statement", "word", "code"),
    [
        ("process.complete(5)", "complete", 0),
        ("process.fail('  no luck ')", "fail", 1),
        ("raise SystemExit(0)", "complete", 0),
        ("raise SystemExit(3)", None, 3),
        ("raise SystemExit('out of paper')", None, 1),
        ("raise BaseExceptionGroup('', [SystemExit(0), ValueError()])", "fail", 1),
        ("raise KeyboardInterrupt", "fail", 1),
    ],
)
async def test_each_way_to_end_says_its_word_and_keeps_its_code(
    launch: Launch, statement: str, word: str | None, code: int
) -> None:
    async with launch(f"""
        def run(process):
            process.ready()
            {statement}
    """) as child:
        frames = await child.last_frames()
    assert kinds(frames) == ["ready", *([word] if word else []), "exiting"]
    assert frames[-1]["code"] == code


async def test_complete_ends_it_through_its_finally_blocks_whose_messages_count(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.ready()
            try:
                process.send(1)
                process.complete("first")
            finally:
                process.send(2)
                try:
                    process.fail("second")
                finally:
                    process.send(3)
    """) as child:
        assert await child.last_frames() == [
            {"type": "ready", "protocol": 2},
            {"type": "complete", "result": "first", "messages": 1},
            {"type": "exiting", "messages": 3, "code": 0},
        ]
        assert [await child.payload() for _ in range(3)] == [1, 2, 3]


async def test_a_long_or_unencodable_error_is_cut_and_still_arrives(launch: Launch) -> None:
    async with launch("""
        def run(process):
            raise ValueError("begin" + "\\x00\\udc80" * 2_000_000 + "end")
    """) as child:
        fail, _ = await child.last_frames()
    assert fail["error"].startswith("ValueError: begin")
    assert fail["error"].endswith("end (Traceback: entry.py:3 in run)")
    assert len(fail["error"]) < 1_100
    assert fail["traceback"].startswith("Traceback (most recent call last):")
    assert fail["traceback"].endswith("end")
    assert 60_000 < len(fail["error"]) + len(fail["traceback"]) < 70_000


# ---- stop


async def test_a_stop_raises_system_exit_at_the_next_call_and_at_each_later_one(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.ready()
            calls = [process.heartbeat, process.ready, process.receive, lambda: process.sleep(9), process.receive]
            for call in calls:
                while True:
                    try:
                        call() if call is not calls[0] else process.sleep(5)
                    except SystemExit as end:
                        process.send(type(end).__name__)
                        break
            process.heartbeat()
    """) as child:
        await child.frame_of_type("ready")
        child.stop("enough")
        assert [await child.payload() for _ in range(5)] == ["EntryEnd"] * 5
        assert (await child.last_frames())[1:] == [
            {"type": "stopped", "messages": 5},
            {"type": "exiting", "messages": 5, "code": 0},
        ]


async def test_a_second_stop_frame_is_not_told_again(launch: Launch) -> None:
    async with launch("""
        def run(process):
            notices = []
            process.on_stop(notices.append)
            process.ready()
            while not notices:
                process.sleep(0.001)
            process.heartbeat()
            return [notice.reason for notice in notices]
    """) as child:
        await child.frame_of_type("ready")
        child.stop("make room")
        child.stop("again")
        assert (await child.frame_of_type("complete"))["result"] == ["make room"]


async def test_a_stop_is_heard_inside_a_message_handler_that_waits(launch: Launch) -> None:
    """Messages wait for the handler that is at work, so that they stay in order; a stop waits for nobody."""
    async with launch("""
        def run(process):
            def slow(message):
                process.send(["begin", message])
                process.sleep(60)
            process.on_message(slow)
            process.on_stop(lambda notice: process.complete("stopped inside"))
            process.ready()
    """) as child:
        child.send(1)
        child.send(2)
        assert await child.payload() == ["begin", 1]
        child.stop()
        assert (await child.frame_of_type("complete"))["messages"] == 1


async def test_a_stop_before_the_call_ends_it_without_calling_it(launch: Launch) -> None:
    async with launch("raise RuntimeError('loaded')", begin=False) as child:
        child.process.request_stop()
        child.begin()
        child.stop()
        assert await child.last_frames() == [
            {"type": "stopped", "messages": 0},
            {"type": "exiting", "messages": 0, "code": 0},
        ]


async def test_a_complete_while_stopping_is_the_entrys_own_word(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.ready()
            try:
                process.sleep(60)
            finally:
                process.complete("saved")
    """) as child:
        await child.frame_of_type("ready")
        child.stop()
        assert (await child.last_frames())[1:] == [
            {"type": "complete", "result": "saved", "messages": 0},
            {"type": "exiting", "messages": 0, "code": 0},
        ]


# ---- messages


async def test_messages_wait_until_they_are_received_in_order(launch: Launch) -> None:
    async with launch(
        """
        def run(process):
            process.ready()
            return [process.receive(), process.receive(timeout=5), process.receive(0)]
    """,
        begin=False,
    ) as child:
        for number in range(3):
            child.send({"number": number})
        child.begin()
        assert (await child.frame_of_type("complete"))["result"] == [{"number": 0}, {"number": 1}, {"number": 2}]


async def test_the_limits_in_its_first_frame_hold_for_what_it_sends_and_for_its_result(launch: Launch) -> None:
    async with launch(
        """
        from spindle_trio import PayloadError
        def run(process):
            refused = []
            for give in (process.send, process.complete):
                for payload in ("x" * 1_600, [10**9] * 250):
                    try:
                        give(payload)
                    except PayloadError as error:
                        refused.append(str(error))
            process.send("fine")
            return refused
    """,
        limits=Limits(frame_bytes=2000, text_bytes=1500),
    ) as child:
        complete, _ = await child.last_frames()
        assert await child.payload() == "fine"
    assert complete["messages"] == 1
    assert [text.partition(":")[0] for text in complete["result"]] == ["payload"] * 2 + ["result"] * 2
    assert ["1500" in text for text in complete["result"]] == [True, False] * 2
    assert ["2000 in one frame" in text for text in complete["result"]] == [False, True] * 2


async def test_a_send_that_waits_beats_and_goes_on_when_the_host_reads(launch: Launch) -> None:
    async with launch(
        """
        def run(process):
            process.ready()
            for number in range(20):
                process.send("x" * 100_000)
    """,
        heartbeat_timeout=0.1,
    ) as child:
        await child.frame_of_type("ready")
        process = child.process
        # Three beats that lie apart: nobody reads, so they are those of the waiting send.
        first = process.last_heartbeat()
        for _ in range(3):
            while process.last_heartbeat() - first < 0.02:
                await trio.testing.wait_all_tasks_blocked(0.005)
            first = process.last_heartbeat()
        for _ in range(20):
            assert len(await child.payload()) == 100_000
        assert (await child.frame_of_type("exiting"))["messages"] == 20


async def test_a_stop_reaches_a_child_whose_pipes_are_full_both_ways(launch: Launch) -> None:
    """Rule 9: control frames have a socket of their own, and a waiting send listens to it."""
    async with launch("""
        def run(process):
            process.on_stop(lambda notice: process.complete("told"))
            process.ready()
            while True:
                process.send("x" * 10_000)
    """) as child:
        await child.frame_of_type("ready")
        while child.process.messages.send_nowait(b'"' + b"y" * 10_000 + b'"'):
            pass
        child.stop()
        complete = await child.frame_of_type("complete")
        assert complete["result"] == "told"
        for _ in range(complete["messages"]):
            assert len(await child.payload()) == 10_000
        assert (await child.frame_of_type("exiting"))["messages"] == complete["messages"]


async def test_a_handler_may_send_while_a_send_waits_and_no_frame_is_torn(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.on_message(lambda message: process.send(["heard", message]))
            process.ready()
            process.send("a" * 900_000)
            process.complete()
    """) as child:
        await child.frame_of_type("ready")
        child.send("hello")
        received = [await child.payload(), await child.payload()]
        assert len(received[0]) == 900_000
        assert received[1] == ["heard", "hello"]
        assert (await child.frame_of_type("exiting"))["messages"] == 2


# ---- heartbeats


async def test_heartbeats_count_from_ready_on_and_are_told_on_the_hosts_clock(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.heartbeat()
            process.send("beaten before ready")
            process.receive()
            process.ready()
            process.receive()
            process.heartbeat()
            process.send("beaten")
            process.receive()
    """) as child:
        await child.payload()
        assert child.process.last_heartbeat() == float("-inf")
        before = trio.current_time()
        child.send(1)
        await child.frame_of_type("ready")
        ready = child.process.last_heartbeat()
        assert before <= ready + 0.001
        assert ready <= trio.current_time()
        child.send(2)
        await child.payload()
        assert ready <= child.process.last_heartbeat() <= trio.current_time()
