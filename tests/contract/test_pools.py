"""Pools: who gets which process, how each call ends, and what becomes of the processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from spindle_trio import (
    CallFailedError,
    CallTimeoutError,
    EntryError,
    PayloadError,
    Pool,
    PoolBrokenError,
    ProcessLimitError,
    ProcessLostError,
    StartupFailedError,
    UnknownMethodError,
    open_pool,
)

from .conftest import World

GRACE = 0.25
"""The seconds that a handler has to give up."""

TOOLS = """
STARTED = []

async def run(process):
    STARTED.append(process)
    number = len(STARTED)
    began = []

    @process.on_call
    async def square(payload):
        return payload * payload

    @process.on_call
    async def who(payload):
        return [os.getpid(), number]

    @process.on_call
    async def begin(payload):
        await process.send(["began", payload])
        await trio.sleep(payload["seconds"])
        return payload["name"]

    @process.on_call
    async def clings(payload):
        await process.send(["began", payload])
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(payload["seconds"])

    @process.on_call
    async def fail(payload):
        raise ValueError(f"no {payload}")

    @process.on_call
    async def end(payload):
        await process.send(["ended", payload])
        process.fail("as it was told")
        await trio.sleep_forever()

    @process.on_call
    async def count(payload):
        for number in range(payload):
            yield number

    process.ready()
