"""Calls and streams of a `def` entry, on real processes that are driven by hand.

What can be seen through a host is in `tests/contract`.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from spindle_trio._linux._readiness import wait_readable
from spindle_trio._model import Limits
from spindle_trio._protocol._call_answers import encode_call
from spindle_trio._protocol._control_frames import encode_init
from spindle_trio._protocol._frames import encode_body
from spindle_trio.child import BlockingProcessContext
from spindle_trio.child._blocking_controls import BlockingControls
from spindle_trio.child._blocking_lanes import MOST_SPINS
from spindle_trio.child._blocking_runtime import run_blocking_entry
from spindle_trio.child._facts import facts_from_init
from spindle_trio.child._plain_lane import PlainLane
from support import calls
from support.contract import Gate

if TYPE_CHECKING:
    from conftest import Child, Launch

ANSWER, ITEM, END, FAILURE = 2, 3, 4, 6
CANCELLED = {"cancelled": True}


class Caller(calls.Caller):
    """Shows frames as their kind and their content, which tests compare as a whole."""

    def __init__(self, child: Child) -> None:
        super().__init__(child.process.calls, lambda frame: child.process.control.send_nowait(encode_body(frame)))
        self._bodies: list[bytes] = []

    async def frame(self) -> tuple[int, list[Any]]:
        """Return the kind and the content of the next frame."""
        while not self._bodies:
            self._bodies += await self.lane.receive(100)
        body = self._bodies.pop(0)
        return body[0], json.loads(body[1:])

    async def ask(self, method: str, payload: object = None, **options: Any) -> Any:
        """Call, and return the content of the one frame that comes back."""
        call_id = self.call(method, payload, **options)
        _, (answered, value) = await self.frame()
        assert answered == call_id
        return value


async def ready(child: Child) -> Caller:
    said = {"type": "ready", "protocol": 2, "calls": True, "concurrency": 1}
    assert await child.frame_of_type("ready") == said
    return Caller(child)


# ---- answers


async def test_a_function_answers_in_each_form_of_on_call(launch: Launch) -> None:
    async with launch("""
        def run(process):
            def square(n):
                return n * n
            assert process.on_call(square) is square
            assert process.on_call("power", square) is square
            @process.on_call
            def add(pair):
                return sum(pair)
            @process.on_call("times two")
            def double(n):
                return 2 * n
            assert double(4) == 8
            process.ready()
    """) as child:
        caller = await ready(child)
        assert await caller.ask("square", 3) == 9
        assert await caller.ask("power", 4) == 16
        assert await caller.ask("add", [1, 2]) == 3
        assert await caller.ask("times two", 5) == 10
        caller.call("square", 7)
        assert await caller.frame() == (ANSWER, [5, 49])


@pytest.mark.parametrize("where", ["process.sleep(60)", "process.receive()", "process.send('x' * 3_000_000)", "None"])
async def test_calls_are_served_wherever_the_entry_waits(launch: Launch, where: str) -> None:
    async with launch(f"""
        def run(process):
            process.on_call("echo", lambda payload: payload)
            process.ready()
            {where}
    """) as child:
        caller = await ready(child)
        assert [await caller.ask("echo", number) for number in range(3)] == [0, 1, 2]


async def test_calls_are_served_in_order_and_one_at_a_time(launch: Launch) -> None:
    async with launch("""
        def run(process):
            inside = []
            @process.on_call
            def slow(number):
                inside.append(number)
                process.sleep(0.001)
                inside.remove(number)
                return [number, inside]
            process.ready()
    """) as child:
        caller = await ready(child)
        for number in range(20):
            caller.call("slow", number)
        assert [await caller.frame() for _ in range(20)] == [(ANSWER, [n + 1, [n, []]]) for n in range(20)]


async def test_calls_behind_one_at_work_wait_in_the_lane_so_that_the_host_feels_it(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.on_call("slow", lambda payload: process.receive())
            process.ready()
    """) as child:
        caller = await ready(child)
        caller.call("slow")
        sent = 1
        while child.process.calls.send_nowait(b"\x01" + encode_body([sent + 1, "slow", None, "x" * 100_000])):
            sent += 1
            assert sent < 100
        sent += 1  # the one whose rest is pending
        for number in range(sent):
            child.send(number)
        await child.process.calls.send_pending()
        answers = [await caller.frame() for _ in range(sent)]
        assert answers == [(ANSWER, [number + 1, number]) for number in range(sent)]


