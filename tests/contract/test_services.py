"""Services: when a process is started again, who may use it meanwhile, and how a service ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import (
    ProcessLostError,
    RestartPolicy,
    Service,
    ServiceEvent,
    ServiceGaveUpError,
    open_service,
)

from .conftest import World

STEADY = """
async def run(process):
    @process.on_call
    async def who(payload):
        return [os.getpid(), payload]

    @process.on_call
    async def end(payload):
        getattr(process, payload)("as it was told")
        await trio.sleep_forever()

    process.ready()
    process.beat_while_running()
"""
"""Answers calls, and ends as it is told."""

CRASHES = """
async def run(process):
    process.ready()
    process.fail("it crashes")
"""

QUICK = RestartPolicy(delay=0.01, factor=1, jitter=0)


class Log:
    """The events of a service."""

    def __init__(self) -> None:
        self.events: list[ServiceEvent] = []
        self._changed = trio.lowlevel.ParkingLot()

    def note(self, event: ServiceEvent) -> None:
        self.events.append(event)
        self._changed.unpark_all()

    def kinds(self) -> list[str]:
        return [f"{event.kind} {event.generation}" for event in self.events]

    async def wait(self, kind: str, generation: int) -> ServiceEvent:
        """Wait for an event. A level."""
        await trio.lowlevel.checkpoint()
        while True:
            for event in self.events:
                if event.kind == kind and event.generation == generation:
                    return event
            await self._changed.park()


@asynccontextmanager
async def opened(
    world: World, source: str = STEADY, *, host: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Service, Log]]:
    """Open a service of an entry."""
    entry = world.entry(source)
    log = Log()
    async with (
        world.worker(**(host or {})) as worker,
        open_service(worker, entry, **options) as service,
    ):
        service.on_event(log.note)
        yield service, log


async def test_a_process_that_fails_is_started_again(world: World, world_clock: MockClock | None) -> None:
    async with opened(world, restart=QUICK, key="a") as (service, log):
        with pytest.raises(ProcessLostError):
            await service.call("end", "fail")
        await log.wait("running", 2)
        assert (await service.call("who", 1))[1] == 1
        assert service.generation == 2


async def test_a_crash_loop_gives_up(world: World, world_clock: MockClock | None) -> None:
    with pytest.raises(ServiceGaveUpError, match=r"after 8 failure.*, of generation 8: it crashes; mend"):
        async with opened(world, CRASHES, restart=QUICK, key="a"):
            await trio.sleep_forever()
