"""What a `def` entry can do and what becomes of it, on real processes that are driven frame by frame."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from spindle_trio._model import Limits
from spindle_trio.abc import ExitStatus

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Launch


def kinds(frames: list[dict[str, object]]) -> list[object]:
    return [frame["type"] for frame in frames]


# ---- how an entry ends


async def test_what_it_returns_completes_it(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.ready()
            return {"words": 3}
    """) as child:
        assert await child.last_frames() == [
            {"type": "ready"},
            {"type": "complete", "result": {"words": 3}, "messages": 0},
            {"type": "exiting", "messages": 0, "code": 0},
        ]


async def test_what_it_raises_fails_it_with_type_message_and_traceback(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.ready()
            raise ValueError("no such book")
    """) as child:
        _, fail, exiting = await child.last_frames()
    assert fail["error"] == "ValueError: no such book (Traceback: entry.py:4 in run)"
    assert "entry.py" in fail["traceback"]
    assert fail["traceback"].endswith("ValueError: no such book")
    assert "_blocking_runtime" not in fail["traceback"]  # the library's own frames tell an author nothing
    assert exiting["code"] == 1


@pytest.mark.parametrize(
    ("statement", "word", "code"),
    [
        ("process.complete(5)", "complete", 0),
        ("process.fail('  no luck ')", "fail", 1),
        ("raise SystemExit", "complete", 0),
        ("raise SystemExit(0)", "complete", 0),
        ("raise BaseExceptionGroup('', [SystemExit(0), BaseExceptionGroup('', [SystemExit()])])", "complete", 0),
        ("raise SystemExit(3)", None, 3),
        ("raise BaseExceptionGroup('', [SystemExit(0), SystemExit(3)])", None, 3),
        ("raise SystemExit('out of paper')", None, 1),
        ("raise BaseExceptionGroup('', [SystemExit(0), ValueError()])", "fail", 1),
        ("raise KeyboardInterrupt", "fail", 1),
        ("return {1, 2}", "fail", 1),
        ("return [1.5, float('nan')]", "fail", 1),
        ("return (x for x in [])", "fail", 1),
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


async def test_os_exit_ends_it_without_a_word(launch: Launch) -> None:
    async with launch("""
        import os
        def run(process):
            process.ready()
            os._exit(7)
    """) as child:
        assert await child.process.wait() == ExitStatus(code=7)
        assert await child.frame() == {"type": "ready"}
        with pytest.raises(trio.EndOfChannel):
            await child.frame()


async def test_a_crash_is_told_by_its_signal(launch: Launch) -> None:
    async with launch("""
        import os, signal
        def run(process):
            os.kill(os.getpid(), signal.SIGSEGV)
    """) as child:
        assert await child.process.wait() == ExitStatus(signal=signal.SIGSEGV)
        assert str(await child.process.wait()) == "killed by SIGSEGV"


async def test_what_it_sent_before_a_crash_is_readable_after_it(launch: Launch) -> None:
    """The exit comes from the pidfd, and says nothing about what is still in the sockets (rule 5)."""
    async with launch("""
        import os
        def run(process):
            process.ready()
            process.send("last words")
            os.abort()
    """) as child:
        assert await child.process.wait() == ExitStatus(signal=signal.SIGABRT)
        assert await child.payload() == "last words"
        assert await child.frame() == {"type": "ready"}


async def test_complete_ends_it_through_its_finally_blocks_whose_messages_count(launch: Launch) -> None:
    async with launch("""
        def run(process):
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
            {"type": "complete", "result": "first", "messages": 1},
            {"type": "exiting", "messages": 3, "code": 0},
        ]
        assert [await child.payload() for _ in range(3)] == [1, 2, 3]


async def test_a_result_that_is_not_json_safe_is_refused_where_it_is_given(launch: Launch) -> None:
    async with launch("""
        from spindle_trio import PayloadError
        def run(process):
            process.ready()
            for value in ({1}, "x" * (1 << 24)):
                try:
                    process.complete(value)
                except PayloadError as error:
                    process.send(str(error))
            return "fine"
    """) as child:
        frames = await child.last_frames()
        assert await child.payload() == "result: set is not JSON-safe: send a list"
        assert "16777216 in one frame" in await child.payload()
    assert frames[1]["result"] == "fine"


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


async def test_an_exception_whose_text_cannot_be_made_still_fails_it(launch: Launch) -> None:
    async with launch("""
        class Silent(Exception):
            def __str__(self):
                raise RuntimeError
        def run(process):
            raise Silent
    """) as child:
        fail, _ = await child.last_frames()
    assert fail["error"].startswith("Silent: (its message could not be made)")