async def test_a_handler_may_send_receive_and_sleep(launch: Launch) -> None:
    async with launch("""
        def run(process):
            @process.on_call
            def talk(payload):
                process.heartbeat()
                process.send(["asked", payload])
                process.sleep(0)
                return process.receive()
            process.ready()
            process.complete(process.receive())
    """) as child:
        caller = await ready(child)
        caller.call("talk", "how")
        assert await child.payload() == ["asked", "how"]
        child.send("so")  # the handler has it, not the entry that waits outside
        assert await caller.frame() == (ANSWER, [1, "so"])
        child.send("end")
        assert (await child.frame_of_type("complete"))["result"] == "end"


async def test_messages_for_a_handler_wait_until_a_call_has_ended(launch: Launch) -> None:
    async with launch("""
        def run(process):
            heard = []
            process.on_message(heard.append)
            @process.on_call
            def slow(payload):
                process.send("begun")
                process.sleep(0.02)
                return heard[:]
            process.on_call("heard", lambda payload: heard)
            process.ready()
    """) as child:
        caller = await ready(child)
        caller.call("slow")
        await child.payload()
        child.send(1)
        assert await caller.frame() == (ANSWER, [1, []])
        while not await caller.ask("heard"):
            pass


async def test_a_handler_is_registered_after_ready_and_the_host_is_told_once(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.ready()
            process.on_call("one", lambda payload: 1)
            process.on_call("two", lambda payload: 2)
    """) as child:
        assert await child.frame() == {"type": "ready", "protocol": 2}
        assert await child.frame() == {"type": "calls", "concurrency": 1}
        caller = Caller(child)
        assert [await caller.ask("one"), await caller.ask("two")] == [1, 2]
        child.stop()
        assert [frame["type"] for frame in await child.last_frames()] == ["ready", "calls", "stopped", "exiting"]


async def test_a_module_with_calls_needs_no_run(launch: Launch) -> None:
    async with launch("""
        def count(to):
            yield from range(to)
        calls = {"square": lambda n: n * n, "count": count}
    """) as child:
        caller = await ready(child)
        assert await caller.ask("square", 3) == 9
        caller.call("count", 2, window=5)
        assert [await caller.frame() for _ in range(3)] == [(ITEM, [2, 0]), (ITEM, [2, 1]), (END, [2])]


async def test_the_runtime_beats_while_calls_are_awaited(launch: Launch) -> None:
    async with launch("calls = {'echo': lambda payload: payload}", heartbeat_timeout=0.1) as child:
        await ready(child)
        first = child.process.last_heartbeat()
        for _ in range(3):
            while child.process.last_heartbeat() - first < 0.02:
                await trio.testing.wait_all_tasks_blocked(0.005)
            first = child.process.last_heartbeat()


async def test_a_large_answer_arrives_while_the_host_is_slow_to_read(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.on_call("long", lambda size: "x" * size)
            process.ready()
            process.receive()
    """) as child:
        caller = await ready(child)
        caller.call("long", 3_000_000)
        caller.call("long", 1)
        child.send("end")
        _, (_, answer) = await caller.frame()
        assert len(answer) == 3_000_000
        assert await caller.frame() == (ANSWER, [2, "x"])


# ---- bad input


async def test_what_cannot_be_a_handler_is_refused(launch: Launch) -> None:
    wrong = {
        "process.on_call(5)": "TypeError",
        "process.on_call('five', 5)": "TypeError",
        "process.on_call('')": "ValueError",
        "process.on_call('x' * 1025, print)": "PayloadError",
        "process.on_call(lambda payload: payload)": "TypeError",
        "process.on_call(answer)": "TypeError",
        "process.on_call(stream)": "TypeError",
        "process.on_call('answer')(answer)": "TypeError",
    }
    async with launch(f"""
        async def answer(payload):
            pass
        async def stream(payload):
            yield
        def run(process):
            process.ready()
            for statement in {list(wrong)}:
                try:
                    eval(statement)
                except Exception as error:
                    process.send([type(error).__name__, str(error)])
    """) as child:
        for statement, expected in wrong.items():
            error, text = await child.payload()
            assert error == expected, statement
            assert ("async def run(process)" in text) == ("answer" in statement or "stream" in statement)
        assert "calls" not in [frame["type"] for frame in await child.last_frames()]


