"""Groups: the order in which services start and stop, whom an end takes along, and how a group gives up."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import (
    DuplicateKeyError,
    EntryError,
    Group,
    ProcessHandle,
    ProcessLostError,
    RestartPolicy,
    Service,
    ServiceGaveUpError,
    StartupFailedError,
    Worker,
    open_group,
    open_service,
)

from .conftest import World
from .test_services import CRASHES, STEADY, STUBBORN, live

QUICK = RestartPolicy(delay=0.1, factor=1, jitter=0)
NAMES = ("a", "b", "c")


SLOW = STUBBORN.replace("    process.ready()", "    await trio.sleep(2)\n    process.ready()")
"""Becomes ready after two seconds, and is killed after its grace period."""


class Trace:
    """What the processes of a worker do, and when."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.steps: list[str] = []
        self.starts_and_steps: list[tuple[str, str, float]] = []
        self.times: list[float] = []
        self._changed = trio.lowlevel.ParkingLot()
        worker.backend_processes.on_lifecycle(self._note)

    def _note(self, event: Any) -> None:
        self.starts_and_steps.append((event.kind.removesuffix(".py"), event.state, trio.current_time()))
        if event.state != "starting":
            word = "failed" if event.state == "timed_out" else event.state
            self.steps.append(f"{event.kind.removesuffix('.py')} {word}")
            self.times.append(trio.current_time())
            self._changed.unpark_all()

    async def wait(self, step: str, count: int = 1) -> None:
        """Wait until a step has been made so many times. A level."""
        while self.steps.count(step) < count:
            await self._changed.park()

    def since(self, mark: int) -> list[str]:
        return self.steps[mark:]

    def timed(self, mark: int) -> list[tuple[str, float]]:
        """The steps since one, each with the seconds since that one."""
        began = self.times[mark]
        return [(step, round(at - began, 6)) for step, at in zip(self.steps[mark:], self.times[mark:], strict=True)]

    def running(self) -> list[str]:
        """Who runs now."""
        last = dict(step.split() for step in self.steps)
        return sorted(name for name, word in last.items() if word == "running")


@asynccontextmanager
async def opened(
    world: World, *, sources: dict[str, str] | None = None, **options: Any
) -> AsyncIterator[tuple[Group, Trace]]:
    """Open a group; nothing is started. Each of `NAMES` is an entry."""
    for name in NAMES:
        world.entry((sources or {}).get(name, STEADY), f"{name}.py")
    options.setdefault("restart", QUICK)
    async with world.worker(grace_period=1) as worker:
        trace = Trace(worker)
        async with open_group(worker, **options) as group:
            yield group, trace


async def start_all(group: Group, **options: Any) -> list[Service]:
    return [await group.start(f"{name}.py", key=name, **options) for name in NAMES]


async def end(service: Service, how: str = "fail") -> None:
    with pytest.raises(ProcessLostError):
        await service.call("end", how)


async def fail(process: ProcessHandle) -> None:
    """Have a process fail, if it does not end otherwise."""
    with suppress(ProcessLostError, trio.BrokenResourceError):
        await process.call("end", "fail")


@pytest.mark.parametrize(
    ("strategy", "steps"),
    [
        ("one_for_one", ["b failed", "b running"]),
        (
            "one_for_all",
            [
                "b failed",
                *("c stopping", "c stopped", "a stopping", "a stopped"),
                *("a running", "b running", "c running"),
            ],
        ),
        ("rest_for_one", ["b failed", "c stopping", "c stopped", "b running", "c running"]),
    ],
)
async def test_a_failure_takes_along_whom_the_strategy_says(
    world: World, world_clock: MockClock | None, strategy: str, steps: list[str]
) -> None:
    async with opened(world, strategy=strategy) as (group, trace):
        services = await start_all(group)
        mark = len(trace.steps)
        await end(services[1])
        await trace.wait(steps[-1], 2)
        assert trace.since(mark) == steps
        for service in services:
            await service.wait_running()
    assert trace.since(mark + len(steps)) == [
        *("c stopping", "c stopped", "b stopping", "b stopped", "a stopping", "a stopped")
    ]


