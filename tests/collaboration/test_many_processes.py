"""Ten thousand processes under a mock clock: what one of them costs does not depend on how many there are.

Objects, tasks and steps are counted where that says it. Where it does not, since a search through a list is one call
like any other, the time for few is held against the time for ten times as many: work that grows with the number of
processes would make that a hundred times as long, and what is asked for lies well below.
"""

from __future__ import annotations

import gc
import math
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import spindle_trio as spindle
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher, ScriptedChild

FEW = 300


async def idle(process: ProcessContext) -> None:
    process.ready()
    await trio.sleep_forever()


@asynccontextmanager
async def a_worker(launcher: MemoryLauncher | None = None) -> AsyncIterator[spindle.BackendProcesses]:
    launcher = launcher or MemoryLauncher({"idle": idle})
    async with (
        spindle.open_host(launcher, max_processes=10_000) as host,
        host.open_worker("crowd", user_id="ada") as worker,
    ):
        yield worker.backend_processes


@contextmanager
def without_collections() -> Iterator[None]:
    """The collector goes through all objects now and then, which is not the work of any of them."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@attrs.frozen
class Sizes:
    """For how many some work is done, and how much longer it may take for more of them."""

    few: int
    growth: float
    """How many times as long ten times as many may take; 10 would be exact, and 100 quadratic. The fewer there are, the
    less a search among them adds to the rest, so that less is to be allowed."""


@pytest.fixture(params=[Sizes(120, 15), pytest.param(Sizes(300, 20), marks=pytest.mark.slow)], ids=lambda it: it.few)
def sizes(request: pytest.FixtureRequest) -> Sizes:
    """A small crowd, or a large one."""
    made: Sizes = request.param
    return made


async def assert_linear(work: Callable[[int], Awaitable[object]], sizes: Sizes) -> None:
    """Do some work for few and for many; other tries are granted, for other programs run here too."""
    await work(10)
    for _ in range(3):
        took = []
        for count in (sizes.few, 10 * sizes.few):
            with without_collections():
                began = time.process_time()
                await work(count)
                took.append(time.process_time() - began)
        if took[1] < sizes.growth * took[0]:
            return
    pytest.fail(f"{sizes.few} took {took[0]:.3f} s, and ten times as many took {took[1]:.3f} s")


async def test_the_last_of_thousands_costs_what_the_first_did(autojump_clock: MockClock) -> None:
    """The same question closer up: a mere look at each process there is would add half of what one costs."""

    async def seconds_for(work: Callable[[], Awaitable[object]]) -> float:
        began = time.process_time()
        for _ in range(250):
            await work()
        return time.process_time() - began

    async def growth() -> float:
        """How much longer a block of processes takes among six thousand than among the first thousand."""
        handles: list[spindle.ProcessHandle] = []
        async with a_worker() as processes:

            async def spawn() -> None:
                handles.append(await processes.spawn("idle"))

            async def stop() -> None:
                await handles.pop().stop()

            with without_collections():
                spawning = [await seconds_for(spawn) for _ in range(24)]
                stopping = [await seconds_for(stop) for _ in range(24)]
        return max(min(took[-4:]) / min(took[:4]) for took in (spawning, stopping[::-1]))

    if await growth() > 1.35:  # other programs run here too
        assert await growth() < 1.35


@pytest.mark.slow
async def test_spawning_and_ending_is_linear(autojump_clock: MockClock, sizes: Sizes) -> None:
    async def spawn_and_end(count: int) -> None:
        async with a_worker() as processes:
            for number in range(count):
                await processes.spawn("idle", key=f"key {number}")

    await assert_linear(spawn_and_end, sizes)


@pytest.mark.slow
async def test_spawning_all_at_once_and_stopping_each_is_linear(autojump_clock: MockClock, sizes: Sizes) -> None:
    async def spawn_and_stop(count: int) -> None:
        async with a_worker() as processes, trio.open_nursery() as nursery:

            async def one() -> None:
                await (await processes.spawn("idle")).stop()

            for _ in range(count):
                nursery.start_soon(one)

    await assert_linear(spawn_and_stop, sizes)


@pytest.mark.slow
async def test_messages_and_events_of_many_are_linear(autojump_clock: MockClock, sizes: Sizes) -> None:
    """One subscriber to all of them, as a live view is."""

    async def chatty(process: ProcessContext) -> int:
        process.ready()
        await process.send("hello")
        async for _ in process.messages():
            break
        return 1

    async def talk(count: int) -> None:
        async with (
            a_worker(MemoryLauncher({"chatty": chatty})) as processes,
            processes.lifecycle_events() as events,
            processes.messages() as messages,
        ):
            for _ in range(count):
                handle = await processes.spawn("chatty", heartbeat_timeout=math.inf)
                assert (await messages.receive()).payload == "hello"
                await handle.send("done")
                await handle.wait_ended()
                assert [(await events.receive()).process_id for _ in range(3)] == [handle.process_id] * 3

    await assert_linear(talk, sizes)


@pytest.mark.slow
async def test_looking_up_a_key_is_linear(autojump_clock: MockClock, sizes: Sizes) -> None:
    async def look_up_all(count: int) -> None:
        async with a_worker() as processes:
            for number in range(count):
                await processes.spawn("idle", key=f"key {number}")
            for number in range(count):
                (info,) = await processes.list(kind="idle", key=f"key {number}")
                assert info.key == f"key {number}"

    await assert_linear(look_up_all, sizes)


async def test_replacing_one_key_over_and_over_is_linear(autojump_clock: MockClock, sizes: Sizes) -> None:
    async def replace(count: int) -> None:
        async with a_worker() as processes, trio.open_nursery() as nursery:

            async def one() -> None:
                try:
                    await processes.spawn("idle", key="the one", replace_existing=True)
                except spindle.StartupCancelledError:
                    pass  # by the next one

            for _ in range(count):
                nursery.start_soon(one)

    await assert_linear(replace, sizes)


async def test_a_long_list_of_scripted_children_is_gone_through_once(autojump_clock: MockClock) -> None:
    looks = 0

    class Counted(ScriptedChild):
        @property
        def was_launched(self) -> bool:
            nonlocal looks
            looks += 1
            return super().was_launched

    children = [Counted() for _ in range(FEW)]
    async with a_worker(MemoryLauncher({"scripted": children})) as processes, trio.open_nursery() as nursery:
        for child in children:
            nursery.start_soon(processes.spawn, "scripted")
            await child.started()
            child.ready()
    assert looks < 3 * FEW


async def test_a_launch_that_never_ends_is_ended_in_time_among_many(autojump_clock: MockClock) -> None:
    """One task watches all launches of a worker, so each has to have its own deadline all the same."""

    class Stuck(MemoryLauncher):
        def launch(self, order):  # type: ignore[no-untyped-def, override]  # a block that is never entered
            return _NeverEntered()

    late: dict[float, float] = {}
    async with a_worker(Stuck({"idle": idle})) as processes:
        began = trio.current_time()

        async def one(timeout: float) -> None:
            with pytest.raises(spindle.StartupTimeoutError):
                await processes.spawn("idle", startup_timeout=timeout)
            late[timeout] = trio.current_time() - began

        async with trio.open_nursery() as nursery:
            for tenths in range(1, 200):
                nursery.start_soon(one, tenths / 10)
    assert late == {timeout: pytest.approx(timeout) for timeout in late}
    assert len(late) == 199


class _NeverEntered:
    async def __aenter__(self) -> None:
        await trio.sleep_forever()

    async def __aexit__(self, *_: object) -> None:
        raise AssertionError("it was never entered")


async def test_a_process_in_memory_is_two_tasks() -> None:
    """Its supervisor, and its entry. What reads its lanes is started when there is something to read."""
    async with a_worker() as processes:
        await processes.spawn("idle")
        await wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(10):
            await processes.spawn("idle")
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living - before == 20


async def test_an_idle_process_in_memory_fits_in_25_kib() -> None:
    async with a_worker() as processes:
        await processes.spawn("idle")
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(FEW):
                await processes.spawn("idle")
            gc.collect()
            each = tracemalloc.get_traced_memory()[0] / FEW
        finally:
            tracemalloc.stop()
    assert each < 25 * 1024


class _Steps(trio.abc.Instrument):
    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_beats_wake_no_watchdog(autojump_clock: MockClock) -> None:
    """It sleeps until a process would be late, looks once, and sleeps again; and no startup slice outlasts `ready`."""

    async def beating(process: ProcessContext) -> None:
        process.ready()
        while True:
            process.heartbeat()
            await trio.sleep(1)

    steps = _Steps()
    async with a_worker(MemoryLauncher({"beating": beating})) as processes:
        for _ in range(20):
            await processes.spawn("beating", heartbeat_timeout=15)
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(steps)
        await trio.sleep(149)
        trio.lowlevel.remove_instrument(steps)
        assert len(await processes.list(state=spindle.ProcessState.RUNNING)) == 20
    beats = 20 * 149
    # Each look is a few steps: the clock cuts the sleep short, and what is due at the same time goes first.
    assert steps.count - beats < 20 * 12 * 5


async def test_a_kill_in_memory_takes_four_steps_a_process() -> None:
    """The entry is cancelled, and its nursery ends; the supervisor wakes up at the exit, and its nursery ends."""
    steps = _Steps()
    async with (
        spindle.open_host(MemoryLauncher({"idle": idle}), max_processes=50) as host,
        host.open_worker("crowd", user_id="ada") as worker,
    ):
        for _ in range(50):
            await worker.backend_processes.spawn("idle")
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(steps)
        host.kill()
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(steps)
    assert steps.count < 4.5 * 50
