"""Groups to which things happen at random, in virtual time: none is lost, none runs twice, and the order holds."""

from __future__ import annotations

import math
import random
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import (
    Group,
    LifecycleEvent,
    RestartPolicy,
    Service,
    SpindleError,
    Worker,
    open_group,
    open_host,
)
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher

SECONDS = 60
POLICY = RestartPolicy(delay=0.5, max_delay=4, stable_after=10, give_up_after=None)


class Play:
    """One group, what happens to it, and what its processes do."""

    def __init__(self, seed: int, strategy: Any) -> None:
        self.random = random.Random(seed)
        self.strategy = strategy
        self.is_calm = False
        self.running: dict[str, str] = {}
        """By key: the processes that run."""
        self.known: list[str] = []
        self.ended_at: dict[str, float] = {}
        self.group: Group
        self.broken: list[str] = []

    async def entry(self, process: ProcessContext) -> None:
        """Is ready after a while, or fails; ends after a while, or not; stops when it likes to."""
        dice = self.random
        await trio.sleep(dice.choice([0, 0, 0.3, 2]))
        if not self.is_calm and dice.random() < 0.1:
            process.fail("no luck")
        patience = dice.choice([0, 0, 0.5, 9])
        process.on_stop(lambda notice: None)
        process.ready()
        process.beat_while_running()
        life_time = math.inf if self.is_calm else dice.choice([0, 3, 20, 100])
        with trio.move_on_after(life_time) as life:
            await process.wait_stop()
            await trio.sleep(patience)
            return
        assert life.cancelled_caught
        if dice.random() < 0.9:
            raise RuntimeError("it crashes")

    def note(self, event: LifecycleEvent) -> None:
        assert event.key is not None
        if event.state == "starting" and self.strategy != "one_for_one":
            names = [name for name, member in self.group._keeper.members.items() if not member.is_leaving]
            if event.key not in names:
                return  # its start is being cancelled
            place = names.index(event.key)
            for name in names[:place]:
                is_gone = name not in self.running and self.ended_at.get(name) != trio.current_time()
                self.broken += [f"{event.key} starts, and {name} does not run"] * is_gone
            for name in names[place + 1 :]:
                self.broken += [f"{event.key} starts while {name} runs"] * (name in self.running)
        elif event.state == "running":
            self.broken += [f"{event.key} runs twice"] * (event.key in self.running)
            self.running[event.key] = event.process_id
        elif event.state.is_terminal:
            self.running.pop(event.key, None)
            self.ended_at[event.key] = trio.current_time()

    async def handshake(self, process: object) -> None:
        await trio.sleep(self.random.choice([0, 0, 1]))
        if not self.is_calm and self.random.random() < 0.05:
            raise LookupError("no handshake")

    async def start(self, group: Group) -> None:
        key = f"k{len(self.known)}"
        self.known.append(key)
        when = self.random.choice(["never", "on_failure", "always"])
        lifetime = math.inf if when == "never" else self.random.choice([31, math.inf])
        options: dict[str, Any] = {"on_start": self.handshake} if self.random.random() < 0.5 else {}
        with trio.move_on_after(self.random.choice([0.1, 5, 1000])), suppress(SpindleError, LookupError):
            await group.start("entry", key=key, restart=RestartPolicy(when, max_lifetime=lifetime), **options)

    async def play(self, worker: Worker, group: Group, nursery: trio.Nursery) -> None:
        end = trio.current_time() + SECONDS
        while trio.current_time() < end:
            await trio.sleep(self.random.choice([0, 0, 0.1, 1, 5]))
            services = group.services
            if len(services) < 5 and self.random.random() < 0.5:
                nursery.start_soon(self.start, group)
                continue
            if services:
                nursery.start_soon(self.disturb, worker, self.random.choice(services))

    async def disturb(self, worker: Worker, service: Service) -> None:
        process = service.process
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            match self.random.randrange(8):
                case 0:
                    await service.stop(grace=self.random.choice([None, 0, 1]))
                case 1 | 2:
                    with trio.move_on_after(self.random.choice([0, 1, 100])):
                        await service.restart("again")
                case 3 if process is not None:
                    await worker.backend_processes.stop(process.process_id)
                case 4 | 5 if process is not None:
                    await process.kill()
                case _:
                    with trio.move_on_after(3):
                        await service.wait_running()


@pytest.mark.quick(9)
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
@pytest.mark.parametrize("seed", range(30))
async def test_whatever_happens_to_a_group_it_comes_to_rest_whole(
    autojump_clock: MockClock, seed: int, strategy: str
) -> None:
    play = Play(seed, strategy)
    async with (
        open_host(MemoryLauncher({"entry": play.entry}), grace_period=2, max_processes=20) as host,
        host.open_worker("tests", user_id="ada") as worker,
    ):
        worker.backend_processes.on_lifecycle(play.note)
        async with open_group(worker, strategy=strategy, restart=POLICY) as group:  # type: ignore[arg-type]
            play.group = group
            async with trio.open_nursery() as nursery:
                await play.play(worker, group, nursery)
                play.is_calm = True
            await trio.sleep(300)
            with trio.fail_after(60):
                while None in (processes := [service.process for service in group.services]):
                    await trio.sleep(0.1)
            assert {process.process_id for process in processes if process} == set(play.running.values())
            assert {service.state for service in group.services} <= {"running"}
        assert await worker.backend_processes.list() == []
        assert play.broken == []
        for key in play.known:
            await (await worker.backend_processes.spawn("entry", key=key)).kill()
