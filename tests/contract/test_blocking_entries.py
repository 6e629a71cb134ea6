"""Only for `def` entries: handlers inside their calls, timeouts, and one thread. Only real processes can run them."""

from __future__ import annotations

import math

import trio

from spindle_trio import Limits, ProcessState
from support.contract import Gate, run_to_end, stderr_of, wait_state


async def test_handlers_run_on_its_main_thread_where_it_waits(real_world) -> None:
    """A `send` waits here because a subscription is open that nobody reads."""
    entry = real_world.blocking_entry("""
        import threading

        def run(process):
            where = process.payload

            def handle(message):
                process.complete([where, message, threading.current_thread() is threading.main_thread()])

            process.on_message(handle)
            process.ready()
            if where == "sleep":
                process.sleep(3600)
            while where == "send":
                process.send("x" * 100_000)
    """)
    async with real_world.quiet_worker(limits=Limits(inbox_messages=1)) as worker:
        for where in ("sleep", "send", "after the return"):
            handle = await worker.backend_processes.spawn(entry, payload=where)
            with_nobody_reading = handle.messages()
            await handle.send("go")
            await handle.wait_ended()
            with_nobody_reading.close()
            assert handle.result == [where, "go", True]


async def test_stop_handlers_run_inside_receive(real_world) -> None:
    """A message handler cannot: with one registered, `receive` raises at once."""
    entry = real_world.blocking_entry("""
        import threading

        def run(process):
            heard = []
            def told(notice):
                heard.append([notice.reason, threading.current_thread() is threading.main_thread()])
            process.on_stop(told)
            process.ready()
            return [process.receive(), heard]
    """)
    async with real_world.worker() as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn(entry)
        nursery.start_soon(handle.stop, "tidy up")
        await wait_state(worker, handle.process_id, ProcessState.STOPPING)
        await handle.send("after the stop")
        await handle.wait_ended()
    assert handle.result == ["after the stop", [["tidy up", True]]]


async def test_handlers_do_not_run_while_it_computes(real_world) -> None:
    """They run on its main thread, which is busy: no other thread may call them behind its back."""
    gate = Gate(real_world.root)
    entry = real_world.blocking_entry("""
        def run(process):
            heard = []
            unsubscribe = process.on_message(heard.append)
            process.ready()
            open("gate").read()
            before = list(heard)
            process.sleep(0)
            unsubscribe()
            return [before, heard]
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send("one")
        await handle.send("two")
        await gate.wait_reached()
        gate.open()
        await handle.wait_ended()
    assert handle.result == [[], ["one", "two"]]


async def test_a_handler_counts_once_and_runs_no_more_after_its_unsubscribe(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            handled = []
            def handler(message):
                handled.append(message)
            first, second = process.on_message(handler), process.on_message(handler)
            process.ready()
            while not handled:
                process.sleep(0.001)
            first(); first(); second()
            process.send("unsubscribed")
            return [handled, process.receive()]
    """)
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send("one")
        assert await handle.messages().receive() == "unsubscribed"
        await handle.send("two")
        await handle.wait_ended()
    assert handle.result == [["one"], "two"]


async def test_a_plain_function_that_returns_a_coroutine_fails_clearly(real_world) -> None:
    entry = real_world.blocking_entry("""
        async def work(): ...
        def run(process):
            process.ready()
            return work()
    """)
    handle = await run_to_end(real_world, entry)
    assert "a plain function returned an awaitable; make it `async def`" in handle.info.error
    assert "never awaited" not in stderr_of(handle)


async def test_it_can_wait_for_years(real_world) -> None:
    """The system counts a wait in milliseconds, and not beyond 25 days of them."""
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            return process.receive(process.payload)
    """)
    async with real_world.worker() as worker:
        for heartbeat_timeout, timeout in ((1e8, None), (1e300, None), (math.inf, 1e8), (math.inf, 1e300)):
            handle = await worker.backend_processes.spawn(entry, payload=timeout, heartbeat_timeout=heartbeat_timeout)
            await handle.send("at last")
            await handle.wait_ended()
            assert (handle.info.error, handle.result) == (None, "at last")


async def test_a_timeout_that_is_no_number_is_refused_and_not_waited_out(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            refused = []
            for call in (process.receive, process.sleep):
                try:
                    call(float("nan"))
                except ValueError as error:
                    refused.append(str(error).partition(" ")[0])
            return refused
    """)
    assert (await run_to_end(real_world, entry)).result == ["receive()", "sleep()"]


async def test_receive_gives_up_after_its_timeout_and_raises_at_once_beside_a_handler(real_world) -> None:
    entry = real_world.blocking_entry("""
        import time
        from spindle_trio import LocalProtocolError

        def run(process):
            process.ready()
            said = []
            for timeout in (0, 0.02):
                begin = time.monotonic()
                try:
                    process.receive(timeout=timeout)
                except TimeoutError as error:
                    said.append([type(error).__name__, time.monotonic() - begin >= timeout])
            unsubscribe = process.on_message(print)
            try:
                process.receive()
            except LocalProtocolError as error:
                said.append("on_message" in str(error))
            unsubscribe()
            process.send(said)
            return process.receive()
    """)
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert await handle.messages().receive() == [["TimeoutError", True], ["TimeoutError", True], True]
        await handle.send("and then it goes on")
        await handle.wait_ended()
    assert handle.result == "and then it goes on"


async def test_its_context_belongs_to_the_main_thread_and_another_is_refused(real_world) -> None:
    """Handlers run inside these calls, and only there; and two threads at a time would lose messages unnoticed."""
    entry = real_world.blocking_entry("""
        import threading

        def run(process):
            process.ready()
            calls = {
                "ready": process.ready,
                "send": lambda: process.send(1),
                "receive": process.receive,
                "sleep": lambda: process.sleep(0),
                "complete": process.complete,
                "fail": lambda: process.fail("no"),
            }
            refused = {}

            def other():
                for name, call in calls.items():
                    try:
                        call()
                    except Exception as error:
                        refused[name] = f"{type(error).__name__}: {error}"

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return refused
    """)
    refused = (await run_to_end(real_world, entry)).result
    assert list(refused) == ["ready", "send", "receive", "sleep", "complete", "fail"]
    for said in refused.values():
        assert said.startswith("LocalProtocolError: a process's context works in its main thread only")
