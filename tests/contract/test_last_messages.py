"""Messages sent before an end are readable after it, however the end comes about, and however many they are."""

from __future__ import annotations

import textwrap

import pytest
from trio.testing import MockClock

from spindle_trio import ExitReason, Limits, ProcessState
from support.contract import run_to_end

COUNT = 500

ENDS = [
    ("return", ExitReason.COMPLETED),
    ("process.complete()", ExitReason.COMPLETED),
    ("process.fail('no')", ExitReason.FAILED),
    ("raise LookupError('no')", ExitReason.FAILED),
    ("sys.exit()", ExitReason.COMPLETED),
    ("sys.exit(3)", ExitReason.FAILED),
]


async def assert_each_end_lets_all_arrive(world, ends: list[tuple[str, ExitReason]], source: str) -> None:
    write = world.entry if source.startswith("async") else world.blocking_entry
    entries = [write(f"import os, sys\n{source}    {end}\n", f"{number}.py") for number, (end, _) in enumerate(ends)]
    async with world.quiet_worker() as worker:
        for entry, (end, exit_reason) in zip(entries, ends, strict=True):
            handle = await worker.backend_processes.spawn(entry)
            messages = handle.messages()
            info = await handle.wait_ended()
            assert info.exit_reason is exit_reason, end
            assert [payload async for payload in messages] == list(range(COUNT)), end
            assert handle.statistics().messages_received == COUNT


async def test_everything_sent_before_each_end_is_readable_after_it(world, world_clock: MockClock | None) -> None:
    source = f"async def run(process):\n    process.ready()\n    for n in range({COUNT}): await process.send(n)\n"
    await assert_each_end_lets_all_arrive(world, ENDS, source)


async def test_everything_a_blocking_entry_sent_before_each_end_is_readable_after_it(real_world) -> None:
    source = f"def run(process):\n    process.ready()\n    for n in range({COUNT}): process.send(n)\n"
    ends = [*ENDS, ("os._exit(0)", ExitReason.FAILED), ("os.abort()", ExitReason.FAILED)]
    await assert_each_end_lets_all_arrive(real_world, ends, source)


async def test_what_is_still_with_the_system_when_a_process_is_gone_is_taken_in(real_world) -> None:
    """The host had paused, for its inbox was full. Real processes only: in memory nothing ends without its runtime."""
    entry = real_world.blocking_entry("""
        import os
        def run(process):
            process.ready()
            for number in range(100):
                process.send(number)
            os._exit(0)
    """)
    async with real_world.quiet_worker(limits=Limits(inbox_messages=8)) as worker:
        messages = worker.backend_processes.messages()
        handle = await worker.backend_processes.spawn(entry)
        await handle.wait_ended()
        assert [(await messages.receive()).payload for _ in range(100)] == list(range(100))
    assert handle.statistics().messages_dropped == 0


async def test_a_long_message_that_is_still_with_the_system_when_a_process_is_gone_is_taken_in(real_world) -> None:
    """Longer than one read, that is; the host had paused, as above."""
    entry = real_world.blocking_entry("""
        import os
        def run(process):
            process.ready()
            process.send("first")
            process.send("x" * 100_000)
            os._exit(0)
    """)
    async with real_world.quiet_worker(limits=Limits(inbox_messages=1)) as worker:
        messages = worker.backend_processes.messages()
        handle = await worker.backend_processes.spawn(entry)
        await handle.wait_ended()
        assert [(await messages.receive()).payload for _ in range(2)] == ["first", "x" * 100_000]