async def test_a_name_has_one_handler(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.ready()
            process.on_call("same", print)
            process.on_call("same", print)
    """) as child:
        assert (await child.frame_of_type("fail"))["error"].startswith("ValueError: the method 'same' has a handler")


async def test_what_a_handler_raises_goes_to_its_caller_and_the_next_call_is_served(launch: Launch) -> None:
    cases = [
        ("raise ValueError('no such folder')", "ValueError", "no such folder"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise MemoryError", "MemoryError", ""),
        ("return recurse(payload)", "RecursionError", "maximum recursion depth"),
        ("raise BaseExceptionGroup('both', [SystemExit(3), ValueError('x')])", "BaseExceptionGroup", "both"),
        ("raise BaseExceptionGroup('exits', [SystemExit(3)])", "BaseExceptionGroup", "exits"),
        ("raise Mute", "Mute", "(its message could not be made)"),
        ("raise CallCancelled('not so')", "CallCancelled", "not so"),
        ("return {1, 2}", "PayloadError", "answer: set is not JSON-safe"),
        ("return float('nan')", "PayloadError", "answer"),
        ("return 'x' * 20_000", "PayloadError", "answer"),
        ("return coroutine()", "TypeError", "a plain function returned an awaitable"),
        ("return (n for n in [1])", "TypeError", "the handler has returned a generator"),
        ("return process.call.deadline", "PayloadError", "answer"),
        ("return process.on_call('echo', print)", "ValueError", "the method 'echo' has a handler already"),
    ]
    handlers = "".join(
        f"""
            @process.on_call("{number}")
            def handler(payload):
                {body}
        """
        for number, (body, _, _) in enumerate(cases)
    )
    async with launch(
        f"""
        from spindle_trio.child import CallCancelled
        class Mute(Exception):
            def __str__(self):
                raise ValueError
        async def coroutine():
            pass
        def recurse(payload):
            return recurse(payload)
        def run(process):
            {handlers}
            process.on_call("echo", lambda payload: payload)
            process.ready()
    """,
        limits=Limits(frame_bytes=10_000),
    ) as child:
        caller = await ready(child)
        for number, (body, error, text) in enumerate(cases):
            call_id = caller.call(str(number))
            kind, (failed, about) = await caller.frame()
            assert (kind, failed, about["error"]) == (FAILURE, call_id, error), body
            assert about["text"].startswith(text), body
            assert await caller.ask("echo", "still here") == "still here"


async def test_calls_that_no_handler_can_serve_are_refused_with_the_reason(launch: Launch) -> None:
    async with launch("""
        def count(to):
            yield from range(to)
        calls = {"square": lambda n: n * n, "count": count}
    """) as child:
        caller = await ready(child)
        assert await caller.ask("cube") == {"known": ["count", "square"]}
        assert "stream()" in (await caller.ask("count", 3))["text"]
        assert "call()" in (await caller.ask("square", 3, window=4))["text"]
        assert await caller.ask("square", 3) == 9


async def test_process_call_is_there_in_a_handler_only(launch: Launch) -> None:
    async with launch("""
        import math, time
        def shown(process):
            try:
                return process.call.method
            except Exception as error:
                return type(error).__name__
        def run(process):
            @process.on_call
            def handler(payload):
                call = process.call
                left = call.deadline - time.monotonic()
                return [call.method, call.is_cancelled, left == math.inf or round(left), repr(call), call.check()]
            process.on_message(lambda message: process.send(shown(process)))
            process.send(shown(process))
            process.ready()
    """) as child:
        caller = await ready(child)
        assert await child.payload() == "LocalProtocolError"
        assert await caller.ask("handler") == ["handler", False, True, "<CallContext handler>", None]
        assert (await caller.ask("handler", seconds=100))[2] == 100
        child.send("message")
        assert await child.payload() == "LocalProtocolError"


async def test_a_call_is_not_asked_about_on_another_thread(launch: Launch) -> None:
    async with launch("""
        import threading
        def run(process):
            @process.on_call
            def handler(payload):
                call, raised = process.call, []
                def look():
                    for ask in (lambda: call.is_cancelled, call.check):
                        try:
                            ask()
                        except Exception as error:
                            raised.append(type(error).__name__)
                thread = threading.Thread(target=look)
                thread.start()
                thread.join()
                return raised
            process.ready()
    """) as child:
        assert await (await ready(child)).ask("handler") == ["LocalProtocolError"] * 2


# ---- cancellation and deadlines


@pytest.mark.quick(7)  # each way to wait, and a deadline
@pytest.mark.parametrize(
    "wait",
    [
        "process.sleep(60)",
        "process.receive()",
        "process.send('x' * 3_000_000)",
        "[process.heartbeat() for _ in iter(int, 1)]",
        "[process.call.check() for _ in iter(int, 1)]",
        "[0 for _ in iter(lambda: process.call.is_cancelled, True)].append(process.heartbeat())",
    ],
)
@pytest.mark.parametrize("by", ["cancel", "deadline"])
async def test_a_cancelled_handler_is_told_at_its_next_call_on_the_context(launch: Launch, wait: str, by: str) -> None:
    async with launch(f"""
        def run(process):
            @process.on_call
            def handler(payload):
                process.send("begun")
                {wait}
                return "not told"
            process.on_call("echo", lambda payload: payload)
            process.ready()
    """) as child:
        caller = await ready(child)
        call_id = caller.call("handler", seconds=0.01 if by == "deadline" else math.inf)
        if by == "cancel":
            await child.payload()
            caller.cancel(call_id)
        assert await caller.frame() == (FAILURE, [1, CANCELLED])
        assert await caller.ask("echo", 5) == 5


@pytest.mark.parametrize("way", ["process.sleep(60)", "[process.call.check() for _ in iter(int, 1)]"])
async def test_a_cancelled_handler_cleans_up_with_the_context(launch: Launch, way: str) -> None:
    """What waits raises again each time; `heartbeat` and `send` do not."""
    async with launch(f"""
        def run(process):
            @process.on_call
            def handler(payload):
                process.send("begun")
                try:
                    {way}
                finally:
                    told = []
                    for number in range(3):
                        process.heartbeat()
                        process.send(number)
                    for wait in (lambda: process.sleep(60), process.receive, process.call.check):
                        try:
                            wait()
                        except BaseException as error:
                            told.append(type(error).__name__)
                    process.send(told)
            process.ready()
    """) as child:
        caller = await ready(child)
        call_id = caller.call("handler")
        assert await child.payload() == "begun"
        caller.cancel(call_id)
        assert await caller.frame() == (FAILURE, [1, CANCELLED])
        assert [await child.payload() for _ in range(4)] == [0, 1, 2, ["CallCancelled"] * 3]


async def test_a_message_whose_send_a_cancellation_ends_is_still_delivered(launch: Launch) -> None:
    async with launch("""
        def run(process):
            @process.on_call
            def handler(payload):
                try:
                    process.send("x" * 3_000_000)
                finally:
                    process.send("after")
            process.ready()
    """) as child:
        caller = await ready(child)
        call_id = caller.call("handler")
        await wait_readable(child.process.messages._socket)  # the first bytes of the message are there
        caller.cancel(call_id)
        assert len(await child.payload()) == 3_000_000
        assert await child.payload() == "after"
        assert await caller.frame() == (FAILURE, [1, CANCELLED])


async def test_a_handler_that_swallows_its_cancellation_still_ends_by_one_frame(launch: Launch) -> None:
    async with launch("""
        def run(process):
            @process.on_call
            def handler(payload):
                process.send("begun")
                try:
                    process.sleep(60)
                except BaseException as error:
                    if payload == "raise":
                        raise ValueError("in its clean-up")
                    return [type(error).__name__, process.call.is_cancelled]
            process.on_call("echo", lambda payload: payload)
            process.ready()
    """) as child:
        caller = await ready(child)
        for payload in ("return", "raise"):
            call_id = caller.call("handler", payload)
            assert await child.payload() == "begun"
            caller.cancel(call_id)
            if payload == "return":
                assert await caller.frame() == (ANSWER, [1, ["CallCancelled", True]])
            else:
                assert (await caller.frame())[1][1]["text"] == "in its clean-up"
        assert await caller.ask("echo", 1) == 1


async def test_a_cancel_may_come_before_its_call_or_after_its_end(launch: Launch) -> None:
    async with launch("""
        def run(process):
            begun = []
            process.on_call("begin", begun.append)
            process.on_call("begun", lambda payload: begun)
            process.ready()
    """) as child:
        caller = await ready(child)
        caller.cancel(2)
        caller.cancel(4)
        assert await caller.ask("begin", 1) is None
        assert await caller.ask("begin", 2) == CANCELLED
        caller.cancel(1)
        caller.cancel(2)
        caller.credit(2, 5)
        assert await caller.ask("begin", 3) is None
        assert await caller.ask("begin", 4) == CANCELLED
        assert await caller.ask("begun") == [1, 3]


async def test_a_call_that_is_cancelled_while_it_waits_for_another_is_never_begun(launch: Launch) -> None:
    async with launch("""
        import time
        def run(process):
            begun = []
            @process.on_call
            def begin(path):
                begun.append(path)
                if path:
                    open(path).read()
                return begun
            process.ready()
    """) as child:
        caller = await ready(child)
        gate = Gate(child.root)
        caller.call("begin", str(gate.path))
        behind = [caller.call("begin", None) for _ in range(3)]
        await gate.wait_reached()
        caller.cancel(behind[1])
        gate.open()
        answers = [await caller.frame() for _ in range(4)]
        assert answers[2] == (FAILURE, [3, CANCELLED])
        assert answers[3] == (ANSWER, [4, [str(gate.path), None, None]])


async def test_a_handler_that_looks_sees_a_cancel_without_waiting(launch: Launch) -> None:
    async with launch("""
        def run(process):
            @process.on_call
            def busy(payload):
                process.send("begun")
                while not process.call.is_cancelled:
                    pass
                return True
            process.ready()
    """) as child:
        caller = await ready(child)
        call_id = caller.call("busy")
        assert await child.payload() == "begun"
        caller.cancel(call_id)
        assert await caller.frame() == (ANSWER, [1, True])
        assert await caller.ask("busy", seconds=0.01) is True


# ---- streams


STREAM = """
    def run(process):
        @process.on_call
        def count(to):
            for number in range(to):
                process.send(number)
                yield number
        process.on_message(process.send)
        process.on_call("echo", lambda payload: payload)
        process.ready()
"""


async def test_a_generator_goes_no_further_than_its_credit(launch: Launch) -> None:
    async with launch(STREAM) as child:
        caller = await ready(child)
        stream = caller.call("count", 6, window=2)
        caller.call("echo", "behind")
        assert [await caller.frame() for _ in range(2)] == [(ITEM, [1, 0]), (ITEM, [1, 1])]
        child.send("no further")
        assert [await child.payload() for _ in range(3)] == [0, 1, "no further"]
        caller.credit(stream, 1)
        assert await caller.frame() == (ITEM, [1, 2])
        assert await child.payload() == 2
        caller.credit(stream, 1)
        caller.credit(stream, 5)
        assert [await caller.frame() for _ in range(4)] == [*((ITEM, [1, n]) for n in range(3, 6)), (END, [1])]
        assert [await child.payload() for _ in range(3)] == [3, 4, 5]
        assert await caller.frame() == (ANSWER, [2, "behind"])


async def test_messages_are_served_and_the_runtime_beats_while_a_generator_waits_for_credit(launch: Launch) -> None:
    async with launch(
        """
        def run(process):
            process.on_message(lambda message: process.send(["heard", message]))
            @process.on_call
            def count(to):
                yield from range(to)
            process.ready()
    """,
        heartbeat_timeout=0.1,
    ) as child:
        caller = await ready(child)
        stream = caller.call("count", 2, window=1)
        assert await caller.frame() == (ITEM, [1, 0])
        child.send("meanwhile")
        assert await child.payload() == ["heard", "meanwhile"]
        first = child.process.last_heartbeat()
        for _ in range(3):
            while child.process.last_heartbeat() - first < 0.02:
                await trio.testing.wait_all_tasks_blocked(0.005)
            first = child.process.last_heartbeat()
        caller.credit(stream, 2)
        assert [await caller.frame() for _ in range(2)] == [(ITEM, [1, 1]), (END, [1])]


@pytest.mark.parametrize("by", ["cancel", "deadline"])
@pytest.mark.parametrize("where", ["without credit", "at work"])
async def test_a_cancelled_generator_is_closed_and_may_use_the_context(launch: Launch, by: str, where: str) -> None:
    async with launch("""
        def run(process):
            @process.on_call
            def count(where):
                try:
                    yield 1
                    process.sleep(60)
                finally:
                    process.heartbeat()
                    process.send(process.call.is_cancelled)
            process.on_call("echo", lambda payload: payload)
            process.ready()
    """) as child:
        caller = await ready(child)
        window = 1 if where == "without credit" else 2
        stream = caller.call("count", where, window=window, seconds=0.05 if by == "deadline" else math.inf)
        assert await caller.frame() == (ITEM, [1, 1])
        if by == "cancel":
            caller.cancel(stream)
        assert await caller.frame() == (FAILURE, [1, CANCELLED])
        assert await child.payload() is True
        assert await caller.ask("echo", 1) == 1


async def test_a_stream_is_cancelled_between_two_items_although_it_has_credit(launch: Launch) -> None:
    async with launch("""
        def run(process):
            @process.on_call
            def forever(payload):
                while True:
                    yield 1
            process.ready()
    """) as child:
        caller = await ready(child)
        stream = caller.call("forever", window=65_536)
        assert await caller.frame() == (ITEM, [1, 1])
        caller.cancel(stream)
        while (frame := await caller.frame())[0] == ITEM:
            pass
        assert frame == (FAILURE, [1, CANCELLED])


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ("raise ValueError('in the middle')", "ValueError", "in the middle"),
        ("yield {1}", "PayloadError", "item: set is not JSON-safe"),
        ("yield 'x' * 20_000", "PayloadError", "item: 20"),
    ],
)
async def test_an_error_of_a_generator_comes_after_the_items_before_it(
    launch: Launch, body: str, error: str, text: str
) -> None:
    async with launch(
        f"""
        def run(process):
            @process.on_call
            def stream(payload):
                try:
                    yield 1
                    {body}
                    yield 2
                finally:
                    process.send("closed")
            process.ready()
    """,
        limits=Limits(frame_bytes=10_000),
    ) as child:
        caller = await ready(child)
        caller.call("stream", window=10)
        assert await caller.frame() == (ITEM, [1, 1])
        kind, (_, about) = await caller.frame()
        assert (kind, about["error"]) == (FAILURE, error)
        assert about["text"].startswith(text)
        assert await child.payload() == "closed"
        assert await caller.ask("nothing") == {"known": ["stream"]}


@pytest.mark.parametrize(
    ("clean_up", "error", "by"),
    [
        ("raise OSError('locked')", "OSError", "its end"),
        ("raise OSError('locked')", "OSError", "a cancel"),
        ("yield 3", "RuntimeError", "a cancel"),
    ],
)
async def test_a_generator_that_fails_in_its_clean_up_ends_by_one_failure(
    launch: Launch, clean_up: str, error: str, by: str
) -> None:
    async with launch(f"""
        def run(process):
            @process.on_call
            def stream(payload):
                try:
                    yield 1
                finally:
                    {clean_up}
            process.on_call("echo", lambda payload: payload)
            process.ready()
    """) as child:
        caller = await ready(child)
        stream = caller.call("stream", window=1)
        assert await caller.frame() == (ITEM, [1, 1])
        caller.cancel(stream) if by == "a cancel" else caller.credit(stream, 1)
        kind, (_, about) = await caller.frame()
        assert (kind, about["error"]) == (FAILURE, error)
        assert await caller.ask("echo", 1) == 1


# ---- the end of the entry


@pytest.mark.parametrize("method", ["answer", "stream"])
async def test_a_stop_lets_the_call_at_work_finish_and_begins_no_other(launch: Launch, method: str) -> None:
    async with launch("""
        def run(process):
            begun = []
            def work(path):
                begun.append(path)
                process.send("begun")
                open(path).read()
                process.heartbeat()
                process.sleep(0.001)
                process.ready()
                process.send(["stop requested", process.stop_requested])
            @process.on_call
            def answer(path):
                work(path)
                return "done"
            @process.on_call
            def stream(path):
                work(path)
                yield "done"
            process.ready()
            try:
                process.sleep(60)
            finally:
                process.send(len(begun))
    """) as child:
        caller = await ready(child)
        gate = Gate(child.root)
        caller.call(method, str(gate.path), window=2 if method == "stream" else None)
        caller.call("answer", str(gate.path))
        await gate.wait_reached()
        child.stop()
        gate.open()
        assert await caller.frame() == ((ANSWER if method == "answer" else ITEM), [1, "done"])
        assert [await child.payload() for _ in range(3)] == ["begun", ["stop requested", True], 1]
        if method == "stream":
            assert await caller.frame() == (END, [1])
        assert (await child.last_frames())[1:] == [
            {"type": "stopped", "messages": 3},
            {"type": "exiting", "messages": 3, "code": 0},
        ]


async def test_a_call_that_was_cancelled_and_never_begins_is_ended_when_the_stop_is_heard(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.on_message(lambda path: open(path).read())
            process.on_call("echo", lambda payload: payload)
            def stop(notice):
                process.sleep(0)
                while process.receive() != "end":
                    pass
            process.on_stop(stop)
            process.ready()
    """) as child:
        caller = await ready(child)
        gate = Gate(child.root)
        child.send(str(gate.path))
        await gate.wait_reached()
        cancelled, left, late = [caller.call("echo", number) for number in range(3)]
        caller.cancel(cancelled)
        child.stop()
        gate.open()
        assert await caller.frame() == (FAILURE, [cancelled, CANCELLED])
        caller.cancel(late)
        assert await caller.frame() == (FAILURE, [late, CANCELLED])
        assert left == 2  # neither begun nor ended


