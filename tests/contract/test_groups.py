"""Groups: the order in which services start and stop, whom an end takes along, and how a group gives up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import (
    Group,
    ProcessLostError,
    RestartPolicy,
    Service,
    Worker,
    open_group,
)

from .conftest import World
from .test_services import STEADY

QUICK = RestartPolicy(delay=0.1, factor=1, jitter=0)
PATIENT = RestartPolicy(delay=1, factor=2, jitter=0)
NAMES = ("a", "b", "c")


class Trace:
    """What the processes of a worker do, and when."""

    def __init__(self, worker: Worker) -> None:
        self.steps: list[str] = []
        self.times: list[float] = []
        self._changed = trio.lowlevel.ParkingLot()
        worker.backend_processes.on_lifecycle(self._note)

    def _note(self, event: Any) -> None:
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
