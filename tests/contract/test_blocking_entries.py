"""`def` entries, on the main thread of a process of their own. Only real processes can run them."""

from __future__ import annotations

import math

import pytest
import trio

from spindle_trio import ExitReason, Limits, ProcessState, StartupFailedError
from support.contract import Gate, run_to_end, stderr_of, wait_state


async def test_it_is_called_on_the_main_thread_and_may_use_it_as_it_likes(real_world) -> None:
    entry = real_world.blocking_entry("""
        import signal, threading

        def run(process):
            process.ready()
            heard = []
            signal.signal(signal.SIGUSR1, lambda *_: heard.append("signal"))
            signal.raise_signal(signal.SIGUSR1)
            return [threading.current_thread() is threading.main_thread(), heard, process.payload]
    """)
    handle = await run_to_end(real_world, entry, payload="given")
    assert handle.result == [True, ["signal"], "given"]
    assert handle.info.exit_reason is ExitReason.COMPLETED
    assert real_world.states() == ["starting", "running", "completed"]
    assert real_world.events[-1].result == handle.result


async def test_what_it_raises_fails_it_with_type_message_and_traceback(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            look_up("Ulysses")

        def look_up(book):
            raise LookupError(f"no such book: {book}")
    """)
    handle = await run_to_end(real_world, entry)
    assert (handle.info.state, handle.info.exit_reason) == (ProcessState.FAILED, ExitReason.FAILED)
    assert handle.info.error == f"LookupError: no such book: Ulysses (Traceback: {entry}:7 in look_up)"
    assert handle.post_mortem.traceback.endswith("LookupError: no such book: Ulysses")
    assert "in look_up" in handle.post_mortem.traceback
    assert "_blocking_runtime" not in handle.post_mortem.traceback


async def test_a_returned_value_that_is_no_payload_fails_it_and_says_where(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            return {"words": [{"a", "b"}]}
    """)
    info = (await run_to_end(real_world, entry)).info
    assert info.state is ProcessState.FAILED
    assert "result.words[0]: set is not JSON-safe" in info.error


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("statement", "state", "text"),
    [
        ("return 5", ProcessState.COMPLETED, "completed before it was ready"),
        ("process.complete(5)", ProcessState.COMPLETED, "completed before it was ready"),
        ("raise ValueError('no book')", ProcessState.FAILED, "ValueError: no book"),
        ("process.fail('no book')", ProcessState.FAILED, "no book"),
    ],
)
async def test_an_entry_that_ends_before_ready_makes_spawn_raise(
    real_world, statement: str, state: ProcessState, text: str
) -> None:
    entry = real_world.blocking_entry(f"def run(process):\n    {statement}")
    async with real_world.worker() as worker:
        with pytest.raises(StartupFailedError, match=text) as raised:
            await worker.backend_processes.spawn(entry)
    assert raised.value.info.state is state
    assert raised.value.result == (5 if state is ProcessState.COMPLETED else None)
    assert real_world.states() == ["starting", state]


@pytest.mark.parametrize(
    ("calls", "state", "result"),
    [
        (["complete(1)", "complete(2)", "fail('late')", "ready()"], ProcessState.COMPLETED, 1),
        (["fail('first')", "fail('second')", "complete(3)", "ready()"], ProcessState.FAILED, None),
    ],
)
async def test_ready_complete_and_fail_count_once(
    real_world, calls: list[str], state: ProcessState, result: object
) -> None:
    """Each call after the final word raises `SystemExit` again: an entry that caught it once still ends."""
    attempts = "\n".join(f"    try:\n        process.{call}\n    except SystemExit:\n        pass" for call in calls)
    entry = real_world.blocking_entry(f"""
def run(process):
    process.ready(); process.ready()
{attempts}
    return 4
""")
    handle = await run_to_end(real_world, entry)
    assert real_world.states() == ["starting", "running", state]
    assert handle.result == result
    assert handle.info.error in (None, "first")


@pytest.mark.parametrize(
    ("word", "state"),
    [("process.complete('done')", ProcessState.COMPLETED), ("process.fail('done')", ProcessState.FAILED)],
)
async def test_complete_and_fail_raise_system_exit_and_everything_sent_is_delivered(
    real_world, word: str, state: ProcessState
) -> None:
    entry = real_world.blocking_entry(f"""
        def run(process):
            process.ready()
            process.send("before")
            try:
                try:
                    {word}
                except SystemExit:
                    process.send("raised")
                    raise
                process.send("never")
            finally:
                process.send("finally")
    """)
    handle = await run_to_end(real_world, entry)
    assert handle.info.state is state
    assert real_world.payloads() == ["before", "raised", "finally"]
    assert handle.result == ("done" if state is ProcessState.COMPLETED else None)