async def test_a_plain_function_that_returns_a_coroutine_fails_clearly(launch: Launch) -> None:
    async with launch("""
        async def work(): ...
        def run(process):
            return work()
    """) as child:
        fail, _ = await child.last_frames()
        await child.process.wait()
        assert "never awaited" not in child.process.stderr_tail()
    assert "a plain function returned an awaitable; make it `async def`" in fail["error"]


# ---- living on


async def test_it_lives_on_through_a_clean_up_function_until_a_stop(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.ready()
            return lambda: process.send("cleaned up")
    """) as child:
        assert await child.frame() == {"type": "ready"}
        child.stop()
        assert (await child.last_frames())[1:] == [
            {"type": "stopped", "messages": 1},
            {"type": "exiting", "messages": 1, "code": 0},
        ]
        assert await child.payload() == "cleaned up"


async def test_it_lives_on_through_a_message_handler_until_that_completes_it(launch: Launch) -> None:
    async with launch("""
        def run(process):
            def heard(message):
                process.send(["heard", message])
                if message == "enough":
                    process.complete("done")
            process.on_message(heard)
            process.ready()
            return "not the result"
    """) as child:
        child.send("a word")
        child.send("enough")
        frames = await child.last_frames()
        assert [await child.payload() for _ in range(2)] == [["heard", "a word"], ["heard", "enough"]]
    assert frames[1] == {"type": "complete", "result": "done", "messages": 2}


async def test_a_clean_up_function_runs_once_when_a_handler_ends_it_and_its_error_is_reported(launch: Launch) -> None:
    async with launch("""
        def run(process):
            def clean_up():
                print("cleaning", flush=True)
                raise ValueError("not clean")
            process.on_message(lambda message: process.fail(message))
            return clean_up
    """) as child:
        child.send("by message")
        assert (await child.last_frames())[0]["error"] == "by message"
        await child.process.wait()
        assert child.process.stdout_tail() == "cleaning\n"
        assert "the clean-up function raised ValueError: not clean" in child.process.stderr_tail()


async def test_a_handler_that_raises_is_reported_and_the_others_run(launch: Launch) -> None:
    async with launch("""
        def run(process):
            def broken(message):
                raise KeyError("broken handler")
            process.on_message(broken)
            process.on_message(lambda message: process.complete(message))
    """) as child:
        child.send("still here")
        assert (await child.last_frames())[0]["result"] == "still here"
        await child.process.wait()
        assert (
            "the on_message handler run.<locals>.broken raised KeyError: 'broken handler'"
            in child.process.stderr_tail()
        )


async def test_a_handler_counts_once_and_runs_no_more_after_its_unsubscribe(launch: Launch) -> None:
    async with launch("""
        def run(process):
            handled = []
            def handler(message):
                handled.append(message)
            first, second = process.on_message(handler), process.on_message(handler)
            while not handled:
                process.sleep(0.001)
            first(); first(); second()
            process.ready()
            process.complete([handled, process.receive()])
    """) as child:
        child.send("one")
        await child.frame_of_type("ready")
        child.send("two")
        assert (await child.frame_of_type("complete"))["result"] == [["one"], "two"]


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


async def test_a_stop_reaches_an_entry_that_only_beats(launch: Launch) -> None:
    """A heartbeat makes no system call; the mark in the shared page tells it to look."""
    async with launch("""
        def run(process):
            process.ready()
            while True:
                process.heartbeat()
    """) as child:
        await child.frame_of_type("ready")
        child.stop()
        assert kinds(await child.last_frames()) == ["ready", "stopped", "exiting"]


async def test_a_stop_handler_is_told_the_reason_and_the_entry_ends_by_itself(launch: Launch) -> None:
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


async def test_a_stop_handler_runs_inside_receive(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.on_stop(lambda notice: process.fail(f"stopped: {notice.reason}"))
            process.ready()
            process.receive()
    """) as child:
        await child.frame_of_type("ready")
        child.stop()
        assert (await child.frame_of_type("fail"))["error"] == "stopped: None"


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


