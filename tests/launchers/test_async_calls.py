"""Calls of an `async def` entry, on real processes that are driven by hand.

`tests/collaboration/test_async_calls.py` has the rules; here are the calls lane of a process, and what becomes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from spindle_trio._protocol._call_answers import Answer, Failure, Item, StreamEnd
from spindle_trio._protocol._frames import encode_body
from support.calls import Caller

if TYPE_CHECKING:
    from conftest import Child, Launch


async def ready(child: Child) -> Caller:
    said = {"type": "ready", "protocol": 2, "calls": True, "concurrency": 16}
    assert await child.frame_of_type("ready") == said
    return Caller(child.process.calls, lambda frame: child.process.control.send_nowait(encode_body(frame)))


async def test_an_async_module_with_calls_answers_streams_and_stops(launch: Launch) -> None:
    async with launch("""
        import trio

        async def square(payload):
            await trio.sleep(0)
            return payload * payload

        async def count(payload):
            for number in range(payload):
                yield number

        async def wait(payload):
            await trio.sleep_forever()

        calls = {"square": square, "count": count, "wait": wait, "double": lambda payload: payload * 2}
    """) as child:
        caller = await ready(child)
        assert await caller.answer("square", 3) == Answer(1, 9)
        assert await caller.answer("double", 3) == Answer(2, 6)
        assert await caller.answer("cube", 3) == Failure(3, known=("count", "double", "square", "wait"))
        stream = caller.call("count", 3, window=2)
        assert [await caller.frame() for _ in range(2)] == [Item(stream, 0), Item(stream, 1)]
        caller.credit(stream, 2)
        assert [await caller.frame() for _ in range(2)] == [Item(stream, 2), StreamEnd(stream)]
        waiting = caller.call("wait")
        caller.cancel(waiting)
        assert await caller.frame() == Failure(waiting, is_cancelled=True)
        assert await caller.answer("wait", None, seconds=0.01) == Failure(waiting + 1, is_cancelled=True)
        child.stop()
        assert [frame["type"] for frame in await child.last_frames()] == ["ready", "stopped", "exiting"]


async def test_answers_that_the_host_has_not_read_leave_before_the_process_ends(launch: Launch) -> None:
    async with launch("""
        async def run(process):
            @process.on_call
            def text(payload):
                process.send_nowait("begun")
                return "x" * payload

            process.ready()
            await process.wait_stop()
    """) as child:
        caller = await ready(child)
        for _ in range(4):
            caller.call("text", 200_000)
        for _ in range(4):
            assert await child.payload() == "begun"
        child.stop()
        assert [len((await caller.frame()).value) for _ in range(4)] == [200_000] * 4
        await child.last_frames()


async def test_a_forked_copy_of_a_process_with_calls_can_say_nothing_on_its_lane(launch: Launch) -> None:
    async with launch("""
        import os

        def fork(payload):
            pid = os.fork()
            if pid == 0:
                for fd in range(3, 100):
                    try:
                        os.write(fd, b'\\0\\0\\0\\x08\\x02[1,"x"]')
                    except OSError:
                        pass
                os._exit(0)
            os.waitpid(pid, 0)
            return "from the process"

        async def run(process):
            process.on_call(fork)
            process.ready()
            await process.wait_stop()
    """) as child:
        caller = await ready(child)
        assert await caller.answer("fork") == Answer(1, "from the process")
        child.stop()
        await child.last_frames()


async def test_a_forked_copy_that_leaves_a_handler_ends(launch: Launch) -> None:
    async with launch("""
        import os
        import sys

        def fork(how):
            pid = os.fork()
            if pid:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if how == "raise":
                raise ValueError("in the copy")
            if how == "exit":
                sys.exit(3)
            return "from the copy"

        async def task(how):
            return fork(how)

        async def stream(how):
            yield fork(how)

        async def run(process):
            process.on_call("plain", fork)
            process.on_call(task)
            process.on_call(stream)
            process.ready()
            await process.wait_stop()
    """) as child:
        caller = await ready(child)
        for how in ("return", "raise", "exit"):
            for method in ("plain", "task"):
                with trio.fail_after(5):
                    assert await caller.answer(method, how) == Answer(caller.newest, 1)
            stream = caller.call("stream", how, window=4)
            with trio.fail_after(5):
                assert [await caller.frame() for _ in range(2)] == [Item(stream, 1), StreamEnd(stream)]
        child.stop()
        await child.last_frames()


async def test_what_serves_calls_is_loaded_by_the_first_on_call(launch: Launch) -> None:
    async with launch("""
        import sys

        def of_calls():
            return [name for name in sys.modules if "_call" in name.rpartition(".")[2] and name.startswith("spindle_")]

        async def run(process):
            before = of_calls()
            process.on_call(len)
            process.ready()
            process.complete([before, sorted(of_calls())])
    """) as child:
        before, after = (await child.frame_of_type("complete"))["result"]
        assert set(after) - set(before) == {
            "spindle_trio._protocol._call_frames",
            "spindle_trio.child._async_call",
            "spindle_trio.child._async_calls",
            "spindle_trio.child._calls",
        }