async def test_services_start_in_order_and_stop_in_reverse(world: World, world_clock: MockClock | None) -> None:
    async with opened(world) as (group, trace):
        assert group.services == ()
        services = await start_all(group)
        assert group.services == tuple(services)
        assert group["b"] is services[1]
    assert trace.steps == [
        *("a running", "b running", "c running"),
        *("c stopping", "c stopped", "b stopping", "b stopped", "a stopping", "a stopped"),
    ]
    assert [service.state for service in services] == ["stopped"] * 3


# ---- time


@pytest.mark.parametrize(
    ("strategy", "delay", "steps"),
    [
        ("one_for_one", 5, [("b failed", 0), ("b running", 7)]),
        (
            "one_for_all",
            5,
            [
                ("b failed", 0),
                *(("c stopping", 0), ("c stopped", 1), ("a stopping", 1), ("a stopped", 2)),
                *(("a running", 7), ("b running", 9), ("c running", 11)),
            ],
        ),
        (
            "one_for_all",
            0.5,
            [
                ("b failed", 0),
                *(("c stopping", 0), ("c stopped", 1), ("a stopping", 1), ("a stopped", 2)),
                *(("a running", 4), ("b running", 6), ("c running", 8)),
            ],
        ),
        (
            "rest_for_one",
            5,
            [("b failed", 0), ("c stopping", 0), ("c stopped", 1), ("b running", 7), ("c running", 9)],
        ),
    ],
)
async def test_stops_run_into_the_delay_and_each_start_waits_for_the_last(
    virtual_world: World, autojump_clock: MockClock, strategy: str, delay: float, steps: list[tuple[str, float]]
) -> None:
    policy = RestartPolicy(delay=delay, jitter=0)
    sources = dict.fromkeys(NAMES, SLOW)
    async with opened(virtual_world, sources=sources, strategy=strategy, restart=policy) as (group, trace):
        began = trio.current_time()
        services = await start_all(group)
        assert trio.current_time() - began == 6
        mark = len(trace.steps)
        await end(services[1])
        await trace.wait(steps[-1][0], 2)
        assert trace.timed(mark) == steps
        mark = len(trace.steps)
    assert trace.timed(mark) == [
        *(("c stopping", 0), ("c stopped", 1), ("b stopping", 1), ("b stopped", 2), ("a stopping", 2), ("a stopped", 3))
    ]


async def test_failures_of_all_services_are_one_row(world: World, world_clock: MockClock | None) -> None:
    policy = RestartPolicy(delay=world.seconds(1, 0.05), give_up_after=4, jitter=0)
    with pytest.raises(ServiceGaveUpError) as caught:
        async with opened(world, restart=policy) as (group, trace):
            a, b, c = await start_all(group)
            for service, seconds in ((a, 1), (b, 2), (c, 4)):
                generation = service.generation
                began = trio.current_time()
                await end(service)
                while service.generation == generation:
                    await world.wait_change()
                await service.wait_running()
                world.assert_took(began, seconds * policy.delay)
            assert group.failures == b.failures + 1 == 3
            mark = len(trace.steps)
            await end(b)
            await trio.sleep_forever()
    assert trace.since(mark) == ["b failed", "c stopping", "c stopped", "a stopping", "a stopped"]
    error = caught.value
    assert str(error) == (
        "the group has given up after 4 failure(s) in a row; the last one, of generation 2 of the service b.py (key "
        "'b'): as it was told; mend what is wrong, and open it again"
    )
    assert (error.attempts, error.entry, error.key) == (4, "b.py", "b")
    assert error.post_mortem is not None
    assert error.post_mortem.error == "as it was told"
    assert [a.state, b.state, c.state] == ["stopped", "gave_up", "stopped"]
    with pytest.raises(ServiceGaveUpError):
        await b.wait_running()
    with pytest.raises(trio.ClosedResourceError, match=r"its group has given up: the service b.py .*: as it was told"):
        await a.wait_running()
    with pytest.raises(trio.ClosedResourceError, match="its group has given up"):
        await group.start("a.py")