async def test_what_it_raises_after_its_final_word_is_reported_on_stderr_only(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            try:
                process.complete("mine")
            finally:
                raise ValueError("too late")
    """)
    handle = await run_to_end(real_world, entry)
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, "mine")
    assert "ValueError: too late" in stderr_of(handle)


async def test_messages_that_are_sent_before_it_asks_wait_for_it_in_order(real_world) -> None:
    gate = Gate(real_world.root)
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            open("gate").read()
            return [process.receive() for _ in range(200)]
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        for number in range(200):
            await handle.send(number)
        await gate.wait_reached()
        gate.open()
        await handle.wait_ended()
    assert handle.result == list(range(200))


async def test_messages_that_are_sent_while_it_starts_wait_for_it(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            first = process.receive()
            process.ready()
            return [first, process.receive()]
    """)
    async with real_world.worker() as worker, trio.open_nursery() as nursery:
        processes = worker.backend_processes

        async def send_early() -> None:
            event = await wait_state(worker, None, ProcessState.STARTING)
            await processes.send(event.process_id, "early")
            await processes.send(event.process_id, "second")

        nursery.start_soon(send_early)
        await trio.testing.wait_all_tasks_blocked()
        handle = await processes.spawn(entry)
        await handle.wait_ended()
    assert handle.result == ["early", "second"]


HANDLER = """
        import threading

        def run(process):
            where = "nowhere"

            def handle(message):
                process.complete([where, message, threading.current_thread() is threading.main_thread()])

            process.on_message(handle)
            process.ready()
"""


@pytest.mark.parametrize(
    ("where", "statement"),
    [
        ("sleep", "process.sleep(3600)"),
        ("send", "\n            while True: process.send('x' * 100_000)"),
        ("after the return", "return"),
    ],
)
async def test_handlers_run_on_its_main_thread_where_it_waits(real_world, where: str, statement: str) -> None:
    """A `send` waits here because a subscription is open that nobody reads."""
    entry = real_world.blocking_entry(HANDLER + f"            where = {where!r}; {statement}\n".replace("; \n", "\n"))
    async with real_world.quiet_worker(limits=Limits(inbox_messages=1)) as worker:
        handle = await worker.backend_processes.spawn(entry)
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


@pytest.mark.parametrize(
    ("heartbeat_timeout", "timeout"), [(1e8, "None"), (1e300, "None"), (math.inf, "1e8"), (math.inf, "1e300")]
)
async def test_it_can_wait_for_years(real_world, heartbeat_timeout: float, timeout: str) -> None:
    """The system counts a wait in milliseconds, and not beyond 25 days of them."""
    entry = real_world.blocking_entry(f"""
        def run(process):
            process.ready()
            return process.receive({timeout})
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=heartbeat_timeout)
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


@pytest.mark.parametrize(
    ("message", "state"),
    [("complete", ProcessState.COMPLETED), ("fail", ProcessState.FAILED), (None, ProcessState.STOPPED)],
)
async def test_a_handler_left_registered_keeps_it_alive_until_complete_fail_or_a_stop(
    real_world, message: str | None, state: ProcessState
) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            def handle(message):
                process.send("heard")
                if message != "ping":
                    getattr(process, message)("by handler")
            process.on_message(handle)
            process.ready()
            return "not yet"
    """)
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send("ping")
        assert await handle.messages().receive() == "heard"
        assert handle.state is ProcessState.RUNNING
        await (handle.stop() if message is None else handle.send(message))
        info = await handle.wait_ended()
    assert info.state is state
    assert handle.result == ("by handler" if state is ProcessState.COMPLETED else None)


@pytest.mark.parametrize(
    ("statement", "state", "result"),
    [
        ("process.send('said')", ProcessState.FAILED, None),
        ("process.send('said'); say(process.complete)", ProcessState.COMPLETED, "mine"),
        ("process.send('said'); say(process.fail)", ProcessState.FAILED, None),
    ],
)
async def test_a_frame_is_with_the_system_when_the_call_returns(
    real_world, statement: str, state: ProcessState, result: object
) -> None:
    entry = real_world.blocking_entry(f"""
        import os, signal

        def say(word):
            try:
                word("mine")
            except SystemExit:
                pass

        def run(process):
            process.ready()
            {statement}
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    handle = await run_to_end(real_world, entry)
    assert real_world.states() == ["starting", "running", state]
    assert real_world.payloads() == ["said"]
    assert handle.result == result
    if "fail" in statement:
        assert handle.info.error == "mine"
    elif result is None:
        assert "SIGKILL" in handle.info.error


async def test_an_entry_may_stop_calling_its_context_right_after_ready_and_send(real_world) -> None:
    gate = Gate(real_world.root)
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            process.send("sent")
            open("gate").read()
            return "went on"
    """)
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert await handle.messages().receive() == "sent"
        await gate.wait_reached()
        gate.open()
        await handle.wait_ended()
    assert handle.result == "went on"


@pytest.mark.parametrize("call", ["ready()", "send(1)", "receive()", "sleep(0)", "complete()", "fail('no')"])
async def test_its_context_belongs_to_the_main_thread_and_another_is_refused(real_world, call: str) -> None:
    """Handlers run inside these calls, and only there; and two threads at a time would lose messages unnoticed."""
    entry = real_world.blocking_entry(f"""
        import threading

        def run(process):
            process.ready()
            said = []

            def other():
                try:
                    process.{call}
                except Exception as error:
                    said.append(f"{{type(error).__name__}}: {{error}}")

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return said
    """)
    handle = await run_to_end(real_world, entry)
    (said,) = handle.result
    assert said.startswith("LocalProtocolError: a process's context works in its main thread only")