"""
"""Answers calls. In memory all its processes share a module; real ones have their own."""


@asynccontextmanager
async def opened(
    world: World, source: str = TOOLS, *, host: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Pool]:
    """Open a pool of an entry."""
    entry = world.entry(source)
    async with (
        world.worker(cancel_grace=GRACE, **(host or {})) as worker,
        open_pool(worker, entry, **options) as pool,
    ):
        yield pool


class Calls:
    """Calls in tasks of their own: what became of each, in the order of their ends."""

    def __init__(self, nursery: trio.Nursery, pool: Pool) -> None:
        self.ends: list[tuple[Any, Any]] = []
        self._nursery = nursery
        self._pool = pool
        self._changed = trio.lowlevel.ParkingLot()

    async def begin(self, name: str, method: str, payload: object = None, **options: Any) -> trio.CancelScope:
        """Begin one, and let it come as far as it can in this program."""
        scope = trio.CancelScope()
        self._nursery.start_soon(self._run, scope, name, method, payload, options)
        await trio.testing.wait_all_tasks_blocked()
        return scope

    async def _run(
        self, scope: trio.CancelScope, name: str, method: str, payload: object, options: dict[str, Any]
    ) -> None:
        end: Any = "cancelled"
        with scope:
            try:
                end = await self._pool.call(method, payload, **options)
            except Exception as error:
                end = error
        self.ends.append((name, end))
        self._changed.unpark_all()

    async def wait(self, count: int) -> list[tuple[Any, Any]]:
        """Wait until so many have ended."""
        while len(self.ends) < count:
            await self._changed.park()
        return self.ends


def slow(name: str, seconds: float = 0.1) -> dict[str, Any]:
    return {"name": name, "seconds": seconds}


# ---- who gets which process


async def test_a_process_is_started_for_the_first_call_and_used_again(
    world: World, world_clock: MockClock | None
) -> None:
    async with opened(world) as pool:
        assert pool.statistics().starting == 0
        assert await pool.call("square", 3) == 9
        assert await pool.call("square", 4) == 16
        assert (pool.statistics().starts, pool.statistics().idle) == (1, 1)
    assert world.reasons() == [("stopped", "stopped")]


async def test_each_process_has_one_call_and_the_others_wait(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, size=2) as pool, trio.open_nursery() as nursery:
        calls = Calls(nursery, pool)
        for name in "abcde":
            await calls.begin(name, "begin", slow(name, 0.05))
        now = pool.statistics()
        assert (now.busy + now.starting, now.waiting + now.busy) == (2, 5)
        ends = await calls.wait(5)
        assert sorted(ends) == [(name, name) for name in "abcde"]
        assert pool.statistics().starts == 2


async def test_the_idle_process_that_was_used_last_is_used_next(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, size=3, prestart=True) as pool, trio.open_nursery() as nursery:
        calls = Calls(nursery, pool)
        for name, seconds in (("a", 1), ("b", 3), ("c", 2)):
            await calls.begin(name, "begin", slow(name, seconds))
        await calls.wait(3)
        _, last = await pool.call("who")
        assert {(await pool.call("who"))[1] for _ in range(5)} == {last}
        ended_last = [name for name, _ in calls.ends][-1]
        assert ended_last == "b"


async def test_prestart_starts_all_of_them_at_once(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, size=3, prestart=True) as pool:
        assert pool.statistics().starting == 3
        await world.wait_state("running", 3)
        assert pool.statistics().calls == 0


async def test_calls_wait_for_a_process_and_are_begun_in_order(virtual_world: World, autojump_clock: MockClock) -> None:
    async with opened(virtual_world, size=1) as pool, trio.open_nursery() as nursery:
        calls = Calls(nursery, pool)
        for name in "abcdef":
            await calls.begin(name, "begin", slow(name))
        now = pool.statistics()
        assert (now.busy, now.waiting) == (1, 5)
        assert [name for name, _ in await calls.wait(6)] == list("abcdef")


# ---- how a call ends


async def test_an_error_of_the_handler_is_raised_and_the_process_lives_on(
    world: World, world_clock: MockClock | None
) -> None:
    async with opened(world) as pool:
        with pytest.raises(CallFailedError) as caught:
            await pool.call("fail", "luck")
        assert (caught.value.error_type, caught.value.text) == ("ValueError", "no luck")
        with pytest.raises(UnknownMethodError) as unknown:
            await pool.call("nobody")
        assert "square" in unknown.value.known
        assert pool.statistics().starts == 1
        assert pool.statistics().idle == 1


async def test_a_call_whose_process_is_lost_is_raised_and_not_repeated(
    world: World, world_clock: MockClock | None
) -> None:
    async with opened(world) as pool:
        with pytest.raises(ProcessLostError) as caught:
            await pool.call("end", "once")
        assert caught.value.handed_over
        assert await pool.call("square", 5) == 25
        assert world.payloads() == [["ended", "once"]]
        now = pool.statistics()
        assert (now.failures, now.starts, now.restarts, now.failures_in_a_row) == (1, 2, 1, 0)


async def test_a_hung_call_times_out_and_its_process_is_replaced(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, size=1) as pool:
        await pool.call("square", 1)
        began = trio.current_time()
        with pytest.raises(CallTimeoutError, match=r"within 0\.5 s, and"):  # less the microseconds until it was called
            await pool.call("clings", slow("a", world.seconds(1, 60)), timeout=0.5)
        world.assert_took(began, 0.5)
        assert pool.statistics().busy == 1
        assert await pool.call("square", 5) == 25
        world.assert_took(
            began, world.seconds(0.5 + 1, 0.5 + GRACE)
        )  # nothing in memory can be killed while it is shielded
        now = pool.statistics()
        assert (now.overruns, now.failures, now.restarts) == (1, 0, 1)
    assert world.reasons()[0] == ("timed_out", "timed_out")


async def test_a_call_that_waited_for_its_process_and_then_hangs_says_how_its_time_went(
    world: World, world_clock: MockClock | None
) -> None:
    async with opened(world, size=1) as pool, trio.open_nursery() as nursery:
        calls = Calls(nursery, pool)
        await calls.begin("a", "begin", slow("a", 0.3))
        await world.wait_payload(["began", slow("a", 0.3)])
        with pytest.raises(CallTimeoutError, match=r"within 0\.5 s \(0\.\d+ s of it waiting for a process\)") as late:
            await pool.call("begin", slow("b", 9), timeout=0.5)
        error = late.value
        assert (error.method, error.entry) == ("begin", "entry.py")
        assert error.process_id == world.events[0].process_id


async def test_a_process_is_idle_when_the_handler_of_a_cancelled_call_has_given_up(
    world: World, world_clock: MockClock | None
) -> None:
    async with opened(world, size=1) as pool, trio.open_nursery() as nursery:
        calls = Calls(nursery, pool)
        scope = await calls.begin("a", "clings", slow("a", GRACE / 2))
        await world.wait_payload(["began", slow("a", GRACE / 2)])
        began = trio.current_time()
        scope.cancel()
        assert await calls.wait(1) == [("a", "cancelled")]
        assert trio.current_time() - began < GRACE / 2
        assert (pool.statistics().busy, pool.statistics().idle) == (1, 0)
        assert await pool.call("square", 2) == 4
        assert trio.current_time() - began >= GRACE / 2 - 1e-6
        assert pool.statistics().starts == 1


async def test_a_process_that_may_overrun_is_left_until_it_gives_up(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, size=1) as pool:
        await pool.call("square", 1)
        began = trio.current_time()
        with pytest.raises(CallTimeoutError):
            await pool.call("clings", slow("a", 100), timeout=1, overrun="leave")
        assert await pool.call("square", 2) == 4
        virtual_world.assert_took(began, 101)
        assert pool.statistics().starts == 1


async def test_the_wait_for_a_process_counts_and_its_error_says_so(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, size=1) as pool, trio.open_nursery() as nursery:
        calls = Calls(nursery, pool)
        await calls.begin("a", "begin", slow("a", world.seconds(5, 0.5)))
        await world.wait_payload(["began", slow("a", world.seconds(5, 0.5))])
        began = trio.current_time()
        with pytest.raises(
            CallTimeoutError, match=r"'square' was not begun in time: it waited 0\.1\d* s for a process"
        ):
            await pool.call("square", 1, timeout=0.1)
        world.assert_took(began, 0.1)
        assert pool.statistics().waiting == 0
        await calls.wait(1)
        assert pool.statistics().calls == 1


async def test_a_wait_for_processes_that_are_starting_says_so(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, "async def run(process):\n    await trio.sleep_forever()\n", size=2) as pool:
        with pytest.raises(CallTimeoutError, match="none of its processes has become ready yet; ") as caught:
            await pool.call("square", 1, timeout=0.1)
        assert "more processes" not in str(caught.value)


async def test_a_process_that_comes_in_the_last_moment_is_not_called(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, size=1) as pool:
        await pool.call("square", 1)
        for number in range(20):
            async with trio.open_nursery() as nursery:
                calls = Calls(nursery, pool)
                await calls.begin("a", "begin", slow("a", 1))
                await calls.begin("b", "square", 2, timeout=1)
                await calls.wait(2)
            assert isinstance(dict(calls.ends)["b"], CallTimeoutError)
            assert pool.statistics().calls == number + 2
        with pytest.raises(CallTimeoutError, match="not begun in time"):
            await pool.call("square", 1, timeout=1e-320)
        assert pool.statistics().idle == 1


async def test_what_is_left_of_the_time_is_what_the_handler_has(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, size=1) as pool, trio.open_nursery() as nursery:
        calls = Calls(nursery, pool)
        await calls.begin("a", "begin", slow("a", 3))
        await calls.begin("b", "begin", slow("b", 60), timeout=5)
        await calls.wait(2)
        assert trio.current_time() == pytest.approx(5)
        assert isinstance(calls.ends[1][1], CallTimeoutError)


async def test_a_call_that_is_cancelled_while_it_waits_leaves_the_line(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, size=1) as pool, trio.open_nursery() as nursery:
        calls = Calls(nursery, pool)
        scopes = {name: await calls.begin(name, "begin", slow(name)) for name in "abcd"}
        scopes["c"].cancel()
        await calls.wait(4)
        assert calls.ends[0] == ("c", "cancelled")
        assert [payload[1]["name"] for payload in virtual_world.payloads()] == ["a", "b", "d"]


async def test_a_cancelled_caller_gets_no_process_and_loses_none(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, size=1) as pool, trio.open_nursery() as nursery:
        await pool.call("square", 1)
        calls = Calls(nursery, pool)
        await calls.begin("a", "begin", slow("a", 1))
        scope = await calls.begin("b", "square", 2)
        await trio.sleep(1)  # to the moment at which the process becomes free
        scope.cancel()
        assert await pool.call("square", 3, timeout=1) == 9
        assert pool.statistics().idle == 1


async def test_a_call_that_was_not_handed_over_goes_to_another_process(
    world: World, world_clock: MockClock | None
) -> None:
    async with opened(world, size=1) as pool:
        await pool.call("square", 1)
        (info,) = [event.process_id for event in world.events if event.state == "running"]
        async with trio.open_nursery() as nursery:
            worker = pool._crew._worker
            nursery.start_soon(worker.backend_processes.stop, info)
            while world.states(info)[-1] != "stopping":
                await world.wait_change()
            assert await pool.call("square", 3) == 9
        now = pool.statistics()
        assert (now.failures, now.restarts) == (0, 1)


@pytest.mark.slow
async def test_what_hangs_in_c_crashes_or_takes_all_memory_costs_its_process_at_most(real_world: World) -> None:
    real_world.blocking_entry(
        """
        import os, resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

        def grow(_):
            hoard = []
            while True:
                hoard.append(bytearray(16 << 20))

        calls = {
            "count": lambda _: sum(range(1 << 60)),
            "abort": lambda _: os.abort(),
            "grow": grow,
            "square": lambda number: number * number,
        }
        """
    )
    async with real_world.worker(cancel_grace=0.1) as worker, open_pool(worker, "entry.py", size=1) as pool:
        with pytest.raises(CallTimeoutError):
            await pool.call("count", timeout=0.2)
        assert await pool.call("square", 2) == 4
        with pytest.raises(ProcessLostError) as lost:
            await pool.call("abort")
        assert lost.value.post_mortem is not None
        assert "SIGABRT" in lost.value.post_mortem.error
        with pytest.raises(CallFailedError) as full:
            await pool.call("grow")
        assert full.value.error_type == "MemoryError"
        assert await pool.call("square", 3) == 9
        now = pool.statistics()
        assert (now.starts, now.overruns, now.failures) == (3, 1, 1)


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_thousands_of_calls_at_once_are_all_answered(
    virtual_world: World, autojump_clock: MockClock, count: int
) -> None:
    ended: list[int] = []

    async def call(pool: Pool, number: int) -> None:
        assert await pool.call("square", number, timeout=1e6) == number * number
        ended.append(number)

    async with opened(virtual_world, size=1) as pool, trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(call, pool, number)
    assert sorted(ended) == list(range(count))


# ---- processes that end


async def test_a_process_that_ends_while_it_is_idle_is_replaced(world: World, world_clock: MockClock | None) -> None:
    source = TOOLS.replace(
        "process.ready()", "process.on_message(lambda _: process.fail('told to'))\n    process.ready()"
    )
    async with opened(world, source, size=1) as pool:
        await pool.call("square", 1)
        await pool._crew._worker.backend_processes.send(world.events[0].process_id, "go")
        await world.wait_state("running", 2)
        assert pool.statistics().failures == 1
        assert await pool.call("square", 3) == 9


async def test_a_process_that_somebody_stops_while_it_starts_is_replaced_once_it_is_gone(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    source = TOOLS.replace("process.ready()", "await trio.sleep(1)\n    process.ready()")
    async with opened(virtual_world, source, size=1, prestart=True) as pool:
        first = await virtual_world.wait_state("starting")
        await pool._crew._worker.backend_processes.stop(first.process_id)
        assert await pool.call("square", 3) == 9
        states = [str(event.state) for event in virtual_world.events]
        assert states == ["starting", "stopping", "stopped", "starting", "running"]
        assert pool.statistics().failures == 0


async def test_a_process_that_has_had_its_calls_is_replaced_and_no_call_is_lost(
    world: World, world_clock: MockClock | None
) -> None:
    async with opened(world, size=2, max_calls=3) as pool:
        answers = [answer async for answer in pool.map("square", range(20))]
        assert answers == [number * number for number in range(20)]
        now = pool.statistics()
        assert now.failures == 0
        assert now.recycled >= 5
    assert set(world.reasons()) == {("stopped", "stopped")}


async def test_idle_processes_are_stopped_and_come_back_when_they_are_needed(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, size=2, max_idle=10) as pool:
        await pool.call("square", 1)
        await trio.sleep(9)
        await pool.call("square", 2)
        await trio.sleep(9.5)
        assert pool.statistics().idle == 1
        await trio.sleep(1)
        assert (pool.statistics().idle, pool.statistics().recycled, pool.statistics().starting) == (0, 1, 0)
        assert await pool.call("square", 3) == 9
        assert pool.statistics().starts == 2
        await trio.lowlevel.checkpoint()


async def test_a_process_whose_lifetime_is_over_is_replaced_after_its_call(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, size=1, max_lifetime=10) as pool:
        await pool.call("square", 1)
        began = trio.current_time()
        assert await pool.call("begin", slow("a", 15)) == "a"
        virtual_world.assert_took(began, 15)
        await virtual_world.wait_state("running", 2)
        await trio.sleep(10.5)
        await virtual_world.wait_state("running", 3)
        assert (pool.statistics().recycled, pool.statistics().failures) == (2, 0)


async def test_a_call_at_the_moment_at_which_an_idle_process_goes_is_answered(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, size=2, max_idle=1, max_lifetime=7) as pool:
        for number in range(30):
            assert await pool.call("square", number) == number * number
            await trio.sleep(1)


# ---- pools that give up


NEVER_STARTS = """
async def run(process):
    raise RuntimeError("not today")