async def test_a_row_ends_when_all_have_run_for_long_enough(virtual_world: World, autojump_clock: MockClock) -> None:
    policy = RestartPolicy(delay=1, stable_after=6, give_up_after=6, jitter=0)
    async with opened(virtual_world, restart=policy) as (group, trace):
        a, b, _ = await start_all(group)
        failures: list[int] = []
        for service, pause in ((a, 10), (b, 5.9), (a, 6), (b, 0.5), (a, 6), (a, 6)):
            await service.wait_running()
            await end(service)
            await trace.wait(f"{service.entry.removesuffix('.py')} failed")
            await trio.testing.wait_all_tasks_blocked()
            failures.append(group.failures)
            if pause > 0.5:  # else the next one comes while this one is down
                await service.wait_running()
            await trio.sleep(pause)
        assert failures == [1, 1, 2, 1, 2, 1]


# ---- who is left out


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
@pytest.mark.parametrize("how", ["service", "group", "process", "replaced", "completed"])
async def test_who_is_stopped_or_ends_as_it_should_is_left_out_and_takes_nobody_along(
    world: World, world_clock: MockClock | None, strategy: str, how: str
) -> None:
    async with opened(world, strategy=strategy) as (group, trace):
        a, b, c = await start_all(group)
        process = await b.wait_running()
        mark = len(trace.steps)
        processes = trace.worker.backend_processes
        if how == "service":
            await b.stop("not needed")
        elif how == "group":
            await group.stop(b, "not needed")
        elif how == "process":
            await processes.stop(process.process_id)
        elif how == "replaced":
            replacement = await processes.spawn("b.py", key="b", replace_existing=True)
        else:
            await end(b, "complete")
        with pytest.raises(trio.ClosedResourceError, match="is stopped"):
            await b.restart()
        assert group.services == (a, c)
        while b.state != "stopped":
            await trio.sleep(0.01)
        assert trace.since(mark)[-1] in {"b stopped", "b completed", "b running"}
        with pytest.raises(KeyError):
            group["b"]
        await group.stop(b)
        if how == "replaced":
            await replacement.stop()
        again = await group.start("b.py", key="b")
        assert group.services == (a, c, again)
        mark = len(trace.steps)
        await end(a)
        await trace.wait("a running", 2)
        for service in (a, c, again):
            await service.wait_running()
        assert ("c running" in trace.since(mark)) is (strategy != "one_for_one")


async def test_with_never_a_service_that_is_taken_along_is_left_out(
    world: World, world_clock: MockClock | None
) -> None:
    async with opened(world, strategy="one_for_all") as (group, trace):
        a = await group.start("a.py", key="a")
        b = await group.start("b.py", key="b", restart=RestartPolicy("never"))
        await b.restart()
        await a.wait_running()
        assert (a.generation, b.generation) == (2, 2)
        await end(a)
        await trace.wait("a running", 3)
        with pytest.raises(trio.ClosedResourceError, match=r"a\.py .* is started again, and it is not, .*'never'"):
            await b.wait_running()
        c = await group.start("c.py", restart=RestartPolicy("never"))
        await end(c)
        with pytest.raises(trio.ClosedResourceError, match="as it was told"):
            await c.wait_running()
        assert (a.generation, group.services) == (3, (a,))


# ---- starts


async def test_a_first_start_raises_and_the_group_goes_on(world: World, world_clock: MockClock | None) -> None:
    async def refuse(process: ProcessHandle) -> None:
        raise LookupError("no handshake")

    fails = "async def run(process):\n    process.fail('no luck')\n"
    async with opened(world, sources={"c": fails}, strategy="one_for_all") as (group, trace):
        a = await group.start("a.py", key="a")
        for count in range(2):
            with pytest.raises(StartupFailedError, match="no luck"):
                await group.start("c.py", key="c")
            with pytest.raises(EntryError):
                await group.start("absent.py")
            with pytest.raises(LookupError, match="no handshake"):
                await group.start("b.py", on_start=refuse)
            await trace.wait("b stopped", count + 1)
            assert (group.services, group.failures, a.generation) == ((a,), 0, 1)
            assert await live(trace.worker) == [(await a.wait_running()).process_id]
        b = await group.start("b.py", key="c")
        assert group.services == (a, b)