async def test_a_stream_that_waits_for_credit_may_finish_after_a_stop(launch: Launch) -> None:
    async with launch(STREAM) as child:
        caller = await ready(child)
        stream = caller.call("count", 2, window=1)
        assert await caller.frame() == (ITEM, [1, 0])
        child.stop()
        caller.credit(stream, 2)
        assert [await caller.frame() for _ in range(2)] == [(ITEM, [1, 1]), (END, [1])]
        assert (await child.last_frames())[-2]["type"] == "stopped"


async def test_an_on_stop_handler_runs_inside_a_call_and_is_not_told_of_its_cancellation(launch: Launch) -> None:
    async with launch("""
        def run(process):
            @process.on_call
            def handler(payload):
                process.send("begun")
                try:
                    process.sleep(60)
                finally:
                    process.send("ended")
            @process.on_stop
            def stop(notice):
                process.sleep(0.02)
                process.send(notice.reason)
                process.sleep(0)
                process.complete("stopped inside")
            process.ready()
    """) as child:
        caller = await ready(child)
        call_id = caller.call("handler")
        assert await child.payload() == "begun"
        child.stop("enough")
        caller.cancel(call_id)
        assert (await child.frame_of_type("complete"))["result"] == "stopped inside"
        assert [await child.payload() for _ in range(2)] == ["enough", "ended"]


