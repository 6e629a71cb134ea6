"""Keys: at most one live process for each worker, user, kind and key; refusals, replacements, and their times."""

from __future__ import annotations

import itertools

import pytest
import trio

import spindle_trio as spindle
from support.contract import ENDS_WHEN_TOLD, IGNORES_STOP, NEVER_READY, WAITS, exists, wait_until

COMPLETES_AND_LINGERS = """
async def run(process):
    process.ready()
    channel = process.messages()
    await channel.receive()
    try:
        process.complete("done")
        await trio.lowlevel.checkpoint()
    finally:
        with trio.CancelScope(shield=True):
            await channel.receive()
"""


# What is one key.


async def test_a_key_is_held_by_worker_user_kind_and_key_together(world, world_clock):
    world.entry(WAITS)
    async with (
        world.host() as host,
        host.open_worker("one", root=world.root) as one,
        host.open_worker("two", root=world.root) as two,
    ):
        held = {"user_id": "ada", "kind": "index", "key": "k"}
        first = await one.backend_processes.spawn("entry.py", **held)
        for other in ({"user_id": "bob"}, {"kind": "search"}, {"key": "l"}, {"key": "K"}):
            await one.backend_processes.spawn("entry.py", **(held | other))
        await two.backend_processes.spawn("entry.py", **held)
        with pytest.raises(spindle.DuplicateKeyError) as caught:
            await one.backend_processes.spawn("entry.py", **held)
        assert caught.value.existing.process_id == first.process_id
        assert len(await one.backend_processes.list()) == 5


async def test_a_key_is_a_tuple_and_no_joined_string(world, world_clock):
    """Joined by colons, all of these would be the key of one process."""
    world.entry(WAITS)
    async with world.worker(user_id=None) as worker:
        for user_id, kind, key in [("a:b", "c", "d"), ("a", "b:c", "d"), ("a", "b", "c:d")]:
            await worker.backend_processes.spawn("entry.py", user_id=user_id, kind=kind, key=key)
        assert world.states() == ["starting", "running"] * 3


