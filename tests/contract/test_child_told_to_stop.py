"""Stops that the entry hears of, by a handler, by `wait_stop` or by looking; and how it responds."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import ExitReason, ProcessState
from support.contract import stderr_of


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
    """Earlier and later waiters do not count: the entry is cancelled."""
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


async def test_complete_and_fail_within_a_stop_handler_end_a_blocking_entry(real_world) -> None:
    entry = real_world.blocking_entry("""
        def run(process):
            process.on_stop(lambda notice: getattr(process, process.payload)("in handler"))
            process.ready()
            process.sleep(3600)
            process.send("never")
    """)
    async with real_world.worker() as worker:
        for word, state, result in (
            ("complete", ProcessState.COMPLETED, "in handler"),
            ("fail", ProcessState.FAILED, None),
        ):
            handle = await worker.backend_processes.spawn(entry, payload=word)
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