"""


async def test_a_pool_whose_entry_never_starts_gives_up_with_the_post_mortem(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, NEVER_STARTS, size=1) as pool, trio.open_nursery() as nursery:
        calls = Calls(nursery, pool)
        for name in "ab":
            await calls.begin(name, "square")
        await calls.wait(2)
        delays = [1, 2, 4, 8, 16, 30]  # the first failure costs none
        assert 0.8 * sum(delays) <= trio.current_time() <= sum(delays)
        assert len(virtual_world.reasons()) == 8
        for _, error in calls.ends:
            assert isinstance(error, PoolBrokenError)
            assert "8 failures in a row" in str(error)
            assert error.post_mortem is not None
            assert "not today" in str(error.post_mortem.traceback)
            assert isinstance(error.__cause__, StartupFailedError)
        assert calls.ends[0][1] is not calls.ends[1][1]
        with pytest.raises(PoolBrokenError, match="mend what is wrong"):
            await pool.call("square")
        assert "broken" in repr(pool)
        assert pool.statistics().is_broken


async def test_a_pool_whose_processes_die_at_every_call_gives_up(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, size=2, give_up_after=3) as pool:
        for _ in range(3):
            with pytest.raises(ProcessLostError):
                await pool.call("end")
        with pytest.raises(PoolBrokenError) as caught:
            await pool.call("square", 1)
        assert caught.value.post_mortem is not None
        assert "as it was told" in caught.value.post_mortem.error


async def test_an_answer_ends_the_row_of_failures(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, size=1, give_up_after=2) as pool:
        for number in range(4):
            with pytest.raises(ProcessLostError):
                await pool.call("end")
            await wait_all_tasks_blocked()  # for the task of that process
            assert pool.statistics().failures_in_a_row == 1
            assert await pool.call("square", number) == number * number
            assert pool.statistics().failures_in_a_row == 0


async def test_an_entry_that_cannot_be_run_breaks_the_pool_at_once(world: World, world_clock: MockClock | None) -> None:
    async with world.worker() as worker, open_pool(worker, "nowhere.py") as pool:
        with pytest.raises(PoolBrokenError) as caught:
            await pool.call("square")
        assert isinstance(caught.value.__cause__, EntryError)
        assert caught.value.post_mortem is None


async def test_a_pool_makes_do_with_the_processes_that_the_host_allows(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, size=4, host={"max_processes": 2}) as pool:
        answers = [answer async for answer in pool.map("begin", [slow(str(n), 10) for n in range(8)])]
        assert answers == [str(n) for n in range(8)]
        assert (pool.statistics().starts, pool.statistics().failures) == (2, 0)


async def test_a_pool_for_which_the_host_has_no_room_gives_up(virtual_world: World, autojump_clock: MockClock) -> None:
    entry = virtual_world.entry(TOOLS)
    async with (
        virtual_world.worker(max_processes=1) as worker,
        worker.backend_processes.open(entry),
        open_pool(worker, entry, give_up_after=3) as pool,
    ):
        with pytest.raises(PoolBrokenError) as caught:
            await pool.call("square")
        assert isinstance(caught.value.__cause__, ProcessLimitError)


# ---- leaving the block


async def test_who_waits_when_the_block_is_left_is_told_that_it_is_closed(
    world: World, world_clock: MockClock | None
) -> None:
    async with trio.open_nursery() as nursery:
        async with opened(world, size=1) as pool:
            calls = Calls(nursery, pool)
            for name in "abc":
                await calls.begin(name, "begin", slow(name, 0.2))
            await world.wait_payload(["began", slow("a", 0.2)])
        ends = dict(await calls.wait(3))
    assert isinstance(ends["b"], trio.ClosedResourceError)
    assert isinstance(ends["c"], trio.ClosedResourceError)
    assert ends["a"] == "a" or isinstance(ends["a"], ProcessLostError)
    with pytest.raises(trio.ClosedResourceError):
        await pool.call("square", 1)
    assert pool.statistics().idle == pool.statistics().busy == pool.statistics().starting == 0


@pytest.mark.parametrize("seconds", [0.0, 0.05, 1.0])
async def test_a_cancelled_block_leaves_nothing(world: World, world_clock: MockClock | None, seconds: float) -> None:
    with trio.move_on_after(seconds):
        async with opened(world, size=3, prestart=True) as pool:
            async for _ in pool.map("begin", [slow("x", 0.01)] * 1_000_000):
                pass
    assert {state for state, _ in world.reasons()} <= {"stopped"}


async def test_an_error_of_the_block_leaves_it_bare(world: World, world_clock: MockClock | None) -> None:
    with pytest.raises(KeyError):
        async with opened(world) as pool:
            await pool.call("square", 1)
            raise KeyError


async def test_a_pool_ends_with_its_worker(world: World, world_clock: MockClock | None) -> None:
    entry = world.entry(TOOLS)
    leave = trio.Event()

    async with trio.open_nursery() as nursery:
        worker = await nursery.start(world.have_worker, leave)
        async with open_pool(worker, entry, size=1) as pool, trio.open_nursery() as callers:
            assert await pool.call("square", 2) == 4
            calls = Calls(callers, pool)
            await calls.begin("a", "begin", slow("a", 60))
            await calls.begin("b", "square", 2)
            leave.set()
            ends = dict(await calls.wait(2))
            assert isinstance(ends["a"], ProcessLostError)
            assert isinstance(ends["b"], trio.ClosedResourceError)
            with pytest.raises(trio.ClosedResourceError):
                await pool.call("square", 2)


# ---- arguments


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"size": True},
        {"size": 1.5},
        {"max_idle": 10**400},
        {"max_lifetime": 10**400},
        {"max_calls": 0},
        {"max_idle": 0},
        {"max_lifetime": -1},
        {"max_lifetime": math.nan},
        {"give_up_after": 0},
        {"startup_timeout": 0},
        {"heartbeat_timeout": -1},
        {"grace_period": math.inf},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        open_pool(None, "entry.py", **options)  # type: ignore[arg-type]


def test_a_payload_that_no_spawn_takes_is_refused_at_once() -> None:
    with pytest.raises(PayloadError, match="set is not JSON-safe"):
        open_pool(None, "entry.py", payload={"a": {1}})  # type: ignore[arg-type]


def test_what_is_no_worker_is_refused_with_what_to_type() -> None:
    with pytest.raises(TypeError, match=r"open_worker\(…\) as worker"):
        open_pool(7, "entry.py")  # type: ignore[arg-type]


async def test_a_bad_call_gets_its_error_and_costs_no_process(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, size=1) as pool:
        with pytest.raises(ValueError, match="timeout"):
            await pool.call("square", 1, timeout=-1)
        with pytest.raises(ValueError, match="overrun"):
            await pool.call("square", 1, overrun="stop")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await pool.call(7)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="payload"):
            await pool.call("square", {1})
        with pytest.raises(TypeError, match="a plain str"):
            await pool.call(type("Name", (str,), {})("square"), 1)
        assert await pool.call("square", 3) == 9
        assert pool.statistics().starts == 1


async def test_another_thread_may_not_use_a_pool_and_nothing_was_touched(real_world: World) -> None:
    async with opened(real_world, size=1) as pool:

        async def elsewhere() -> None:
            with pytest.raises(RuntimeError, match=r"call\(\) .* wrong thread; .* trio\.from_thread\.run\(….call, …\)"):
                await pool.call("square", 3)
            for begin in (lambda: pool.stream("count", 1), lambda: pool.map("square", [1])):
                with pytest.raises(RuntimeError, match=r"wrong thread; .* trio\.from_thread\.run\(that_function\)"):
                    begin()

        await trio.to_thread.run_sync(trio.run, elsewhere)
        assert (pool.statistics().starting, pool.statistics().waiting) == (0, 0)
        assert await trio.to_thread.run_sync(trio.from_thread.run, pool.call, "square", 3) == 9
        await trio.to_thread.run_sync(trio.run, elsewhere)  # a process is idle
        assert (pool.statistics().idle, pool.statistics().calls) == (1, 1)


async def test_a_bad_stream_gets_its_error_and_costs_no_process(world: World, world_clock: MockClock | None) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"method": 7}, "a method is"),
        ({"method": ""}, "a method is"),
        ({"method": "m" * 1025}, "method: 1025 bytes"),
        ({"method": "count", "payload": {1}}, "payload: set"),
        ({"method": "count", "timeout": math.nan}, "timeout must be"),
        ({"method": "count", "window": 0}, "window must be"),
        ({"method": "count", "window": None}, "window must be"),
        ({"method": "count", "overrun": "stop"}, "overrun must be"),
    ]
    async with opened(world, size=1) as pool:
        for arguments, text in bad:
            with pytest.raises((TypeError, ValueError), match=text):
                async with pool.stream(**arguments):
                    pass
        assert await pool.call("square", 3, timeout=5) == 9
        assert pool.statistics().starts == 1


async def test_each_process_gets_the_options_of_the_spawn(real_world: World) -> None:
    source = """
    async def run(process):
        @process.on_call
        async def tell(payload):
            return [process.payload, os.environ["COLOUR"], sys.argv[1:], os.path.basename(os.getcwd())]
        process.ready()
    """
    (real_world.root / "inner").mkdir()
    async with opened(
        real_world, source, payload=7, environment={"COLOUR": "red"}, arguments=["--fast"], folder="inner"
    ) as pool:
        assert await pool.call("tell") == [7, "red", ["--fast"], "inner"]


# ---- streams


async def test_a_stream_has_a_process_until_its_block_is_left(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, size=1) as pool:
        async with pool.stream("count", 100) as items:
            assert await items.receive() == 0
            assert pool.statistics().busy == 1
            with pytest.raises(CallTimeoutError):
                await pool.call("square", 1, timeout=0.05)
        assert await pool.call("square", 3) == 9
        async with pool.stream("count", 5) as items:
            assert [item async for item in items] == [0, 1, 2, 3, 4]
        assert await pool.call("square", 4) == 16
        assert pool.statistics().starts == 1


async def test_an_error_in_the_block_of_a_stream_is_raised_bare(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, size=1) as pool:
        with pytest.raises(KeyError):
            async with pool.stream("count", 10):
                raise KeyError
        with pytest.raises(UnknownMethodError):
            async with pool.stream("nobody") as items:
                await items.receive()
        assert await pool.call("square", 3) == 9


# ---- maps


async def test_the_answers_of_a_map_come_in_the_order_of_the_payloads(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, size=3) as pool:
        payloads = [slow(str(n), 1 + 7 * n % 5) for n in range(12)]
        assert [answer async for answer in pool.map("begin", payloads)] == [str(n) for n in range(12)]


async def test_an_unordered_map_gives_answers_as_they_come(virtual_world: World, autojump_clock: MockClock) -> None:
    async with opened(virtual_world, size=3, prestart=True) as pool:
        payloads = [slow("slow", 5), slow("slower", 7), slow("quick", 1), slow("quick too", 1)]
        answers = [answer async for answer in pool.map("begin", payloads, ordered=False)]
        assert answers == ["quick", "quick too", "slow", "slower"]


async def test_a_map_takes_payloads_as_its_answers_are_taken(virtual_world: World, autojump_clock: MockClock) -> None:
    taken = []

    async def payloads() -> AsyncIterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    async with opened(virtual_world, size=2) as pool:
        async with pool.map("square", payloads()) as answers:
            assert await anext(answers) == 0
            await trio.sleep(10)
            assert len(taken) == 2 * 4 + 1
            assert await anext(answers) == 1
            await trio.sleep(10)
            assert len(taken) == 2 * 4 + 2
        with pytest.raises(StopAsyncIteration):
            await anext(answers)


@pytest.mark.parametrize("ordered", [True, False])
async def test_the_first_error_of_a_map_is_raised_in_its_place_and_ends_it(
    virtual_world: World, autojump_clock: MockClock, ordered: bool
) -> None:
    source = TOOLS.replace("return payload * payload", "await trio.sleep(payload)\n        return 6 / payload")
    found = []
    async with opened(virtual_world, source, size=1) as pool:
        answers = pool.map("square", [3, 2, 0, 1, 1, 1, 1, 1, 1, 1, 1], ordered=ordered)
        with pytest.raises(CallFailedError, match="ZeroDivisionError"):
            async for answer in answers:
                found.append(answer)  # noqa: PERF401  # those before the error are wanted
        assert found == [2, 3]
        with pytest.raises(StopAsyncIteration):
            await anext(answers)
        assert await pool.call("square", 1) == 6
        assert pool.statistics().waiting == 0
        assert pool.statistics().calls <= 5


async def test_an_error_of_the_payloads_comes_after_the_answers_before_it(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    def payloads() -> Any:
        yield 1
        yield 2
        raise KeyError("gone")

    found = []
    async with opened(virtual_world, size=2) as pool:
        with pytest.raises(KeyError, match="gone"):
            async for answer in pool.map("square", payloads()):
                found.append(answer)  # noqa: PERF401  # as above
    assert found == [1, 4]


async def test_a_map_that_is_left_early_ends_its_calls(virtual_world: World, autojump_clock: MockClock) -> None:
    closed = trio.Event()

    async def payloads() -> AsyncIterator[Any]:
        try:
            while True:
                yield slow("x", 1)
        finally:
            closed.set()

    async with opened(virtual_world, size=2) as pool:
        async for _ in pool.map("begin", payloads()):
            break
        with trio.fail_after(2):
            await closed.wait()
            while pool.statistics().idle < 2:
                await trio.sleep(0.1)
        assert pool.statistics().waiting == 0


async def test_a_map_in_a_cancelled_scope_ends_its_calls(virtual_world: World, autojump_clock: MockClock) -> None:
    async with opened(virtual_world, size=2) as pool:
        with trio.move_on_after(2.5) as scope:
            async for _ in pool.map("begin", [slow("x", 1)] * 1000):
                pass
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert pool.statistics().waiting == 0


async def test_a_map_that_outlives_its_pool_is_told(virtual_world: World, autojump_clock: MockClock) -> None:
    async with opened(virtual_world, size=1) as pool:
        answers = pool.map("begin", [slow("x", 1)] * 100)
        assert await anext(answers) == "x"
    with pytest.raises(trio.ClosedResourceError):
        while True:
            await anext(answers)
    with pytest.raises(trio.ClosedResourceError):
        await anext(pool.map("square", [1]))


async def test_a_map_takes_only_what_can_be_iterated(virtual_world: World) -> None:
    async with opened(virtual_world) as pool:
        with pytest.raises(TypeError, match="iterable"):
            pool.map("square", 7)  # type: ignore[arg-type]
        assert [answer async for answer in pool.map("square", [])] == []


# ---- cancellation at any step, and kills


async def cancel_after(scope: trio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.parametrize("kind", ["call", "stream", "map"])
async def test_who_is_cancelled_at_any_step_costs_the_pool_nothing(
    virtual_world: World, autojump_clock: MockClock, kind: str
) -> None:
    async def use(pool: Pool) -> None:
        if kind == "call":
            await pool.call("square", 1)
        elif kind == "stream":
            async with pool.stream("count", 3) as items:
                assert [item async for item in items] == [0, 1, 2]
        else:
            assert [answer async for answer in pool.map("square", [1, 2, 3, 4])] == [1, 4, 9, 16]

    async with opened(virtual_world, size=2) as pool:
        was_cancelled = True
        steps = 0
        while was_cancelled:
            steps += 1
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as scope:
                    nursery.start_soon(cancel_after, scope, steps)
                    nursery.start_soon(pool.call, "square", 7)
                    await use(pool)
                was_cancelled = scope.cancelled_caught
                nursery.cancel_scope.cancel()
            with trio.fail_after(5):
                assert [await pool.call("square", number) for number in (1, 2)] == [1, 4]
                await wait_all_tasks_blocked()
            now = pool.statistics()
            assert (now.busy, now.waiting, now.starting, now.failures) == (0, 0, 0, 0)
        assert steps > 1


@pytest.mark.parametrize("steps", range(1, 60, 2))
async def test_a_block_that_is_left_at_any_step_leaves_nobody_waiting(
    virtual_world: World, autojump_clock: MockClock, steps: int
) -> None:
    async def go_over(pool: Pool) -> None:
        with pytest.raises((trio.ClosedResourceError, ProcessLostError)):
            async for _ in pool.map("square", itertools.repeat(1)):
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        async with opened(virtual_world, size=2) as pool:
            calls = Calls(nursery, pool)
            for number in range(5):
                nursery.start_soon(calls._run, trio.CancelScope(), str(number), "square", number, {})
            nursery.start_soon(go_over, pool)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
        with trio.fail_after(5):
            await calls.wait(5)
    for name, end in calls.ends:
        assert end == int(name) ** 2 or isinstance(end, trio.ClosedResourceError | ProcessLostError), end


async def test_a_kill_while_the_block_is_left_skips_the_grace_period(
    world: World, world_clock: MockClock | None
) -> None:
    """A second Ctrl-C does that; see `NurseryScope`."""
    source = TOOLS.replace("process.ready()", "process.on_stop(print)\n    process.ready()")

    async def kill(pool: Pool) -> None:
        await world.wait_state("stopping", 2)
        pool._crew.kill()

    async with trio.open_nursery() as nursery, opened(world, source, size=2, prestart=True, grace_period=20) as pool:
        await world.wait_state("running", 2)
        began = trio.current_time()
        nursery.start_soon(kill, pool)
    assert trio.current_time() - began < 10
