"""Races for one key: spawns, replacements, stops and cancellations at once, and the end of a worker among them."""

from __future__ import annotations

import random

import pytest
import trio

import spindle_trio as spindle
from support.contract import ENDS_WHEN_TOLD, WAITS, wait_until


async def test_of_two_spawns_in_one_tick_one_wins(world, world_clock):
    world.entry(WAITS)
    outcomes = []
    async with world.worker() as worker:

        async def spawn():
            try:
                outcomes.append(await worker.backend_processes.spawn("entry.py", key="k"))
            except spindle.DuplicateKeyError as error:
                outcomes.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(spawn)
        winners = [outcome for outcome in outcomes if isinstance(outcome, spindle.ProcessHandle)]
        assert len(winners) == 1
        losers = [outcome for outcome in outcomes if outcome not in winners]
        assert [(type(each), each.existing.process_id) for each in losers] == [
            (spindle.DuplicateKeyError, winners[0].process_id)
        ] * 2
        assert world.states() == ["starting", "running"]


async def test_of_two_replacing_spawns_in_one_tick_the_later_one_stays(world, world_clock):
    world.entry(WAITS)
    outcomes = []
    async with world.worker() as worker:

        async def spawn():
            try:
                outcomes.append(await worker.backend_processes.spawn("entry.py", key="k", replace_existing=True))
            except spindle.StartupCancelledError as error:
                outcomes.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spawn)
            nursery.start_soon(spawn)
        error, handle = outcomes
        assert type(error) is spindle.StartupCancelledError
        assert handle.state == "running"
        assert [info.process_id for info in await worker.backend_processes.list()] == [handle.process_id]
    assert world.states(error.info.process_id) == ["starting", "stopping", "stopped"]


async def test_whoever_hears_the_terminal_event_can_spawn_the_same_key(world, world_clock):
    """From a handler, which may only start a task, and from a channel; with one place in the worker."""
    world.entry("""
    async def run(process):
        process.ready()
    """)
    async with world.worker(max_processes=1) as worker, trio.open_nursery() as nursery:
        ids = []

        async def spawn():
            handle = await worker.backend_processes.spawn("entry.py", key="k")
            ids.append(handle.process_id)

        def on_end(event):
            assert event.process_id not in ids[1:]
            if event.state.is_terminal and len(world.events) == 3:
                nursery.start_soon(spawn)

        worker.backend_processes.on_lifecycle(on_end)
        events = worker.backend_processes.lifecycle_events()
        await spawn()
        ended = 0
        while ended < 2:
            ended += (await events.receive()).state.is_terminal
        await spawn()
        assert len(set(ids)) == 3


async def test_waiting_for_a_key_does_not_count_against_the_startup_deadline(virtual_world, autojump_clock):
    """In virtual time only: a real wait past a deadline that interpreters can keep would take seconds."""
    virtual_world.entry(ENDS_WHEN_TOLD)
    virtual_world.entry(WAITS, "new.py")
    async with virtual_world.worker(grace_period=60) as worker, trio.open_nursery() as nursery:
        old = await worker.backend_processes.spawn("entry.py", kind="k", key="k")
        new = []

        @nursery.start_soon
        async def replace():
            options = {"kind": "k", "key": "k", "replace_existing": True, "startup_timeout": 5}
            new.append(await worker.backend_processes.spawn("new.py", **options))

        await wait_until(worker, lambda: old.state == "stopping")
        await trio.sleep(30)
        await old.send("end")
        await wait_until(worker, lambda: len(virtual_world.states()) == 6)
    assert virtual_world.states()[4:6] == ["starting", "running"]
    assert (new[0].info.started_at - old.info.started_at).total_seconds() == 30
    assert new[0].info.started_at == virtual_world.events[4].at == old.info.ended_at


async def test_a_spawn_that_is_queued_when_the_worker_closes_is_refused(world, world_clock):
    world.entry(ENDS_WHEN_TOLD)
    async with trio.open_nursery() as nursery, world.host() as host:
        async with host.open_worker("w", root=world.root, user_id="ada") as worker:
            worker.backend_processes.on_lifecycle(world.events.append)
            old = await worker.backend_processes.spawn("entry.py", key="k")
            refused = []

            async def replace(number):
                with pytest.raises(trio.ClosedResourceError):
                    await worker.backend_processes.spawn("entry.py", key="k", replace_existing=True)
                refused.append((number, old.state))
                if len(refused) == 2:
                    await old._process.send("end")  # the worker is closed, and this end of it goes on

            nursery.start_soon(replace, 1)
            nursery.start_soon(replace, 2)
            await wait_until(worker, lambda: old.state == "stopping")
            for _ in range(10):
                await trio.lowlevel.checkpoint()
            assert host.statistics().queued == 2
        # Refused at once, and not when the process is gone for which they have waited.
        assert sorted(refused) == [(1, "stopping"), (2, "stopping")]
        assert (old.state, old.info.exit_reason) == ("stopped", "replaced")
        assert host.statistics().queued == 0
    assert world.states() == ["starting", "running", "stopping", "stopped"]