async def test_processes_without_a_key_are_never_duplicates(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        for _ in range(2):
            await worker.backend_processes.spawn("entry.py")
        assert world.states() == ["starting", "running"] * 2


# A second spawn without replace_existing.


async def refuse_duplicate(world, worker, name, state):
    """Try to spawn a second one, and hold what that is told against the other's state."""
    (before,) = await worker.backend_processes.list(key="k")
    events = len(world.events)
    since = trio.current_time()
    with pytest.raises(spindle.DuplicateKeyError) as caught:
        await worker.backend_processes.spawn(name, kind="kind", key="k")
    world.assert_took(since, 0)
    existing = caught.value.existing
    assert (existing.process_id, existing.state) == (before.process_id, state)
    assert (existing.kind, existing.key, existing.started_at) == ("kind", "k", before.started_at)
    for part in (existing.process_id, "'k'", "'kind'", state, "replace_existing"):
        assert part in str(caught.value)
    assert len(world.events) == events
    assert len(await worker.backend_processes.list()) == 1


async def test_a_duplicate_is_refused_while_the_other_is_starting(world, world_clock):
    world.entry(NEVER_READY)
    async with world.worker() as worker, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def spawn_first():
            with pytest.raises(spindle.StartupCancelledError):
                await worker.backend_processes.spawn("entry.py", kind="kind", key="k")

        await wait_until(worker, lambda: world.events)
        await refuse_duplicate(world, worker, "entry.py", "starting")
        await worker.backend_processes.stop(world.events[0].process_id)


async def test_a_duplicate_is_refused_while_the_other_is_running_and_stopping(world, world_clock):
    world.entry(ENDS_WHEN_TOLD)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn("entry.py", kind="kind", key="k")
        await refuse_duplicate(world, worker, "entry.py", "running")
        nursery.start_soon(handle.stop)
        await wait_until(worker, lambda: handle.state == "stopping")
        await refuse_duplicate(world, worker, "entry.py", "stopping")
        await handle.send("end")
    assert world.states() == ["starting", "running", "stopping", "completed"]


async def test_a_duplicate_is_refused_while_the_other_has_completed_and_still_exists(world, world_clock):
    """A terminal state means that the process is gone; before that the key is not free."""
    world.entry(COMPLETES_AND_LINGERS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", kind="kind", key="k")
        await handle.send("complete")
        await refuse_duplicate(world, worker, "entry.py", "running")
        await handle.send("exit")
        await handle.wait_ended()
        assert handle.result == "done"
        again = await worker.backend_processes.spawn("entry.py", kind="kind", key="k")
        await again.send("complete")
        await again.send("exit")


async def test_a_duplicate_is_refused_while_the_key_passes_on(world, world_clock):
    """When the terminal event is heard and a replacement waits, the key is that one's already."""
    world.entry(ENDS_WHEN_TOLD)
    refused = []
    async with world.worker() as worker, trio.open_nursery() as nursery:
        first = await worker.backend_processes.spawn("entry.py", key="k")

        async def spawn_another():
            with pytest.raises(spindle.DuplicateKeyError) as caught:
                await worker.backend_processes.spawn("entry.py", key="k")
            refused.append(caught.value.existing)

        def on_end(event):
            if event.state.is_terminal and event.process_id == first.process_id:
                nursery.start_soon(spawn_another)

        worker.backend_processes.on_lifecycle(on_end)

        @nursery.start_soon
        async def replace():
            second = await worker.backend_processes.spawn("entry.py", key="k", replace_existing=True)
            await second.send("end")

        await wait_until(worker, lambda: first.state == "stopping")
        await first.send("end")
        await wait_until(worker, lambda: len(world.states()) == 7)
    assert len(refused) == 1
    assert refused[0].key == "k"


# Replacing.


async def test_a_replaced_process_is_stopped_reaped_and_announced_before_the_new_one_starts(world, world_clock):
    world.entry(ENDS_WHEN_TOLD)
    seen = []
    async with world.worker() as worker, trio.open_nursery() as nursery:
        old = await worker.backend_processes.spawn("entry.py", key="k", payload="old")
        old_pid, channel = old.pid, old.messages()

        def look(event):
            if event.state == "starting" and event.process_id != old.process_id:
                seen.append((old.state, old.info.ended_at is not None, old_pid is None or not exists(old_pid)))

        worker.backend_processes.on_lifecycle(look)
        new = []

        @nursery.start_soon
        async def replace():
            new.append(await worker.backend_processes.spawn("entry.py", key="k", payload="new", replace_existing=True))

        assert await channel.receive() == {"stop": "replaced"}
        assert new == []
        await old.send("end")
        await wait_until(worker, lambda: world.states()[-1] == "running" and len(world.states()) == 6)
        assert seen == [("stopped", True, True)]
        info = old.info
        assert (info.state, info.exit_reason, old.result) == ("stopped", "replaced", None)
        (found,) = await worker.backend_processes.list()
        assert found.process_id != old.process_id
        await worker.backend_processes.send(found.process_id, "end")
        await wait_until(worker, lambda: len(world.states()) == 7)
    assert world.states() == ["starting", "running", "stopping", "stopped", "starting", "running", "completed"]
    old_end, new_start = world.events[3:5]
    assert old_end.at <= new_start.at
    assert new[0].info.started_at == new_start.at
    assert new[0].result == "new"


async def test_a_replaced_process_that_ignores_the_stop_is_killed_after_the_grace_period(world, world_clock):
    world.entry(IGNORES_STOP)
    world.entry(WAITS, "new.py")
    async with world.worker(grace_period=0.4) as worker:
        old = await worker.backend_processes.spawn("entry.py", kind="k", key="k")
        new = await worker.backend_processes.spawn("new.py", kind="k", key="k", replace_existing=True)
        assert (old.info.state, old.info.exit_reason) == ("stopped", "replaced")
        assert "0.4 s" in (old.info.error or "")
        assert new.state == "running"
        stopping, stopped, starting = world.events[2:5]
        grace = (stopped.at - stopping.at).total_seconds()
        assert grace == pytest.approx(0.4, abs=1e-6) if world.is_virtual else 0.39 <= grace < 1.4
        assert new.info.started_at == starting.at >= stopped.at


async def test_what_a_replaced_process_says_last_does_not_change_that_it_was_replaced(world, world_clock):
    world.entry("""
    async def run(process):
        process.ready()
        await process.wait_stop()
        process.fail("no time for this")
        await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        old = await worker.backend_processes.spawn("entry.py", key="k")
        await worker.backend_processes.spawn("entry.py", key="k", replace_existing=True)
        assert (old.info.state, old.info.exit_reason) == ("stopped", "replaced")


async def test_replacing_nobody_is_a_plain_spawn(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", key="k", replace_existing=True)
        assert world.states() == ["starting", "running"]
        await handle.stop()
        await worker.backend_processes.spawn("entry.py", key="k", replace_existing=True)


async def test_a_process_that_is_starting_can_be_replaced(world, world_clock):
    world.entry(NEVER_READY)
    world.entry(WAITS, "new.py")
    async with world.worker() as worker, trio.open_nursery() as nursery:
        errors = []

        @nursery.start_soon
        async def spawn_first():
            with pytest.raises(spindle.StartupCancelledError) as caught:
                await worker.backend_processes.spawn("entry.py", kind="k", key="k")
            errors.append(caught.value)

        await wait_until(worker, lambda: world.events)
        new = await worker.backend_processes.spawn("new.py", kind="k", key="k", replace_existing=True)
        assert new.state == "running"
        assert "replaced" in str(errors[0])
        assert world.states(errors[0].info.process_id) == ["starting", "stopping", "stopped"]


async def test_a_process_that_is_stopping_can_be_replaced_and_is_stopped_once(world, world_clock):
    """The host's reason takes over; the child keeps the first reason, and its grace period."""
    world.entry(ENDS_WHEN_TOLD)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        old = await worker.backend_processes.spawn("entry.py", key="k")
        channel = old.messages()
        nursery.start_soon(old.stop, "enough")
        assert await channel.receive() == {"stop": "enough"}

        @nursery.start_soon
        async def replace():
            new = await worker.backend_processes.spawn("entry.py", key="k", replace_existing=True)
            await new.send("end")

        await trio.testing.wait_all_tasks_blocked()
        await old.send("end")
        info = await old.wait_ended()
        assert (info.state, info.exit_reason) == ("stopped", "replaced")
        assert [payload async for payload in channel] == []
        await wait_until(worker, lambda: world.states()[-1] == "completed")
    assert world.states(old.process_id) == ["starting", "running", "stopping", "stopped"]


async def test_replacements_of_one_key_queue_in_order(world, world_clock):
    """Each spawn replaces the one before; the last one stays."""
    world.entry(ENDS_WHEN_TOLD)
    outcomes = {}
    async with world.worker() as worker, trio.open_nursery() as nursery:
        first = await worker.backend_processes.spawn("entry.py", key="k", metadata={"number": 0})

        async def replace(number):
            try:
                outcomes[number] = await worker.backend_processes.spawn(
                    "entry.py", key="k", metadata={"number": number}, replace_existing=True
                )
            except spindle.StartupCancelledError as error:
                outcomes[number] = error

        for number in (1, 2, 3):
            nursery.start_soon(replace, number)
            # One at a time: the scheduler may start tasks in any order.
            await wait_until(worker, lambda: first.state == "stopping")
            await trio.testing.wait_all_tasks_blocked()
        assert outcomes == {}
        await first.send("end")
        await wait_until(worker, lambda: world.states()[-1] == "running" and len(world.states()) > 2)
        last = world.events[-1]
        await worker.backend_processes.send(last.process_id, "end")
        await wait_until(worker, lambda: world.states()[-1] == "completed")
    numbers = [event.metadata["number"] for event in world.events]
    assert numbers == sorted(numbers)
    assert [number for number, _ in itertools.groupby(numbers)] == [0, 1, 2, 3]
    assert [type(outcomes[number]) for number in (1, 2)] == [spindle.StartupCancelledError] * 2
    assert outcomes[3].info.state == "completed"
    assert world.states(outcomes[1].info.process_id) == ["starting", "stopping", "stopped"]


async def test_a_queued_spawn_that_is_cancelled_leaves_the_queue(world, world_clock):
    """It has published nothing and leaves nothing; the one before it is stopped all the same, as was asked."""
    world.entry(ENDS_WHEN_TOLD)
    async with world.host() as host, host.open_worker("w", root=world.root, user_id="ada") as worker:
        worker.backend_processes.on_lifecycle(world.events.append)
        first = await worker.backend_processes.spawn("entry.py", key="k")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: worker.backend_processes.spawn("entry.py", key="k", replace_existing=True))
            await wait_until(worker, lambda: first.state == "stopping")
            assert host.statistics().queued == 1
            nursery.cancel_scope.cancel()
        assert host.statistics().queued == 0
        await first.send("end")
        info = await first.wait_ended()
        assert (info.state, info.exit_reason) == ("stopped", "replaced")
        assert world.states() == ["starting", "running", "stopping", "stopped"]
        again = await worker.backend_processes.spawn("entry.py", key="k")
        await again.send("end")


async def test_a_cancelled_spawn_in_the_middle_of_the_queue_lets_the_others_move_up(world, world_clock):
    world.entry(ENDS_WHEN_TOLD)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        first = await worker.backend_processes.spawn("entry.py", key="k", metadata={"number": 0})
        scopes = [trio.CancelScope() for _ in range(3)]
        got = []

        async def replace(number):
            with scopes[number]:
                handle = await worker.backend_processes.spawn(
                    "entry.py", key="k", metadata={"number": number + 1}, replace_existing=True
                )
                got.append(handle)
                await handle.send("end")

        for number in range(3):
            nursery.start_soon(replace, number)
            for _ in range(8):
                await trio.lowlevel.checkpoint()
        scopes[0].cancel()
        scopes[1].cancel()
        await trio.lowlevel.checkpoint()
        await first.send("end")
        await wait_until(worker, lambda: world.states()[-1] == "completed")
    assert [handle.info.metadata for handle in got] == [{"number": 3}]
    assert world.states() == ["starting", "running", "stopping", "stopped", "starting", "running", "completed"]


async def test_a_queued_spawn_keeps_the_payload_and_metadata_of_its_call(world, world_clock):
    """They were checked then; what the caller makes of them while it waits is not what was checked."""
    world.entry(ENDS_WHEN_TOLD)
    payload, metadata = {"list": [1]}, {"list": [1]}
    async with world.worker() as worker, trio.open_nursery() as nursery:
        old = await worker.backend_processes.spawn("entry.py", key="k")
        new = []

        @nursery.start_soon
        async def replace():
            options = {"payload": payload, "metadata": metadata, "key": "k", "replace_existing": True}
            new.append(await worker.backend_processes.spawn("entry.py", **options))
            await new[0].send("end")

        await wait_until(worker, lambda: old.state == "stopping")
        payload["list"].append({2})
        metadata["list"].append({2})
        await old.send("end")
        await wait_until(worker, lambda: world.states()[-1] == "completed")
    assert (new[0].result, new[0].info.metadata) == ({"list": [1]}, {"list": [1]})


async def test_a_replacement_that_is_refused_leaves_the_old_process_alone(world, world_clock):
    """Options and entry are checked before the old process is touched."""
    world.entry(WAITS)
    async with world.worker(user_id=None) as worker:
        held = {"user_id": "ada", "kind": "k", "key": "k", "replace_existing": True}
        old = await worker.backend_processes.spawn("entry.py", **held)
        for entry, options, error in [
            ("missing.py", {}, spindle.EntryError),
            ("../entry.py", {}, spindle.EntryError),
            ("entry.py", {"payload": {1}}, spindle.PayloadError),
            ("entry.py", {"metadata": {"a": ()}}, spindle.PayloadError),
            ("entry.py", {"startup_timeout": 0}, ValueError),
            ("entry.py", {"user_id": " "}, spindle.UserRequiredError),
        ]:
            with pytest.raises(error):
                await worker.backend_processes.spawn(entry, **(held | options))
        assert old.state == "running"
        assert world.states() == ["starting", "running"]
