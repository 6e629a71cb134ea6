"""`async def` entries: what returning, raising, `ready`, `complete`, `fail` and `send` do."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import ExitReason, ProcessState, StartupFailedError
from support.contract import Gate, run_to_end, stderr_of, wait_state


async def test_it_runs_under_trio_and_what_it_returns_completes_it(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0)
            return {"in trio": trio.lowlevel.in_trio_run(), "payload": process.payload}
    """)
    handle = await run_to_end(world, entry, payload=[1, None])
    assert handle.info.exit_reason is ExitReason.COMPLETED
    assert handle.result == {"in trio": True, "payload": [1, None]}
    assert world.states() == ["starting", "running", "completed"]
    assert world.events[-1].result == handle.result


async def test_what_it_raises_fails_it_with_type_message_and_traceback(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            await look_up("Ulysses")

        async def look_up(book):
            raise LookupError(f"no such book: {book}")
    """)
    handle = await run_to_end(world, entry)
    assert (handle.info.state, handle.info.exit_reason) == (ProcessState.FAILED, ExitReason.FAILED)
    assert handle.info.error.startswith("LookupError: no such book: Ulysses (Traceback: ")
    assert handle.info.error.endswith(" in look_up)")
    assert handle.post_mortem.traceback.endswith("LookupError: no such book: Ulysses")
    assert "in look_up" in handle.post_mortem.traceback
    assert "_async_runtime" not in handle.post_mortem.traceback


async def test_a_returned_value_that_is_no_payload_fails_it_and_says_where(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            return {"words": [{"a", "b"}]}
    """)
    info = (await run_to_end(world, entry)).info
    assert info.state is ProcessState.FAILED
    assert "result.words[0]: set is not JSON-safe" in info.error


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
    world, world_clock: MockClock | None, statement: str, state: ProcessState, text: str
) -> None:
    entry = world.entry(f"async def run(process):\n    {statement}")
    async with world.worker() as worker:
        with pytest.raises(StartupFailedError, match=text) as raised:
            await worker.backend_processes.spawn(entry)
    assert raised.value.info.state is state
    assert world.states() == ["starting", state]


@pytest.mark.parametrize(
    ("statements", "state", "result"),
    [
        ("process.complete(1); process.complete(2); process.fail('late')", ProcessState.COMPLETED, 1),
        ("process.fail('first'); process.fail('second'); process.complete(3)", ProcessState.FAILED, None),
    ],
)
async def test_ready_complete_and_fail_count_once(
    world, world_clock: MockClock | None, statements: str, state: ProcessState, result: object
) -> None:
    entry = world.entry(f"""
        async def run(process):
            process.ready(); process.ready()
            {statements}
            process.ready()
            return 4
    """)
    handle = await run_to_end(world, entry)
    assert world.states() == ["starting", "running", state]
    assert handle.result == result
    assert handle.info.error in (None, "first")


@pytest.mark.parametrize(
    ("word", "state"),
    [("process.complete('done')", ProcessState.COMPLETED), ("process.fail('done')", ProcessState.FAILED)],
)
async def test_complete_and_fail_cancel_it_at_its_next_checkpoint_and_everything_sent_is_delivered(
    world, world_clock: MockClock | None, word: str, state: ProcessState
) -> None:
    entry = world.entry(f"""
        async def run(process):
            process.ready()
            await process.send("before")
            try:
                {word}
                process.send_nowait("still running")
                await trio.sleep_forever()
                process.send_nowait("never")
            finally:
                process.send_nowait("finally")
    """)
    handle = await run_to_end(world, entry)
    assert handle.info.state is state
    assert world.payloads() == ["before", "still running", "finally"]
    assert handle.result == ("done" if state is ProcessState.COMPLETED else None)


async def test_what_it_raises_after_its_final_word_is_reported_on_stderr_only(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            process.complete("mine")
            raise ValueError("too late")
    """)
    handle = await run_to_end(world, entry)
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, "mine")
    assert "ValueError: too late" in stderr_of(handle)


async def test_messages_that_are_sent_before_it_asks_wait_for_it_in_order(world, world_clock: MockClock | None) -> None:
    """The stop tells the entry that all has been sent, without it having asked for a message."""
    entry = world.entry("""
        async def run(process):
            process.ready()
            await process.wait_stop()
            messages = process.messages()
            return [await messages.receive() for _ in range(200)]
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        for number in range(200):
            await handle.send(number)
        await handle.stop()
    assert handle.result == list(range(200))


async def test_messages_that_are_sent_while_it_starts_wait_for_it(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            messages = process.messages()
            first = await messages.receive()
            process.ready()
            return [first, await messages.receive()]
    """)
    async with world.worker() as worker, trio.open_nursery() as nursery:
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


@pytest.mark.parametrize("left", ["process.on_message(handle)", "process.on_stop(print); process.on_message(handle)"])
@pytest.mark.parametrize(
    ("message", "state"),
    [("complete", ProcessState.COMPLETED), ("fail", ProcessState.FAILED), (None, ProcessState.STOPPED)],
)
async def test_a_handler_left_registered_keeps_it_alive_until_complete_fail_or_a_stop(
    virtual_world, autojump_clock: MockClock, left: str, message: str | None, state: ProcessState
) -> None:
    """In memory only: the next test does the same on both kinds, and the runtime of `async` entries is one."""
    entry = virtual_world.entry(f"""
        async def run(process):
            def handle(message):
                getattr(process, message)("by handler")
            {left}
            process.ready()
            return "not yet"
    """)
    async with virtual_world.worker(grace_period=1) as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=float("inf"))
        await trio.sleep(100)
        assert handle.state is ProcessState.RUNNING
        await (handle.stop() if message is None else handle.send(message))
        info = await handle.wait_ended()
    assert info.state is state
    assert handle.result == ("by handler" if state is ProcessState.COMPLETED else None)


async def test_an_entry_that_returned_lives_on_through_its_handler(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            def handle(message):
                process.send_nowait(f"echo {message}")
                if message == "last":
                    process.complete(message)
            process.on_message(handle)
            process.ready()
    """)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        messages = handle.messages()
        for word in ("first", "last"):
            await handle.send(word)
            assert await messages.receive() == f"echo {word}"
        info = await handle.wait_ended()
    assert (info.state, handle.result) == (ProcessState.COMPLETED, "last")


@pytest.mark.parametrize(
    ("statement", "state", "result"),
    [
        ("await process.send('said')", ProcessState.FAILED, None),
        ("process.send_nowait('said')", ProcessState.FAILED, None),
        ("process.send_nowait('said'); process.complete('mine')", ProcessState.COMPLETED, "mine"),
        ("process.send_nowait('said'); process.fail('mine')", ProcessState.FAILED, None),
    ],
)
async def test_a_frame_is_with_the_system_when_the_call_returns(
    real_world, statement: str, state: ProcessState, result: object
) -> None:
    """Real processes only: what remains of a call can be seen where the process is gone right after it."""
    entry = real_world.entry(f"""
        async def run(process):
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


async def test_an_entry_may_stop_yielding_right_after_ready_and_send(real_world) -> None:
    """Real processes only: in memory an entry that does not yield stops the whole program."""
    gate = Gate(real_world.root)
    entry = real_world.entry("""
        async def run(process):
            process.ready()
            process.send_nowait("sent")
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
