"""Stops that no code in the child handles: before the entry is called, cancelled, and swallowed."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import ExitReason, ProcessState, StartupCancelledError
from support.contract import Gate, wait_state

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
    assert handle.info.error == error or handle.info.error.startswith(f"{error} (Traceback: ")


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


async def test_a_blocking_entry_gets_system_exit_at_its_next_call(real_world) -> None:
    """At its next call, and not before: what it does in between is not disturbed."""
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            number, call = process.payload
            open(f"gate{number}").read()
            try:
                eval(f"process.{call}")
            except SystemExit as end:
                process.send(type(end).__mro__[1].__name__)
                raise
            finally:
                process.send("finally")
    """)
    async with real_world.worker() as worker, trio.open_nursery() as nursery:
        for number, call in enumerate(CALLS):
            real_world.messages.clear()
            gate = Gate(real_world.root, f"gate{number}")
            handle = await worker.backend_processes.spawn(entry, payload=[number, call])
            await gate.wait_reached()
            nursery.start_soon(handle.stop)
            await wait_state(worker, handle.process_id, ProcessState.STOPPING)
            gate.open()
            await handle.wait_ended()
            assert (handle.info.exit_reason, handle.info.error) == (ExitReason.STOPPED, None)
            assert real_world.payloads() == ["SystemExit", "finally"], call


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
    assert handle.info.error.startswith("LookupError: no broom (Traceback: ")


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