@pytest.mark.parametrize(
    ("statement", "word", "code"),
    [
        ("process.complete(5)", "complete", 0),
        ("process.fail('no luck')", "fail", 1),
        ("raise SystemExit(3)", None, 3),
        ("raise SystemExit(0)", "complete", 0),
    ],
)
@pytest.mark.parametrize("method", ["answer", "stream"])
async def test_a_handler_may_end_the_entry(
    launch: Launch, statement: str, word: str | None, code: int, method: str
) -> None:
    async with launch(f"""
        def run(process):
            @process.on_call
            def answer(payload):
                {statement}
            @process.on_call
            def stream(payload):
                yield 1
                {statement}
            process.ready()
            try:
                process.receive()
            finally:
                process.send("entry ended")
    """) as child:
        caller = await ready(child)
        caller.call(method, window=2 if method == "stream" else None)
        caller.call(method, window=2 if method == "stream" else None)
        frames = await child.last_frames()
        assert [frame["type"] for frame in frames] == ["ready", *([word] if word else []), "exiting"]
        assert frames[-1]["code"] == code
        assert await child.payload() == "entry ended"


async def test_a_message_handler_ends_the_entry_while_a_generator_waits_for_credit(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.on_message(process.complete)
            @process.on_call
            def stream(payload):
                try:
                    yield 1
                finally:
                    process.send("closed")
            process.ready()
    """) as child:
        caller = await ready(child)
        caller.call("stream", window=1)
        assert await caller.frame() == (ITEM, [1, 1])
        child.send("over")
        assert (await child.frame_of_type("complete"))["result"] == "over"
        assert await child.payload() == "closed"


async def test_no_call_is_begun_in_clean_up_functions(launch: Launch) -> None:
    async with launch("""
        def run(process):
            process.on_call("begin", lambda payload: process.send("begun"))
            def clean_up():
                process.receive()
                process.sleep(0.01)
            process.on_message(lambda message: process.fail("over"))
            process.ready()
            return clean_up
    """) as child:
        caller = await ready(child)
        child.stop()
        caller.call("begin")
        child.send("end")
        assert (await child.last_frames())[-1]["messages"] == 0


# ---- fairness, with both ends in one program


BEGUN = 50
"""How much has come without a pause before something else comes."""

MOST = 200
"""How much may come in all; some more answers, and nobody reads them, would fill a socket."""


def serve_here(run: Callable[[BlockingProcessContext, PlainLane, PlainLane], object]) -> Any:
    """Run a blocking entry here, which also has the host's ends of its messages and calls; return its final frame."""
    pairs = [socket.socketpair() for _ in range(3)]
    (host_control, control), (host_messages, messages), (host_calls, calls_end) = pairs
    init = encode_init(
        process_id="p",
        entry="entry.py",
        kind="entry.py",
        key=None,
        user_id=None,
        payload=None,
        metadata=None,
        heartbeat_timeout=math.inf,
        limits=Limits(),
    )
    controls = BlockingControls(
        facts_from_init(json.loads(init)),
        PlainLane(control.fileno()),
        PlainLane(messages.fileno()),
        memoryview(bytearray(16)).cast("d"),
        print,
        calls_end.fileno(),
    )
    messages_end, calls_lane = PlainLane(host_messages.fileno()), PlainLane(host_calls.fileno())
    run_blocking_entry(lambda process: run(process, messages_end, calls_lane), controls)
    lane = PlainLane(host_control.fileno())
    lane.fill()
    for end in (end for pair in pairs for end in pair):
        end.close()
    return [json.loads(body) for body in iter(lane.take, None)][-1]


def test_calls_that_come_without_a_pause_do_not_hold_up_messages() -> None:
    def run(process: BlockingProcessContext, messages_end: PlainLane, calls_end: PlainLane) -> None:
        served = 0

        @process.on_call
        def again(payload: object) -> None:
            nonlocal served
            served += 1
            calls_end.push(encode_call(served + 1, "again", math.inf, None, None, 1000))
            if served == BEGUN:
                messages_end.push(encode_body("let me in"))
            if served > MOST:
                process.fail("held up")

        process.on_message(lambda message: process.complete(served))
        process.ready()
        again(None)

    assert BEGUN <= serve_here(run)["result"] <= BEGUN + 2 * MOST_SPINS


def test_messages_that_come_without_a_pause_do_not_hold_up_calls() -> None:
    def run(process: BlockingProcessContext, messages_end: PlainLane, calls_end: PlainLane) -> None:
        received = 0
        process.on_call("end", lambda payload: process.complete(received))
        process.ready()
        while True:
            messages_end.push(encode_body("again"))
            process.receive()
            process.send(received)
            received += 1
            if received == BEGUN:
                calls_end.push(encode_call(1, "end", math.inf, None, None, 1000))
            assert received < MOST, "held up"

    assert BEGUN <= serve_here(run)["result"] <= BEGUN + 2 * MOST_SPINS
