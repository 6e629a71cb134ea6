"""A stop as the child sees it: before the entry is called, looked at once, told, cancelled, swallowed, and answered."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from contract_support import Gate, stderr_of, wait_state
from spindle_trio import ExitReason, ProcessState, StartupCancelledError

# ---- before the entry is called


async def test_a_stop_before_the_entry_is_called_ends_the_process_without_calling_it(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            await process.send("called")
            process.ready()
    """)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        processes = worker.backend_processes

        async def stop_at_once() -> None:
            event = await wait_state(worker, None, ProcessState.STARTING)
            await processes.stop(event.process_id)

        nursery.start_soon(stop_at_once)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StartupCancelledError):
            await processes.spawn(entry)
    assert world.states() == ["starting", "stopping", "stopped"]
    assert world.payloads() == []


@pytest.mark.parametrize("definition", ["def", "async def"])
async def test_a_stop_while_the_file_is_loaded_ends_the_process_without_calling_the_entry(
    real_world, definition: str
) -> None:
    """Real processes only: it is their runtime that loads files. The frame is there when the loading is over."""
    gate = Gate(real_world.root)
    entry = real_world.blocking_entry(f"""
        import os
        open("gate").read()

        {definition} run(process):
            os.mkdir("called")
    """)
    async with real_world.worker() as worker, trio.open_nursery() as nursery:
        processes = worker.backend_processes

        async def stop_while_it_loads() -> None:
            await gate.wait_reached()
            (info,) = await processes.list()
            nursery.start_soon(processes.stop, info.process_id)
            await wait_state(worker, info.process_id, ProcessState.STOPPING)
            gate.open()

        nursery.start_soon(stop_while_it_loads)
        with pytest.raises(StartupCancelledError):
            await processes.spawn(entry)
    assert real_world.states() == ["starting", "stopping", "stopped"]
    assert real_world.events[-1].error is None  # it ended by itself, and not by the grace period
    assert not (real_world.root / "called").exists()


# ---- nobody wants to be told: the runtime ends the entry


