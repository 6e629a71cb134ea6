"""Services whose processes crash at random, in real time: none is lost, none runs twice, and no key is ever free.

Each process holds a lock of its service while it lives, so the operating system says whether there were two. Strangers
ask for the key at every end of a process, and in between. In the long run 1 000 services come and go in a minute, 16 at
a time.
"""

from __future__ import annotations

import collections
import random
import shutil
import time
from pathlib import Path

import attrs
import pytest
import trio

from spindle_trio import (
    DuplicateKeyError,
    ProcessLostError,
    RestartPolicy,
    Service,
    ServiceEvent,
    SpawnError,
    Worker,
    open_host,
    open_service,
)
from support.reliability import ENTRIES, make_launcher

ENTRY = "crashes_at_random.py"
KIND = "crashing"

AT_ONCE = 16

LIVE_SECONDS = 0.25
"""How long a process lives at most, as a rule."""

POLICY = RestartPolicy(delay=0.02, factor=1.5, max_delay=0.1, jitter=0.5, stable_after=0.2, give_up_after=None)

ANSWER_SECONDS = 30
"""How long a service may take until a process of it answers. The machine has other things to do."""

Seen = collections.Counter[str]


@attrs.define
class Crashes:
    """Services, and who asks for their keys."""

    worker: Worker
    folder: Path
    seconds: float
    """For each service."""
    left: int
    """How many services are still to come."""
    nursery: trio.Nursery
    seen: Seen = attrs.field(factory=Seen)
    held: dict[str, Service] = attrs.field(factory=dict)
    """Key → its service, as long as that must have it."""

    async def keep_services(self) -> None:
        """Keep one service after another."""
        while self.left:
            self.left -= 1
            await self.keep(f"service {self.left}")

    async def keep(self, key: str) -> None:
        payload = {"lock": str(self.folder / key), "twice": str(self.folder / "twice"), "seconds": LIVE_SECONDS}
        while True:
            try:
                async with open_service(
                    self.worker, ENTRY, key=key, kind=KIND, payload=payload, restart=POLICY, startup_timeout=30
                ) as service:
                    await self.watch(key, service)
            except SpawnError:  # of the first start, which is raised to who opens it
                assert key not in self.held
                self.seen["first start failed"] += 1
            else:
                return

    async def watch(self, key: str, service: Service) -> None:
        """Use a service for its time, and see that it is as it should be."""
        ends = 0

        def note(event: ServiceEvent) -> None:
            nonlocal ends
            self.seen[event.kind.value] += 1
            if event.kind == "ended" and key in self.held:
                ends += 1
                self.nursery.start_soon(self.ask_for, key)

        began = service.generation
        self.held[key] = service
        service.on_event(note)
        await trio.sleep(self.seconds)
        with trio.fail_after(ANSWER_SECONDS):
            await self.be_answered(service)
        assert service.generation - began == ends, "each end is followed by one start"
        assert service.state in ("running", "waiting", "starting")
        del self.held[key]

    async def be_answered(self, service: Service) -> None:
        while True:
            try:
                await service.call("who")
            except ProcessLostError:
                self.seen["call lost"] += 1
            else:
                return

    async def ask_for(self, key: str) -> None:
        """Ask for the key of a service, which nobody may get."""
        self.seen["asked for a key"] += 1
        try:
            await self.worker.backend_processes.spawn(ENTRY, key=key, kind=KIND, startup_timeout=30)
        except DuplicateKeyError:
            return
        if key in self.held:
            self.seen["key was free"] += 1

    async def ask_for_any(self) -> None:
        """Ask for one key after another."""
        while True:
            await trio.sleep(0.01)
            if self.held:
                self.nursery.start_soon(self.ask_for, random.choice(list(self.held)))


@pytest.mark.parametrize(
    ("services", "seconds"),
    [
        pytest.param(16, 0.25, id="quick"),
        pytest.param(64, 0.9, id="ordinary", marks=pytest.mark.slow),
        pytest.param(1_000, 0.9, id="soak", marks=pytest.mark.soak),
    ],
)
async def test_services_that_crash_at_random_are_neither_lost_nor_run_twice(
    level: str, tmp_path: Path, services: int, seconds: float
) -> None:
    root, folder = tmp_path / "entries", tmp_path / "locks"
    shutil.copytree(ENTRIES, root)
    folder.mkdir()
    began, used = trio.current_time(), time.process_time()
    async with (
        open_host(make_launcher(level), max_processes=4 * AT_ONCE, grace_period=0.5) as host,
        host.open_worker("tests", root=root, user_id="ada") as worker,
    ):
        async with trio.open_nursery() as strangers:
            crashes = Crashes(worker, folder, seconds, services, strangers)
            async with trio.open_nursery() as keepers:
                keepers.start_soon(crashes.ask_for_any)
                async with trio.open_nursery() as keeping:
                    for _ in range(AT_ONCE):
                        keeping.start_soon(crashes.keep_services)
                keepers.cancel_scope.cancel()
        assert host.statistics().processes == 0
    took, used = trio.current_time() - began, time.process_time() - used
    seen = crashes.seen
    print(f"{level}: {services} services in {took:.1f} s, host's processor {used:.1f} s: {dict(seen)}")
    assert seen["ended"] > services / 2, "hardly anything has crashed"
    assert seen["key was free"] == 0
    assert seen["gave_up"] == 0
    assert seen["stopped"] == services, "none ends but by its block"
    assert not (folder / "twice").exists()
    pids = [line for lock in folder.glob("service *") for line in lock.read_text().split()]
    assert len(pids) >= services + seen["running"]