# Row 30 of the reliability contract.

HOLDS_A_LOCK = """
import fcntl
async def run(process):
    # The system's lock tells whether another one is alive, however that was ended.
    with open("lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if process.payload["before"]:
            await trio.sleep(process.payload["before"])
        process.ready()
        if process.payload["deaf"]:
            process.on_stop(print)
        try:
            await trio.sleep(process.payload["lives"])
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(process.payload["after"])
"""


@pytest.mark.parametrize("seed", range(40))
async def test_of_one_key_at_most_one_process_is_alive_at_any_instant(virtual_world, autojump_clock, seed, monkeypatch):
    """Spawns, replacements, stops and cancellations race at random; each process holds a lock while it is alive."""
    await race_for_one_key(virtual_world, seed, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
async def test_of_one_key_that_is_kept_at_most_one_process_is_alive(virtual_world, autojump_clock, seed, monkeypatch):
    """Successors and releases race as well."""
    await race_for_one_key(virtual_world, seed, monkeypatch, keeps=True)


async def test_of_one_key_at_most_one_real_process_is_alive_at_any_instant(real_world, monkeypatch):
    """The same in real time: one seed, since that takes about a second."""
    await race_for_one_key(real_world, 1, monkeypatch)


async def race_for_one_key(world, seed, monkeypatch, *, keeps=False):
    (world.root / "lock").touch()
    monkeypatch.chdir(world.root)  # in memory there is no working directory of its own
    world.entry(HOLDS_A_LOCK)
    chance = random.Random(seed)
    count, unit = (60, 1.0) if world.is_virtual else (12, 0.02)
    alive: set[str] = set()

    def count_alive(event):
        (alive.discard if event.state.is_terminal else alive.add)(event.process_id)
        assert len(alive) <= 1

    errors = (spindle.SpawnRefusedError, spindle.SpawnError)
    unexpected = []

    async with world.worker(grace_period=2 * unit) as worker:
        processes = worker.backend_processes
        processes.on_lifecycle(count_alive)

        async def spawn(payload, options, patience):
            with trio.move_on_after(patience):
                try:
                    await processes.spawn("entry.py", key="k", payload=payload, **options)
                except errors as error:
                    info = getattr(error, "info", None)
                    if info is not None and info.state == "failed":
                        unexpected.append(info.error)

        async def stop(process_id):
            with trio.move_on_after(chance.choice([0, unit, 100])):
                await processes.stop(process_id)

        def draw_payload():
            return {
                "before": chance.choice([0, 0, unit, 3 * unit]),
                "lives": chance.choice([0, unit, 20 * unit, 1000]),
                "after": chance.choice([0, unit / 2, unit]),  # less than it takes to be abandoned
                "deaf": chance.random() < 0.2,
            }

        def succeed(event):
            if event.state.is_terminal and chance.random() < 0.8:
                options = {"keep_key": True, "successor_of": event.process_id}
                nursery.start_soon(spawn, draw_payload(), options, chance.choice([0, unit, 5 * unit, 100]))
            elif event.state.is_terminal and chance.random() < 0.5:
                nursery.start_soon(processes.release_key, event.process_id)

        async with trio.open_nursery() as nursery:
            unsubscribe = processes.on_lifecycle(succeed) if keeps else lambda: None
            for _ in range(count):
                choice = chance.random()
                if choice < 0.7:
                    payload = draw_payload()
                    startup_timeout = chance.choice([2 * unit, 15]) if world.is_virtual else 15
                    options = {"replace_existing": chance.random() < 0.7, "startup_timeout": startup_timeout}
                    options["keep_key"] = keeps
                    nursery.start_soon(spawn, payload, options, chance.choice([0, unit, 5 * unit, 100, 100]))
                elif world.events:
                    nursery.start_soon(stop, chance.choice(world.events).process_id)
                for _ in range(chance.randrange(4)):
                    await trio.lowlevel.checkpoint()
                if chance.random() < 0.5:
                    await trio.sleep(chance.choice([0, unit, 2 * unit]))
            unsubscribe()
            # Whatever holds the key now gives way, so that no spawn is left waiting for a process that lives on.
            await trio.sleep(5 * unit)
            for info in await processes.list():
                nursery.start_soon(stop, info.process_id)
        # The last one may live on, or have ended and have the key still. When it has given that up, the key is free.
        for process_id in {event.process_id for event in world.events}:
            await processes.stop(process_id)
        payload = {"before": 0, "lives": unit, "after": 0, "deaf": False}
        last = await processes.spawn("entry.py", key="k", payload=payload)
        await last.wait_ended()
    assert unexpected == []
    assert alive == set()
    assert len(world.events) > (20 if world.is_virtual else 4)
    for process_id in {event.process_id for event in world.events}:
        states = world.states(process_id)
        assert states[0] == "starting"
        assert [spindle.ProcessState(state).is_terminal for state in states] == [False] * (len(states) - 1) + [True]