async def test_an_async_entry_is_cancelled_and_the_cancellation_is_no_error(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                process.send_nowait("cancelled")
                raise
            finally:
                process.send_nowait("finally")
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        since = trio.current_time()
        await handle.stop()
        world.assert_took(since, 0)
    assert (handle.info.exit_reason, handle.info.error) == (ExitReason.STOPPED, None)
    assert world.payloads() == ["cancelled", "finally"]
    assert world.states() == ["starting", "running", "stopping", "stopped"]


@pytest.mark.parametrize(
    ("statements", "state", "error", "result"),
    [
        ("return 'swallowed'", ProcessState.COMPLETED, None, "swallowed"),
        ("process.complete('said')", ProcessState.COMPLETED, None, "said"),
        ("process.fail('said')", ProcessState.FAILED, "said", None),
        ("raise LookupError('said')", ProcessState.FAILED, "LookupError: said", None),
        ("raise SystemExit(3)", ProcessState.STOPPED, None, None),
    ],
)
async def test_the_own_word_of_a_cancelled_entry_wins_over_the_stop(
    world, world_clock: MockClock | None, statements: str, state: ProcessState, error: str | None, result: object
) -> None:
    entry = world.entry(f"""
        async def run(process):
            process.ready()
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                {statements}
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
    assert (handle.info.state, handle.result) == (state, result)
    assert handle.info.error == error or handle.info.error.startswith(f"{error}\n")


async def test_the_cancellation_is_no_error_either_where_it_comes_as_a_group(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(trio.sleep_forever)
                process.ready()
                await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
    assert (handle.info.exit_reason, handle.info.error) == (ExitReason.STOPPED, None)


async def test_an_error_beside_the_cancellation_is_one(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fails_to_tidy_up)
                nursery.start_soon(trio.sleep_forever)
                process.ready()

        async def fails_to_tidy_up():
            try:
                await trio.sleep_forever()
            finally:
                raise LookupError("no broom")
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
    assert handle.info.state is ProcessState.FAILED
    assert "LookupError: no broom" in handle.info.error


async def test_an_async_entry_that_swallows_the_cancellation_and_goes_on_is_killed_after_the_grace_period(
    world, world_clock: MockClock | None
) -> None:
    """In memory a shield withstands the kill as well, for the second that it lasts here; a real process is gone."""
    entry = world.entry("""
        async def run(process):
            process.ready()
            with trio.CancelScope(shield=True):
                await process.wait_stop()
                await trio.sleep(1)
    """)
    async with world.worker(grace_period=0.3) as worker:
        handle = await worker.backend_processes.spawn(entry)
        since = trio.current_time()
        await handle.stop()
        world.assert_took(since, 1 if world.is_virtual else 0.3)
    assert handle.info.exit_reason is ExitReason.STOPPED
    assert "did not end within 0.3 s" in handle.info.error


CALLS = ["ready()", "heartbeat()", "send('x')", "receive()", "receive(timeout=0)", "sleep(0)", "sleep(3600)"]


@pytest.mark.parametrize("call", CALLS)
async def test_a_blocking_entry_gets_system_exit_at_its_next_call(real_world, call: str) -> None:
    """At its next call, and not before: what it does in between is not disturbed."""
    gate = Gate(real_world.root)
    entry = real_world.blocking_entry(f"""
        def run(process):
            process.ready()
            open("gate").read()
            try:
                process.{call}
            except SystemExit as end:
                process.send(type(end).__mro__[1].__name__)
                raise
            finally:
                process.send("finally")
    """)
    async with real_world.worker() as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn(entry)
        await gate.wait_reached()
        nursery.start_soon(handle.stop)
        await wait_state(worker, handle.process_id, ProcessState.STOPPING)
        gate.open()
        await handle.wait_ended()
    assert (handle.info.exit_reason, handle.info.error) == (ExitReason.STOPPED, None)
    assert real_world.payloads() == ["SystemExit", "finally"]


async def test_a_blocking_entry_is_ended_inside_a_call_that_waits(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            try:
                process.receive()
            finally:
                process.send("finally")
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        since = trio.current_time()
        await handle.stop()
        real_world.assert_took(since, 0)
    assert handle.info.exit_reason is ExitReason.STOPPED
    assert real_world.payloads() == ["finally"]


async def test_a_blocking_entry_that_swallows_system_exit_gets_it_again_and_may_return(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            seen = 0
            while seen < 3:
                try:
                    process.sleep(3600)
                except SystemExit:
                    seen += 1
            return seen
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, 3)


async def test_a_blocking_entry_that_swallows_it_for_good_is_killed_after_the_grace_period(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            while True:
                try:
                    process.sleep(3600)
                except SystemExit:
                    pass
    """)
    async with real_world.worker(grace_period=0.2) as worker:
        handle = await worker.backend_processes.spawn(entry)
        since = trio.current_time()
        await handle.stop()
        real_world.assert_took(since, 0.2)
    assert handle.info.exit_reason is ExitReason.STOPPED
    assert "did not end within 0.2 s" in handle.info.error


async def test_a_blocking_entry_that_fails_while_it_is_ended_has_failed(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            try:
                process.sleep(3600)
            finally:
                raise LookupError("no broom")
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
    assert handle.info.state is ProcessState.FAILED
    assert handle.info.error.startswith("LookupError: no broom\n")


async def test_no_signal_asks_an_entry_to_end(real_world) -> None:
    """Real processes only: in memory there are no signals. What a signal could do, a library of the entry may use."""
    entry = real_world.entry("""
        async def run(process):
            seen = []
            for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
                signal.signal(number, lambda number, _: seen.append(number))
            process.ready()
            await process.wait_stop()
            return seen
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop("enough")
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, [])


# ---- somebody is told


@pytest.mark.parametrize("reason", ["enough", None])
async def test_handlers_and_whoever_waits_are_told_the_reason_and_the_entry_ends_by_itself(
    world, world_clock: MockClock | None, reason: str | None
) -> None:
    entry = world.entry("""
        async def run(process):
            told = []
            process.on_stop(lambda notice: told.append(["first", notice.reason]))
            process.on_stop(lambda notice: told.append(["second", notice.reason]))
            process.ready()
            notice = await process.wait_stop()
            await trio.sleep(0.01)
            return [told, notice.reason, type(notice).__name__]
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop(reason)
    assert handle.info.state is ProcessState.COMPLETED
    assert handle.result == [[["first", reason], ["second", reason]], reason, "StopNotice"]


@pytest.mark.parametrize("reason", ["enough", None])
async def test_a_blocking_entrys_handlers_are_told_the_reason_and_it_ends_by_itself(
    real_world, reason: str | None
) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            told = []
            process.on_stop(lambda notice: told.append([notice.reason, type(notice).__name__]))
            process.on_stop(lambda notice: told.append("second"))
            process.ready()
            while not told:
                process.sleep(0.02)
            process.sleep(0)
            process.send("nothing is raised")
            return told
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop(reason)
    assert real_world.payloads() == ["nothing is raised"]
    assert handle.info.state is ProcessState.COMPLETED
    assert handle.result == [[reason, "StopNotice"], "second"]


async def test_wait_stop_is_a_level_and_returns_the_same_notice_at_once_when_called_later(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            told = []
            process.on_stop(told.append)
            process.ready()
            while not told:
                await trio.sleep(0.01)
            before = trio.current_time()
            with trio.fail_after(5):
                notices = [await process.wait_stop(), await process.wait_stop()]
            return [notice == told[0] for notice in notices] + [trio.current_time() - before < 5]
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop("enough")
    assert handle.result == [True, True, True]


@pytest.mark.parametrize(
    "register",
    [
        "unsubscribe = process.on_stop(print); unsubscribe(); unsubscribe()",
        "\n            with trio.move_on_after(0): await process.wait_stop()",
    ],
)
async def test_it_looks_once_at_who_is_there_when_the_stop_arrives(
    world, world_clock: MockClock | None, register: str
) -> None:
    """Who has been there before, and comes after, is not asked: the entry is cancelled."""
    entry = world.entry(f"""
        async def run(process):
            {register}
            process.ready()
            try:
                await trio.sleep_forever()
            finally:
                process.on_stop(lambda notice: process.send_nowait("told after all"))
                with trio.CancelScope(shield=True):
                    process.send_nowait((await process.wait_stop()).reason)
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop("enough")
    assert handle.info.exit_reason is ExitReason.STOPPED
    assert world.payloads() == ["enough"]


async def test_an_entry_that_is_told_and_does_not_end_is_killed_after_the_grace_period(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            await process.wait_stop()
            await process.send("told")
            await trio.sleep_forever()
    """)
    async with world.worker(grace_period=0.3) as worker:
        handle = await worker.backend_processes.spawn(entry)
        since = trio.current_time()
        await handle.stop()
        world.assert_took(since, 0.3)
    assert handle.info.exit_reason is ExitReason.STOPPED
    assert "did not end within 0.3 s" in handle.info.error
    assert world.payloads() == ["told"]


async def test_a_second_stop_is_not_told_again_and_the_first_reason_stays(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.on_stop(lambda notice: process.send_nowait(notice.reason))
            messages = process.messages()
            process.ready()
            await messages.receive()
    """)
    async with world.quiet_worker() as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn(entry)
        messages = handle.messages()
        nursery.start_soon(handle.stop, "first")
        assert await messages.receive() == "first"
        nursery.start_soon(handle.stop, "second")
        await trio.testing.wait_all_tasks_blocked()
        await handle.send("go")
        assert [payload async for payload in messages] == []
    assert handle.info.state is ProcessState.COMPLETED


@pytest.mark.parametrize(
    ("word", "state", "result"),
    [("complete", ProcessState.COMPLETED, "in handler"), ("fail", ProcessState.FAILED, None)],
)
async def test_complete_and_fail_within_a_stop_handler_end_the_entry(
    world, world_clock: MockClock | None, word: str, state: ProcessState, result: object
) -> None:
    entry = world.entry(f"""
        async def run(process):
            process.on_stop(lambda notice: process.{word}("in handler"))
            process.ready()
            await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
    assert (handle.info.state, handle.result) == (state, result)
    assert handle.info.error in (None, "in handler")


@pytest.mark.parametrize(
    ("word", "state", "result"),
    [("complete", ProcessState.COMPLETED, "in handler"), ("fail", ProcessState.FAILED, None)],
)
async def test_complete_and_fail_within_a_stop_handler_end_a_blocking_entry(
    real_world, word: str, state: ProcessState, result: object
) -> None:
    entry = real_world.blocking_entry(f"""
        def run(process):
            process.on_stop(lambda notice: process.{word}("in handler"))
            process.ready()
            process.sleep(3600)
            process.send("never")
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
    assert (handle.info.state, handle.result) == (state, result)
    assert real_world.payloads() == []


RAISING = """
            def raises(value):
                raise LookupError(f"cannot {value}")
            process.on_message(raises)
            process.on_message(heard.append)
            process.on_stop(raises)
            process.on_stop(heard.append)
"""


async def test_a_handler_that_raises_is_reported_on_stderr_and_the_others_still_run(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(f"""
        async def run(process):
            heard = []
            {RAISING}
            process.ready()
            notice = await process.wait_stop()
            while len(heard) < 2:
                await trio.sleep(0.01)
            return [str(thing) for thing in heard]
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send("a message")
        await handle.stop("enough")
    assert handle.info.state is ProcessState.COMPLETED
    assert sorted(handle.result) == ["StopNotice(reason='enough')", "a message"]
    assert "the on_message handler run.<locals>.raises raised LookupError: cannot a message" in stderr_of(handle)
    assert "the on_stop handler run.<locals>.raises raised LookupError" in stderr_of(handle)
    assert "Traceback" in stderr_of(handle)


async def test_a_blocking_entrys_handler_that_raises_is_reported_on_stderr_and_the_others_still_run(
    real_world,
) -> None:
    entry = real_world.blocking_entry(f"""
        def run(process):
            heard = []
            {RAISING}
            process.ready()
            while len(heard) < 2:
                process.sleep(0.02)
            process.complete([str(thing) for thing in heard])
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send("a message")
        await handle.stop("enough")
    assert sorted(handle.result) == ["StopNotice(reason='enough')", "a message"]
    assert "the on_message handler run.<locals>.raises raised LookupError: cannot a message" in stderr_of(handle)
    assert "the on_stop handler run.<locals>.raises raised LookupError" in stderr_of(handle)


async def test_stop_requested_takes_the_stop_into_the_blocking_entrys_own_hands(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            while not process.stop_requested:
                pass
            process.heartbeat()
            process.send("nothing is raised")
            return "by itself"
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=float("inf"))
        await handle.stop()
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, "by itself")
    assert real_world.payloads() == ["nothing is raised"]


async def test_a_stop_reaches_a_child_whose_pipes_are_full_both_ways(real_world) -> None:
    """Real processes only: it is the system's buffers that fill up. Its handler still runs, and ends it (rule 9)."""
    entry = real_world.entry("""
        async def run(process):
            process.on_stop(lambda notice: process.complete("told"))
            process.ready()
            while True:
                await process.send("x" * 100_000)
    """)
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        async with handle.messages():
            with pytest.raises(trio.WouldBlock):
                while True:
                    handle.send_nowait("y" * 100_000)
            await handle.stop()
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, "told")