async def test_starts_at_once_are_served_one_after_another(world: World, world_clock: MockClock | None) -> None:
    source = STEADY.replace("process.ready()", f"await trio.sleep({world.seconds(5, 0.1)})\n    process.ready()")
    async with opened(world, sources=dict.fromkeys(NAMES, source)) as (group, trace):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for name in NAMES:
                nursery.start_soon(group.start, f"{name}.py")
        assert world.states() == ["starting", "running"] * 3
        assert sorted(trace.steps) == ["a running", "b running", "c running"]
        assert trio.current_time() - began == 15 or not world.is_virtual


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_a_start_is_begun_again_if_what_it_needs_fails_meanwhile(
    world: World, world_clock: MockClock | None, strategy: str
) -> None:
    """A handshake that waits for the service before would wait for ever."""
    handshakes = 0

    async def handshake(process: ProcessHandle) -> None:
        nonlocal handshakes
        handshakes += 1
        if handshakes == 1:
            await end(a)
            await trio.sleep_forever()
        assert await a.call("who") is not None

    async with opened(world, strategy=strategy) as (group, trace):
        a = await group.start("a.py", key="a")
        b = await group.start("b.py", key="b", on_start=handshake)
        assert trace.steps == [
            "a running",
            "b running",
            "a failed",
            "b stopping",
            "b stopped",
            "a running",
            "b running",
        ]
        assert (b.generation, handshakes, group.failures) == (2, 2, 1)
        assert await b.call("who") == (await b.wait_running()).process_id


async def test_a_start_that_is_cancelled_at_any_step_leaves_nothing(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async def handshake(process: ProcessHandle) -> None:
        await process.call("who")

    async with opened(virtual_world, strategy="one_for_all") as (group, trace):
        a = await group.start("a.py", key="a")
        for steps in itertools.count():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(group.start, "b.py", key="b", on_start=handshake))
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                is_past = len(group.services) == 2
                nursery.cancel_scope.cancel()
            if is_past:
                break
            assert group.services == (a,), steps
            assert await live(trace.worker) == [(await a.wait_running()).process_id]
        assert steps > 10
        assert (a.generation, group.failures) == (1, 0)


# ---- races


def check_order(trace: Trace, names: str) -> None:
    """Hold what was started against the order of a group: nobody is started whose predecessor does not run.

    An end and a start of one instant may cross.
    """
    up: dict[str, float] = dict.fromkeys(names, -1)  # infinite while it runs, and else when it ended
    for name, word, at in trace.starts_and_steps:
        place = names.index(name)
        if word == "starting":
            assert all(up[other] >= at for other in names[:place]), (name, trace.steps)
            assert all(up[other] < math.inf for other in names[place:]), (name, trace.steps)
        elif word == "running":
            up[name] = math.inf
        elif word != "stopping":
            up[name] = at


TAKEN = {"one_for_one": [1], "one_for_all": [0, 1, 2], "rest_for_one": [1, 2]}
"""Whom an end of the second service takes along."""


async def go_to(moment: str, steps: int, strategy: str, services: list[Service]) -> bool:
    """After an end of the second service, go so many steps from a moment. Returns whether that is past what follows."""
    if moment == "start":
        await trio.sleep(0.1)
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    state = "waiting" if moment == "end" else "running"
    taken = [services[place] for place in TAKEN[strategy]]
    return all(service.state == state and (state == "waiting" or service.generation == 2) for service in taken)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