async def test_reading_stop_requested_takes_the_stop_into_the_entrys_own_hands(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.ready()
            while not process.stop_requested:
                pass
            process.heartbeat()
            process.sleep(0)
            process.send("in peace")
            return "ended by itself"
    """) as child:
        await child.frame_of_type("ready")
        child.stop()
        assert (await child.frame_of_type("complete"))["result"] == "ended by itself"
        assert await child.payload() == "in peace"


async def test_a_stop_before_the_call_ends_it_without_calling_it(launch: Launch) -> None:
    async with launch("raise RuntimeError('loaded')", begin=False) as child:
        child.process.request_stop()
        child.begin()
        child.stop()
        assert await child.last_frames() == [
            {"type": "stopped", "messages": 0},
            {"type": "exiting", "messages": 0, "code": 0},
        ]


async def test_a_stop_while_the_file_is_loaded_ends_it_without_calling_it(launch: Launch, tmp_path: Path) -> None:
    async with launch(
        """
        import sys
        print("loading")
        sys.stdin = open("gate")   # a fifo: opens when the test opens its other end
        def run(process):
            raise RuntimeError("called")
    """,
        begin=False,
    ) as child:
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        child.begin()
        while "loading" not in child.process.stdout_tail():
            await trio.testing.wait_all_tasks_blocked(0.01)
        child.stop()
        with gate.open("w"):
            assert kinds(await child.last_frames()) == ["stopped", "exiting"]


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


async def test_an_error_while_stopping_is_a_failure(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.ready()
            try:
                process.sleep(60)
            finally:
                raise OSError("disk full")
    """) as child:
        await child.frame_of_type("ready")
        child.stop()
        assert (await child.frame_of_type("fail"))["error"].startswith("OSError: disk full")


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


async def test_receive_gives_up_after_its_timeout_and_refuses_beside_a_handler(launch: Launch) -> None:
    async with launch("""
        from spindle_trio import LocalProtocolError
        def run(process):
            seen = []
            for timeout in (0, 0.01):
                try:
                    process.receive(timeout)
                except TimeoutError:
                    seen.append("timeout")
            process.on_message(print)
            try:
                process.receive()
            except LocalProtocolError:
                seen.append("refused")
            process.complete(seen)
    """) as child:
        assert (await child.frame_of_type("complete"))["result"] == ["timeout", "timeout", "refused"]


async def test_a_payload_that_is_not_json_safe_is_refused_at_the_sender_and_nothing_is_sent(launch: Launch) -> None:
    async with launch(
        """
        from spindle_trio import PayloadError
        def run(process):
            refused = []
            loop = []; loop.append(loop)
            for payload in (float("nan"), b"", (1,), {1: 2}, {"items": [0, {2}]}, loop, "\\udc80", 2**64, "x" * 1_600):
                try:
                    process.send(payload)
                except PayloadError as error:
                    refused.append(str(error))
            process.send("fine")
            return refused
    """,
        limits=Limits(frame_bytes=2000, text_bytes=1500),
    ) as child:
        frames = await child.last_frames()
        assert await child.payload() == "fine"
    assert len(frames[0]["result"]) == 9
    assert "payload.items[1]: set is not JSON-safe: send a list" in frames[0]["result"]
    assert frames[0]["messages"] == 1


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


# ---- facts and heartbeats


async def test_it_sees_its_facts(launch: Launch) -> None:
    async with launch(
        """
        import math
        def run(process):
            process.complete([process.process_id, process.entry, process.kind, process.key, process.payload,
                              process.has_payload, process.metadata, process.user_id, process.heartbeat_timeout,
                              process.stop_requested, repr(process)])
    """,
        kind="indexer",
        payload=None,
        heartbeat_timeout=2.5,
    ) as child:
        assert (await child.frame_of_type("complete"))["result"] == [
            "p-1", "entry.py", "indexer", None, None, True, None, "ada", 2.5, False,
            "<BlockingProcessContext starting entry.py p-1>",
        ]  # fmt: skip


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


async def test_an_idle_entry_that_lives_on_beats(launch: Launch) -> None:
    async with launch(
        """
        def run(process):
            process.on_message(print)
            process.ready()
    """,
        heartbeat_timeout=0.1,
    ) as child:
        await child.frame_of_type("ready")
        first = child.process.last_heartbeat()
        while child.process.last_heartbeat() < first + 0.1:
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_blocking_child_loads_neither_trio_nor_any_module_of_the_host(launch: Launch) -> None:
    """That is what makes a blocking entry start in a tenth of the time (performance notes)."""
    async with launch("""
        import sys
        from spindle_trio.child import BlockingProcessContext, StopNotice
        def run(process: BlockingProcessContext) -> list:
            return sorted(sys.modules)
    """) as child:
        loaded = set((await child.frame_of_type("complete"))["result"])
    assert loaded.isdisjoint(
        {"trio", "attr", "attrs", "cattrs", "asyncio", "inspect", "subprocess", "socket", "ctypes"}
    )
    runtimes = ("spindle_trio.child", "spindle_trio.fork_server", "spindle_trio._linux")
    own = {name for name in loaded if name.startswith("spindle_trio.") and not name.startswith(runtimes)}
    assert own == {
        "spindle_trio._errors",
        "spindle_trio._protocol",
        "spindle_trio._protocol._frames",
        "spindle_trio._protocol._json_text",
        "spindle_trio._protocol._payload",
    }