async def test_everything_sent_before_and_during_a_stop_is_readable_after_it(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(f"""
        async def run(process):
            process.ready()
            for number in range({COUNT}):
                await process.send(number)
            try:
                await trio.sleep_forever()
            finally:
                process.send_nowait("goodbye")
    """)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        messages = handle.messages()
        received = [await messages.receive() for _ in range(COUNT)]
        await handle.stop()
    received += [payload async for payload in messages]
    assert handle.info.exit_reason is ExitReason.STOPPED
    assert received == [*range(COUNT), "goodbye"]


async def test_everything_a_blocking_entry_sent_before_a_stop_is_readable_after_it(real_world) -> None:
    entry = real_world.blocking_entry(f"""
        def run(process):
            process.ready()
            for number in range({COUNT}):
                process.send(number)
            try:
                process.sleep(3600)
            finally:
                process.send("goodbye")
    """)
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        messages = handle.messages()
        received = [await messages.receive() for _ in range(COUNT)]
        await handle.stop()
    assert received + [payload async for payload in messages] == [*range(COUNT), "goodbye"]


# ---- 20 MB, in frames of nearly 1 MiB

MESSAGES = 20
TEXT_BYTES = 1024 * 1024 - 20

ASYNC_LAST_WORDS = {
    "return": """
        async def run(process):
            process.ready()
            await process.messages().receive()
            await send_all(process)
            return "done"
    """,
    "after complete": """
        async def run(process):
            process.ready()
            try:
                process.complete("done")
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await send_all(process)
    """,
    "after a stop": """
        async def run(process):
            process.ready()
            await process.wait_stop()
            await send_all(process)
            return "done"
    """,
}

BLOCKING_LAST_WORDS = {
    "return": """
        def run(process):
            process.ready()
            process.receive()
            send_all(process)
            return "done"
    """,
    "after complete": """
        def run(process):
            process.ready()
            try:
                process.complete("done")
            finally:
                send_all(process)
    """,
    "after a stop": """
        def run(process):
            process.on_stop(lambda notice: None)
            process.ready()
            while not process.stop_requested:
                process.sleep(0.01)
            send_all(process)
            return "done"
    """,
}


async def assert_all_arrives(world, entry: str, when: str) -> None:
    """Read while it runs if the entry has to wait for that, otherwise only after its end."""
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        messages = handle.messages()
        await handle.send("go")
        payloads = [payload async for payload in messages] if when == "return" else []
        if when == "after a stop":
            await handle.stop()
        info = await handle.wait_ended()
    payloads += [payload async for payload in messages]
    assert [number for number, _ in payloads] == list(range(MESSAGES))
    assert {len(text) for _, text in payloads} == {TEXT_BYTES}
    assert (info.state, info.error, handle.result) == (ProcessState.COMPLETED, None, "done")


@pytest.mark.parametrize("when", ASYNC_LAST_WORDS)
async def test_20_megabytes_arrive_whole_also_where_nobody_reads_until_the_end(
    world, world_clock: MockClock | None, when: str
) -> None:
    entry = world.entry(
        f"async def send_all(process):\n    for number in range({MESSAGES}):\n"
        f"        await process.send([number, 'x' * {TEXT_BYTES}])\n" + textwrap.dedent(ASYNC_LAST_WORDS[when])
    )
    await assert_all_arrives(world, entry, when)


@pytest.mark.slow
@pytest.mark.parametrize("when", BLOCKING_LAST_WORDS)
async def test_20_megabytes_of_a_blocking_entry_arrive_whole_also_where_nobody_reads_until_the_end(
    real_world, when: str
) -> None:
    entry = real_world.blocking_entry(
        f"def send_all(process):\n    for number in range({MESSAGES}):\n"
        f"        process.send([number, 'x' * {TEXT_BYTES}])\n" + textwrap.dedent(BLOCKING_LAST_WORDS[when])
    )
    await assert_all_arrives(real_world, entry, when)


async def test_results_are_on_the_handle_and_on_the_terminal_event_and_nowhere_else(
    world, world_clock: MockClock | None
) -> None:
    source = "async def run(process):\n    process.ready()\n    {}\n"
    returned = world.entry(source.format("return {'by': ['return', None]}"), name="returned.py")
    said = world.entry(source.format("process.complete({'by': 'complete'})"), name="said.py")
    failed = world.entry(source.format("process.fail('no')"), name="failed.py")
    async with world.worker() as worker:
        handles = [await worker.backend_processes.spawn(entry) for entry in (returned, said, failed)]
        for handle in handles:
            await handle.wait_ended()
    results = [{"by": ["return", None]}, {"by": "complete"}, None]
    assert [handle.result for handle in handles] == results
    terminal = {event.process_id: event.result for event in world.events if event.state.is_terminal}
    assert [terminal[handle.process_id] for handle in handles] == results
    assert all(event.result is None for event in world.events if not event.state.is_terminal)


async def test_a_result_is_not_there_before_the_end(world, world_clock: MockClock | None) -> None:
    """`complete` has been heard, but the process still cleans up: its end is when the result counts."""
    entry = world.entry("""
        async def run(process):
            process.ready()
            process.complete("done")
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await process.send("cleaning")
                    await process.messages().receive()
    """)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert await handle.messages().receive() == "cleaning"
        assert (handle.state, handle.result) == (ProcessState.RUNNING, None)
        await handle.send("go")
        await handle.wait_ended()
    assert (handle.state, handle.result) == (ProcessState.COMPLETED, "done")


async def test_a_process_that_announces_more_messages_than_arrive_is_told_of(real_world) -> None:
    """Real processes only: an entry that writes into its own lane. The count in the last frames is what shows it."""
    entry = real_world.blocking_entry("""
        def run(process):
            process.ready()
            process.send("one")
            process._controls.sent += 2
            return "done"
    """)
    handle = await run_to_end(real_world, entry)
    assert handle.info.state is ProcessState.COMPLETED
    assert handle.info.error == "2 of its messages never arrived"