@pytest.mark.parametrize("moment", ["end", "start"])
@pytest.mark.parametrize("other", [0, 1, 2])
async def test_an_end_that_comes_while_another_one_is_dealt_with_loses_nobody(
    virtual_world: World, autojump_clock: MockClock, strategy: str, moment: str, other: int
) -> None:
    """At each step from the end of the second service to the delay, and from there until all run again."""
    for steps in itertools.count():
        async with opened(virtual_world, strategy=strategy) as (group, trace):
            services = await start_all(group)
            before = await services[other].wait_running()
            await end(services[1])
            is_past = await go_to(moment, steps, strategy, services)
            await fail(services[other].process or before)
            await trio.sleep(10)
            assert [service.state for service in services] == ["running"] * 3, (steps, trace.steps)
            assert 1 <= group.failures <= 2
            if strategy != "one_for_one":
                check_order(trace, "abc")
        if is_past:
            return


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
@pytest.mark.parametrize("moment", ["end", "start"])
@pytest.mark.parametrize("whom", [0, 1, 2, None])
async def test_a_stop_beats_a_restart_whenever_it_comes(
    virtual_world: World, autojump_clock: MockClock, strategy: str, moment: str, whom: int | None
) -> None:
    """At each step, as above; of one service, or of the whole group."""
    for steps in itertools.count():
        async with opened(virtual_world, strategy=strategy) as (group, trace):
            services = await start_all(group)
            await end(services[1])
            is_past = await go_to(moment, steps, strategy, services)
            if whom is not None:
                await group.stop(services[whom])
                assert services[whom].state == "stopped"
                await trio.sleep(10)
                others = [service for service in services if service is not services[whom]]
                assert group.services == tuple(others), (steps, trace.steps)
                assert [service.state for service in others] == ["running"] * 2
                assert len(await live(trace.worker)) == 2
        assert trace.running() == []
        assert [service.state for service in services] == ["stopped"] * 3
        if is_past:
            return


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
@pytest.mark.parametrize("moment", ["end", "start"])
async def test_a_start_that_comes_during_a_restart_follows_it(
    virtual_world: World, autojump_clock: MockClock, strategy: str, moment: str
) -> None:
    virtual_world.entry(STEADY, "d.py")
    for steps in itertools.count():
        async with opened(virtual_world, strategy=strategy) as (group, trace):
            services = await start_all(group)
            await end(services[1])
            is_past = await go_to(moment, steps, strategy, services)
            services.append(await group.start("d.py"))
            await trio.sleep(10)
            check_order(trace, "abcd")
            assert [service.state for service in services] == ["running"] * 4, (steps, trace.steps)
            assert group.services == tuple(services)
            assert trace.steps[-1] == "d running"
        if is_past:
            return


async def test_two_ends_in_one_instant_are_one_failure_if_the_first_takes_the_second_along(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    sources = {"a": CRASHES, "c": CRASHES}
    for strategy, failures in (("one_for_one", 2), ("one_for_all", 1), ("rest_for_one", 1)):
        for _ in range(10):  # Trio runs the tasks of one instant in any order
            async with opened(virtual_world, sources=sources, strategy=strategy) as (group, trace):
                await start_all(group, payload=5)
                await trio.sleep(5.05)
                assert trace.steps.count("a failed") == trace.steps.count("c failed") == 1
                assert group.failures == failures
                await trio.sleep(1)
                assert trace.running() == ["a", "b", "c"]


async def test_a_stop_does_not_wait_for_the_handshake_of_another(world: World, world_clock: MockClock | None) -> None:
    hold = trio.Event()

    async def handshake(process: ProcessHandle) -> None:
        if b_has_run.is_set():
            hold.set()
            await trio.sleep_forever()
        b_has_run.set()

    b_has_run = trio.Event()
    async with opened(world, strategy="rest_for_one") as (group, trace):
        a = await group.start("a.py", key="a")
        b = await group.start("b.py", key="b", on_start=handshake)
        c = await group.start("c.py", key="c")
        await end(b)
        await hold.wait()
        await group.stop(c)
        await group.stop(a)
        assert group.services == (b,)
        await group.stop(b)
        assert await live(trace.worker) == []


# ---- restarts that somebody asks for


@pytest.mark.parametrize(
    ("strategy", "generations"),
    [("one_for_one", [1, 2, 1]), ("one_for_all", [2, 2, 2]), ("rest_for_one", [1, 2, 2])],
)
async def test_a_restart_takes_along_whom_the_strategy_says_gracefully_and_at_once(
    world: World, world_clock: MockClock | None, strategy: str, generations: list[int]
) -> None:
    policy = RestartPolicy(delay=100, max_delay=100, jitter=0)
    async with opened(world, strategy=strategy, restart=policy) as (group, trace):
        services = await start_all(group)
        await services[1].restart("new rules")
        for service in services:
            await service.wait_running()
        await trace.wait("c running", generations[2])
        assert [service.generation for service in services] == generations
        assert group.failures == 0
        assert not any("failed" in step for step in trace.steps)
        await end(services[1])
        await services[2].restart() if strategy == "one_for_all" else await services[1].restart()
        await services[1].wait_running()
        assert group.failures == 1


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
async def test_a_restart_that_meets_an_end_does_not_wait_for_the_delay(
    virtual_world: World, autojump_clock: MockClock, strategy: str
) -> None:
    policy = RestartPolicy(delay=10, jitter=0)
    for steps in itertools.count():
        async with opened(virtual_world, strategy=strategy, restart=policy) as (group, _):
            services = await start_all(group)
            process = await services[1].wait_running()
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail, process)
                is_past = await go_to("end", steps, strategy, services)
                await services[1].restart()
                await trio.testing.wait_all_tasks_blocked()
                await services[1].wait_running()
            assert trio.current_time() == began, steps
            assert process.info.state.is_terminal
        if is_past:
            assert steps > 2
            return


