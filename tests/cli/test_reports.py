"""What processes say and do, in order, and who waits while nobody reads."""

from __future__ import annotations

import os

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from spindle_trio import LifecycleEvent, ProcessMessage, open_host
from spindle_trio.cli._output import Output
from spindle_trio.cli._reports import Reports
from spindle_trio.testing import MemoryLauncher, ScriptedChild

KIBIBYTE = "x" * 1024
MESSAGES = 8_000


async def brief(process) -> None:
    process.ready()
    for number in range(3):
        await process.send(number)


async def slow(process) -> None:
    await process.send("early")
    await trio.sleep(1)
    process.ready()


async def flooding(process) -> None:
    process.ready()
    for _ in range(MESSAGES):
        await process.send(KIBIBYTE)


async def quiet(process) -> None:
    process.ready()
    await trio.sleep(1)


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("brief", ["starting", "running", "0", "1", "2", "completed"]),
        ("slow", ["starting", "early", "running", "completed"]),
    ],
)
async def test_all_is_told_in_the_order_in_which_a_process_says_it(pipe, entry, expected, autojump_clock) -> None:
    """Whatever turn the tasks take, and although what it says comes on two lanes."""
    told: list[str] = []
    async with (
        open_host(MemoryLauncher({"brief": brief, "slow": slow})) as host,
        host.open_worker("w", user_id="ada") as worker,
        trio.open_nursery() as nursery,
    ):
        reports = Reports(
            worker.backend_processes,
            Output(pipe[1]),
            message=lambda message: told.append(str(message.payload)),
            event=lambda event: told.append(event.state.value),
        )
        nursery.start_soon(reports.run)
        for _ in range(20):
            told.clear()
            await (await worker.backend_processes.spawn(entry)).wait_ended()
            assert told == expected
        nursery.cancel_scope.cancel()


async def test_a_process_runs_before_what_it_has_said_in_the_same_moment(pipe, autojump_clock) -> None:
    """The word that it is ready may be read after the message."""
    told: list[str] = []
    children = [ScriptedChild() for _ in range(20)]
    async with (
        open_host(MemoryLauncher({"child": children})) as host,
        host.open_worker("w", user_id="ada") as worker,
        trio.open_nursery() as nursery,
    ):
        reports = Reports(
            worker.backend_processes,
            Output(pipe[1]),
            message=lambda message: told.append(str(message.payload)),
            event=lambda event: told.append(event.state.value),
        )
        nursery.start_soon(reports.run)
        for child in children:
            told.clear()
            nursery.start_soon(worker.backend_processes.spawn, "child")
            await wait_all_tasks_blocked()
            child.send("hello")
            await wait_all_tasks_blocked()
            child.ready()
            await trio.sleep(1)
            assert told == ["starting", "running", "hello"]
            child.exit()
            await trio.sleep(1)
        nursery.cancel_scope.cancel()


async def test_while_nobody_reads_only_processes_that_send_wait_and_nothing_is_lost(pipe, autojump_clock) -> None:
    output, printed = Output(pipe[1]), 0

    def message(message: ProcessMessage) -> None:
        nonlocal printed
        printed += 1
        output.put(str(message.payload))

    def event(event: LifecycleEvent) -> None:
        output.put(event.state.value)

    async def read() -> None:
        while True:
            await trio.lowlevel.wait_readable(pipe[0])
            os.read(pipe[0], 1 << 16)

    async with (
        open_host(MemoryLauncher({"flooding": flooding, "quiet": quiet})) as host,
        host.open_worker("w", user_id="ada") as worker,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(output.run)
        nursery.start_soon(Reports(worker.backend_processes, output, message=message, event=event).run)
        flood = await worker.backend_processes.spawn("flooding", heartbeat_timeout=float("inf"))
        await (await worker.backend_processes.spawn("quiet")).wait_ended()
        await wait_all_tasks_blocked()
        assert not flood.state.is_terminal
        assert printed < MESSAGES - 1_000, "no more than the output and the inbox hold"
        nursery.start_soon(read)
        await flood.wait_ended()
        assert printed == MESSAGES
        nursery.cancel_scope.cancel()
