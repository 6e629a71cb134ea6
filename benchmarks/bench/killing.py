"""The row about many ends: kill and reap a hundred children."""

from __future__ import annotations

from time import perf_counter

import trio

import spindle_trio as spindle
from bench.floors import fork_floor
from bench.hosts import default_launcher, default_preload, level_of, open_host
from bench.measuring import Measurement, Race, Role, Settings

KILLED_BLOCKING = "blocking entries, until each end is announced"
KILLED_ASYNC = "async entries, until each end is announced"
KILL_FLOOR = "kill and waitpid, children forked with the same preload"

CHILDREN = 100


async def hundred(settings: Settings) -> Measurement:
    """Kill all processes of a host, and wait until every one of them has been reaped and announced."""
    count = settings.amount(CHILDREN, 5)

    async def sample(entry: str) -> float:
        async with open_host(default_launcher(), max_processes=count) as running:
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(running.processes.spawn, entry)
            ended = trio.Event()
            left = count

            def note_end(event: spindle.LifecycleEvent) -> None:
                nonlocal left
                if event.state.is_terminal:
                    left -= 1
                    if not left:
                        ended.set()

            running.processes.on_lifecycle(note_end)
            await trio.sleep(0.05)
            began = perf_counter()
            running.host.kill()
            await ended.wait()
            return 1000 * (perf_counter() - began)

    async with open_host(default_launcher()) as running:
        level = level_of(running)
    async with fork_floor(default_preload(), level) as floor, Race("ms", settings.rounds(20, 6), warm_up=1) as race:
        race.add(Role.OURS, KILLED_BLOCKING, lambda: sample("idle_blocking.py"))
        race.add(Role.OURS, KILLED_ASYNC, lambda: sample("idle.py"))
        race.add(Role.FLOOR, KILL_FLOOR, lambda: floor.kill(count))
        return await race.run()