async def test_a_restart_of_one_does_not_wait_for_the_delay_of_a_later_one(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    policy = RestartPolicy(delay=100, max_delay=100, jitter=0)
    async with opened(virtual_world, strategy="rest_for_one", restart=policy) as (group, trace):
        a, b, c = await start_all(group)
        await end(b)
        await trace.wait("c stopped")
        began = trio.current_time()
        await a.restart()
        assert trio.current_time() - began < 1
        assert (b.state, c.state) == ("waiting", "waiting")
        await b.wait_running()
        assert trio.current_time() - began == pytest.approx(100, abs=1)


async def test_a_service_whose_lifetime_is_over_is_recycled_as_the_strategy_says(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world, strategy="rest_for_one") as (group, trace):
        a = await group.start("a.py", key="a")
        b = await group.start("b.py", key="b", restart=RestartPolicy(max_lifetime=50))
        c = await group.start("c.py", key="c", restart=RestartPolicy("always", max_lifetime=75))
        mark = len(trace.steps)
        await trio.sleep(170)
        assert [a.generation, b.generation, c.generation] == [1, 4, 4]
        assert trace.timed(mark) == [
            (step, 50.0 * turn)
            for turn in range(3)
            for step in ("c stopping", "c stopped", "b stopping", "b stopped", "b running", "c running")
        ]
        assert group.failures == 0


async def test_services_whose_lifetimes_are_over_are_recycled_one_after_another(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    policy = RestartPolicy(max_lifetime=50)
    async with opened(virtual_world, sources=dict.fromkeys(NAMES, SLOW), restart=policy) as (group, trace):
        began = trio.current_time()
        a, _, _ = await start_all(group, heartbeat_timeout=math.inf)
        assert [at - began for at in trace.times] == [2, 4, 6]
        mark = len(trace.steps)
        await trio.sleep(60)
        assert trace.timed(mark) == [
            (step, seconds)
            for name, turn in (("a", 0), ("b", 3), ("c", 6))
            for step, seconds in (
                (f"{name} stopping", turn),
                (f"{name} stopped", turn + 1),
                (f"{name} running", turn + 3),
            )
        ]
        await trio.sleep_until(began + 105.5)  # while the first one is being recycled
        await a.stop()
        await trace.wait("c running", 3)
        assert trio.current_time() == began + 111 + 3


async def test_the_keys_are_held_while_services_are_started_again_together(
    world: World, world_clock: MockClock | None
) -> None:
    async with opened(world, strategy="one_for_all", restart=RestartPolicy(delay=0.3, jitter=0)) as (group, trace):
        services = await start_all(group)
        processes = trace.worker.backend_processes
        await end(services[1])
        await trace.wait("a stopped")
        for name in NAMES:
            with pytest.raises(DuplicateKeyError, match="is kept for its next start"):
                await processes.spawn(f"{name}.py", key=name)
        await trace.wait("c running", 2)
        await end(services[1])
        await trace.wait("a stopped", 2)
        async with trio.open_nursery() as nursery:
            for service in services:
                nursery.start_soon(service.stop)
        for name in NAMES:
            await (await processes.spawn(f"{name}.py", key=name)).stop()


# ---- the end


async def test_a_cancelled_block_leaves_nothing(world: World, world_clock: MockClock | None) -> None:
    for strategy in ("one_for_one", "one_for_all"):
        with trio.CancelScope() as scope:
            async with opened(world, strategy=strategy) as (group, trace):
                services = await start_all(group)
                scope.cancel()
                await trio.sleep_forever()
        assert [service.state for service in services] == ["stopped"] * 3
        assert trace.steps[-6:] == [f"{name} {word}" for name in "cba" for word in ("stopping", "stopped")]


async def test_an_error_of_the_block_leaves_it_bare(world: World, world_clock: MockClock | None) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with opened(world) as (group, _):
            await start_all(group)
            raise KeyError("mine")


async def test_a_kill_while_the_block_is_left_skips_all_grace_periods(
    world: World, world_clock: MockClock | None
) -> None:
    """A second Ctrl-C does that; see `NurseryScope`."""

    async def kill(group: Group) -> None:
        await world.wait_state("stopping")
        group._keeper._kill()

    sources = dict.fromkeys(NAMES, STUBBORN)
    async with trio.open_nursery() as nursery, opened(world, sources=sources) as (group, _):
        await start_all(group, grace_period=20)
        began = trio.current_time()
        nursery.start_soon(kill, group)
    assert trio.current_time() - began < 10


@pytest.mark.parametrize("is_caught", [True, False])
async def test_a_group_that_gives_up_raises_into_the_block_around_it(
    world: World, world_clock: MockClock | None, is_caught: bool
) -> None:
    policy = RestartPolicy(give_up_after=1)
    is_left = False
    with nullcontext() if is_caught else pytest.raises(ServiceGaveUpError, match=r"b\.py"):
        async with opened(world) as (group, trace):
            a = await group.start("a.py")
            try:
                async with open_group(trace.worker, restart=policy) as inner:
                    b = await inner.start("b.py")
                    c = await inner.start("c.py")
                    await end(b)
                    await trio.sleep_forever()
            except ServiceGaveUpError:
                if not is_caught:
                    raise
            assert (b.state, c.state) == ("gave_up", "stopped")
            assert await a.call("who") is not None
            is_left = True
    assert is_left is is_caught
    assert trace.steps[-2:] == ["a stopping", "a stopped"]


async def test_a_group_that_gives_up_stops_the_group_in_its_block_first(
    world: World, world_clock: MockClock | None
) -> None:
    with pytest.raises(ServiceGaveUpError, match=r"a\.py"):
        async with opened(world, restart=RestartPolicy(give_up_after=1)) as (group, trace):
            a = await group.start("a.py")
            async with (
                open_service(trace.worker, "b.py") as b,
                open_group(trace.worker) as inner,
            ):
                c = await inner.start("c.py")
                await end(a)
                await trio.sleep_forever()
    assert [a.state, b.state, c.state] == ["gave_up", "stopped", "stopped"]
    assert trace.steps[-5:] == ["a failed", "c stopping", "c stopped", "b stopping", "b stopped"]


async def test_a_group_ends_with_its_worker(world: World, world_clock: MockClock | None) -> None:
    entry = world.entry(STEADY)
    leave = trio.Event()

    async with trio.open_nursery() as nursery:
        worker = await nursery.start(world.have_worker, leave)
        async with open_group(worker, strategy="one_for_all") as group:
            services = [await group.start(entry, name=name) for name in NAMES]
            leave.set()
            for service in services:
                while service.state != "stopped":
                    await trio.sleep(0.01)
            assert group.services == ()
            with pytest.raises(trio.ClosedResourceError):
                await group.start(entry)


async def test_a_group_that_waits_for_its_next_start_when_its_worker_closes_says_so(
    world: World, world_clock: MockClock | None
) -> None:
    entry = world.entry(STEADY)
    leave = trio.Event()

    async with trio.open_nursery() as nursery:
        worker = await nursery.start(world.have_worker, leave)
        with pytest.raises(trio.ClosedResourceError, match="is closed"):
            async with open_group(worker, restart=RestartPolicy(delay=30)) as group:
                service = await group.start(entry)
                await end(service)
                while service.state != "waiting":
                    await trio.sleep(0.01)
                began = trio.current_time()
                leave.set()
                await trio.sleep_forever()
        assert trio.current_time() - began < 10


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
@pytest.mark.parametrize("steps", range(1, 120, 3))
async def test_a_group_that_is_left_at_any_step_leaves_nobody_waiting(
    virtual_world: World, autojump_clock: MockClock, strategy: str, steps: int
) -> None:
    ends: list[object] = []

    async def use(call: Callable[..., Awaitable[object]], *arguments: object) -> None:
        try:
            ends.append(await call(*arguments))
        except Exception as error:
            ends.append(error)

    async def go_over(events: AsyncIterator[object]) -> None:
        async for _ in events:
            pass

    virtual_world.entry(STEADY, "d.py")
    async with trio.open_nursery() as nursery, opened(virtual_world, strategy=strategy) as (group, trace):
        a, b, c = await start_all(group)
        async with open_group(trace.worker, strategy=strategy, restart=QUICK) as inner:
            x = await inner.start("a.py", name="x")
            y = await inner.start("b.py", name="y")
            calls: list[tuple[Callable[..., Awaitable[object]], *tuple[object, ...]]] = [
                *((go_over, y.events()), (go_over, y.messages())),
                *(
                    (inner.start, "c.py"),
                    (inner.start, "d.py"),
                    (x.restart,),
                    (y.restart, "why"),
                    (x.call, "end", "fail"),
                ),
                *((y.call, "end", "complete"), (y.call, "who"), (y.stop,), (y.send, 1), (a.call, "end", "fail")),
                *((b.restart,), (c.call, "who")),
            ]
            for call, *arguments in calls:
                nursery.start_soon(use, call, *arguments)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
        with trio.fail_after(5):
            while len(ends) < len(calls):
                await trio.sleep(0.1)
        assert {info.key for info in await trace.worker.backend_processes.list()} <= {"a", "b", "c"}
        for service in (a, b, c):
            await service.wait_running()
    allowed = (trio.ClosedResourceError, trio.BrokenResourceError, ProcessLostError, Service, ProcessHandle, str)
    assert all(end is None or isinstance(end, allowed) for end in ends), ends


# ---- what is refused


async def test_bad_arguments_are_refused_by_name_and_nothing_is_lost(
    virtual_world: World, autojump_clock: MockClock
) -> None:
    async with opened(virtual_world) as (group, trace):
        a = await group.start("a.py", key="a")
        wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
            ({"key": "a"}, ValueError, "has a service 'a' already; give this one another name="),
            ({"name": "a"}, ValueError, "another name="),
            ({"name": 7}, TypeError, "name must be a str, not 7"),
            ({"restart": "always"}, TypeError, "restart must be a RestartPolicy"),
            ({"restart": RestartPolicy(delay=7)}, ValueError, r"delay=7 has no effect .*open_group\(restart=…\)"),
            ({"restart": RestartPolicy(give_up_after=None)}, ValueError, "give_up_after=None has no effect"),
            ({"restrat": 1}, TypeError, r"group\.start\(\) has no argument 'restrat'"),
            ({"successor_of": "x"}, TypeError, "sees to successor_of itself"),
            ({"on_start": 3}, TypeError, "on_start must be an async function"),
            ({"startup_timeout": -1}, ValueError, "startup_timeout"),
        ]
        for options, kind, said in wrong:
            with pytest.raises(kind, match=said):
                await group.start("b.py", **options)
        with pytest.raises(TypeError, match=r"takes a service, not 'a'; type: group\.stop\(group\["):
            await group.stop("a")  # type: ignore[arg-type]
        assert group.services == (a,)
        assert repr(group) == "<Group one_for_one services=['a'] failures=0>"
        assert trace.steps == ["a running"]
        b = await group.start("b.py", restart=RestartPolicy("always", delay=0.1))  # as the group has it
        assert group["b.py"] is b


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"strategy": "all"}, ValueError, "strategy must be one of one_for_one, one_for_all, rest_for_one, not 'all'"),
        ({"restart": None}, TypeError, "restart must be a RestartPolicy, not None"),
        ({"worker": "w"}, TypeError, r"open_group\(\) takes a worker, not 'w'"),
    ],
)
def test_what_a_group_cannot_be_opened_with_is_refused(options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        open_group(options.pop("worker", None), **options)


async def test_another_thread_may_not_use_a_group(real_world: World) -> None:
    async with opened(real_world) as (group, _):
        a = await group.start("a.py")

        async def elsewhere() -> None:
            with pytest.raises(RuntimeError, match=r"wrong thread; .* trio\.from_thread\.run\(…"):
                await group.start("b.py")
            with pytest.raises(RuntimeError, match="wrong thread"):
                await group.stop(a)

        await trio.to_thread.run_sync(trio.run, elsewhere)
        assert group.services == (a,)
