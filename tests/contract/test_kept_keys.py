"""Keys that are kept between two processes: when they are, who takes them over, and what gives them up."""

from __future__ import annotations

import pytest
import trio

import spindle_trio as spindle
from support.contract import ENDS_WHEN_TOLD, NEVER_READY, WAITS, wait_until

OBEYS = """
async def run(process):
    channel = process.messages()
    word = process.payload
    if word is None:
        process.ready()
        word = await channel.receive()
    if word == "fail":
        raise RuntimeError("no good")
    if word == "break the watchdog":
        await trio.sleep_forever()
    try:
        process.complete("done")
        await trio.lowlevel.checkpoint()
    finally:
        if word == "complete and linger":
            with trio.CancelScope(shield=True):
                await channel.receive()
"""
"""Does what its payload says before it is ready, or the first message after that."""

KEPT = {"key": "k", "keep_key": True}


async def end(worker, **options):
    """Spawn a process that keeps its key, and have it end by itself."""
    handle = await worker.backend_processes.spawn("obeys.py", **(KEPT | options))
    await handle.send("fail")
    await handle.wait_ended()
    return handle


async def is_kept(worker, process_id, entry="obeys.py"):
    """Whether the key of an ended process is kept for its successor, and for nobody else."""
    try:
        await worker.backend_processes.spawn(entry, key="k")
    except spindle.DuplicateKeyError as error:
        assert f"is kept for its next start ({process_id})" in str(error)  # the other way is an outcome
        assert "release_key" in str(error)
        assert error.existing.process_id == process_id
        assert error.existing.state.is_terminal
        return True
    return False


async def is_lost(worker, process_id, entry="obeys.py"):
    """Whether no successor of a process can be spawned."""
    with pytest.raises(spindle.KeyLostError, match=f"'k' of kind '{entry}' is no longer kept .* of {process_id}: "):
        await worker.backend_processes.spawn(entry, key="k", successor_of=process_id)
    return True


# When a key is kept.


@pytest.mark.parametrize("word", ["fail", "complete", "break the watchdog"])
async def test_the_key_of_a_process_that_ends_by_itself_is_kept_for_its_successor(world, world_clock, word):
    world.entry(OBEYS, "obeys.py")
    async with world.worker() as worker:
        processes = worker.backend_processes
        options = KEPT | {"heartbeat_timeout": world.seconds(15, 0.3) if word.startswith("break") else 15}
        first = await processes.spawn("obeys.py", **options)
        await first.send(word)
        await first.wait_ended()
        assert await is_kept(worker, first.process_id)
        assert await processes.list() == []
        assert await processes.get(first.process_id) is None
        second = await processes.spawn("obeys.py", successor_of=first.process_id, **options)
        assert second.process_id != first.process_id
        assert (second.key, second.state) == ("k", "running")
        assert await is_lost(worker, first.process_id)
        await second.send("fail")
        await second.wait_ended()
        assert await is_kept(worker, second.process_id)
        third = await processes.spawn("obeys.py", key="k", successor_of=second.process_id)
        await third.send("fail")
        await third.wait_ended()
        assert not await is_kept(worker, third.process_id), "nobody has asked for that"


@pytest.mark.parametrize("word", ["fail", "complete", "break the watchdog"])
async def test_the_key_of_a_process_that_is_never_ready_is_kept(world, world_clock, word):
    world.entry(OBEYS, "obeys.py")
    world.entry(WAITS)
    async with world.worker() as worker:
        options = {"payload": word, "kind": "obeys.py", "startup_timeout": world.seconds(15, 5)}
        if word.startswith("break") and not world.is_virtual:
            options["startup_timeout"] = 0.5
        with pytest.raises(spindle.SpawnError) as caught:
            await worker.backend_processes.spawn("obeys.py", **KEPT, **options)
        assert await is_kept(worker, caught.value.info.process_id)
        await worker.backend_processes.spawn(
            "entry.py", kind="obeys.py", key="k", successor_of=caught.value.info.process_id
        )


async def test_a_launch_that_fails_keeps_the_key(virtual_world, autojump_clock, monkeypatch):
    """In memory only: it does not depend on the launcher."""
    virtual_world.entry(OBEYS, "obeys.py")
    launcher = virtual_world.launcher()

    def launch(order):
        raise RuntimeError("no launch")

    async with virtual_world.worker(launcher=launcher) as worker:
        with monkeypatch.context() as patch, pytest.raises(spindle.LaunchError) as caught:
            patch.setattr(launcher, "launch", launch)
            await worker.backend_processes.spawn("obeys.py", **KEPT)
        assert await is_kept(worker, caught.value.info.process_id)


async def test_whoever_hears_of_the_end_finds_the_key_kept_and_may_succeed(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    outcomes = []
    async with world.worker() as worker, trio.open_nursery() as nursery:
        first = await worker.backend_processes.spawn("obeys.py", **KEPT)

        async def spawn(**options):
            try:
                outcomes.append(await worker.backend_processes.spawn("obeys.py", **options))
            except spindle.SpawnRefusedError as error:
                outcomes.append(error)

        def on_end(event):
            if event.state.is_terminal and event.process_id == first.process_id:
                nursery.start_soon(lambda: spawn(key="k"))
                nursery.start_soon(lambda: spawn(key="k", successor_of=first.process_id))
                nursery.start_soon(lambda: spawn(key="k", successor_of=first.process_id))

        worker.backend_processes.on_lifecycle(on_end)
        await first.send("fail")
        await wait_until(worker, lambda: len(world.states()) == 5)
        while len(outcomes) < 3:
            await trio.lowlevel.checkpoint()
    # One of the two that came at once as successors has won, and nobody has slipped in between.
    assert sorted(type(each).__name__ for each in outcomes) == ["DuplicateKeyError", "KeyLostError", "ProcessHandle"]


@pytest.mark.parametrize("how", ["stop", "handle", "kill"])
async def test_a_stop_frees_the_key(world, world_clock, how):
    world.entry(WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", **KEPT)
        match how:
            case "stop":
                await worker.backend_processes.stop(handle.process_id)
            case "handle":
                await handle.stop()
            case _:
                await handle.kill()
        assert await is_lost(worker, handle.process_id, "entry.py")
        assert not await is_kept(worker, handle.process_id, "entry.py")


async def test_a_stop_that_races_with_an_end_frees_the_key(world, world_clock):
    """The process has completed, as nobody asked it to; it is told to stop while it is still there."""
    world.entry(OBEYS, "obeys.py")
    async with world.worker() as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn("obeys.py", **KEPT)
        await handle.send("complete and linger")
        while handle._process.record.life.phase.value != "ending":
            await trio.sleep(0.01)
        nursery.start_soon(handle.stop)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await handle.send("go")
        await handle.wait_ended()
        assert handle.state == "completed"
        assert not await is_kept(worker, handle.process_id)


async def test_a_stop_that_comes_too_late_gives_up_the_key(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    async with world.worker() as worker:
        first = await end(worker)
        await first.stop()
        await worker.backend_processes.stop(first.process_id, keep_key=True)
        assert await is_kept(worker, first.process_id), "neither of these wants it"
        await worker.backend_processes.stop(first.process_id)
        assert await is_lost(worker, first.process_id)
        assert not await is_kept(worker, first.process_id)


async def test_a_stop_may_leave_the_key_kept(world, world_clock):
    world.entry(ENDS_WHEN_TOLD)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        first = await worker.backend_processes.spawn("entry.py", **KEPT)
        nursery.start_soon(lambda: first.stop(keep_key=True))
        await world.wait_state("stopping")
        await first.send("end")
        await first.wait_ended()
        assert await is_kept(worker, first.process_id, "entry.py")
        second = await worker.backend_processes.spawn("entry.py", **KEPT, successor_of=first.process_id)
        nursery.start_soon(lambda: second.stop(keep_key=True))
        await world.wait_state("stopping", 2)
        nursery.start_soon(second.stop)  # and this one does not
        await trio.testing.wait_all_tasks_blocked(0.01)
        await second.send("end")
        await second.wait_ended()
        assert await is_lost(worker, second.process_id, "entry.py")
        third = await worker.backend_processes.spawn("entry.py", key="k")  # which keeps no key
        await third.kill()


async def test_a_spawner_that_is_cancelled_keeps_no_key(world, world_clock):
    world.entry(NEVER_READY)
    world.entry(WAITS, "waits.py")
    async with world.worker() as worker:
        with trio.move_on_after(0.2):
            await worker.backend_processes.spawn("entry.py", **KEPT)
        assert world.reasons() == [("stopped", "stopped")]
        assert not await is_kept(worker, world.events[0].process_id, "waits.py")
        assert await is_lost(worker, world.events[0].process_id, "entry.py")


async def test_a_spawner_that_is_cancelled_as_its_process_fails_keeps_no_key(world, world_clock):
    """Nobody has been told the id of that process, so nobody could ever give the key up."""
    world.entry(OBEYS, "obeys.py")
    async with world.worker() as worker:
        scope = trio.CancelScope()

        def cancel(event):
            if event.state.is_terminal:
                scope.cancel()

        unsubscribe = worker.backend_processes.on_lifecycle(cancel)
        with scope:
            await worker.backend_processes.spawn("obeys.py", payload="fail", **KEPT)
        unsubscribe()
        assert scope.cancelled_caught
        assert not await is_kept(worker, world.events[0].process_id)


# Replacements.


async def test_a_replacement_takes_a_kept_key_at_once(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    async with world.worker(max_processes=1) as worker:
        first = await end(worker)
        second = await worker.backend_processes.spawn("obeys.py", key="k", replace_existing=True)
        assert second.state == "running"
        assert await is_lost(worker, first.process_id)
        await worker.backend_processes.release_key(first.process_id)
        with pytest.raises(spindle.DuplicateKeyError, match=second.process_id):
            await worker.backend_processes.spawn("obeys.py", key="k")


async def test_the_key_goes_to_a_replacement_that_waits(world, world_clock):
    """Also where the process ends by itself before the replacement has had its turn."""
    world.entry(OBEYS, "obeys.py")
    async with world.worker() as worker, trio.open_nursery() as nursery:
        first = await worker.backend_processes.spawn("obeys.py", **KEPT)
        await first.send("complete and linger")
        while first._process.record.life.phase.value != "ending":
            await trio.sleep(0.01)
        second = world.spawn_soon(nursery, worker, "obeys.py", replace_existing=True, **KEPT)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await first.send("go")
        await second.is_over.wait()
        assert second.handle is not None
        assert await is_lost(worker, first.process_id)
        # And what replaces may keep its key itself.
        await second.handle.send("fail")
        await second.handle.wait_ended()
        assert await is_kept(worker, second.handle.process_id)


async def test_a_successor_can_be_replaced(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    async with world.worker() as worker:
        first = await end(worker)
        second = await worker.backend_processes.spawn("obeys.py", **KEPT, successor_of=first.process_id)
        third = await worker.backend_processes.spawn("obeys.py", **KEPT, replace_existing=True)
        assert (second.state, second.info.exit_reason, third.state) == ("stopped", "replaced", "running")
        assert await is_lost(worker, first.process_id)
        assert await is_lost(worker, second.process_id)


# Successors that come to nothing.


async def test_a_successor_that_is_refused_leaves_the_key_kept(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    async with world.worker() as worker:
        spawn = worker.backend_processes.spawn
        first = await end(worker)
        succeeds = KEPT | {"successor_of": first.process_id}
        with pytest.raises(spindle.EntryError):
            await spawn("missing.py", kind="obeys.py", **succeeds)
        with pytest.raises(spindle.PayloadError):
            await spawn("obeys.py", payload={1}, **succeeds)
        for others in ({"kind": "other"}, {"key": "other"}):
            with pytest.raises(spindle.SpawnRefusedError, match=r"must have its kind 'obeys.py' and key 'k'") as caught:
                await spawn("obeys.py", **(succeeds | others))
            assert type(caught.value) is spindle.SpawnRefusedError
        assert await is_kept(worker, first.process_id)
        await spawn("obeys.py", **succeeds)


async def test_a_successor_that_is_cancelled_gives_the_key_back(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    world.entry(NEVER_READY)
    async with world.worker() as worker:
        first = await end(worker)
        for keep_key in (True, False):
            options = {"kind": "obeys.py", "key": "k", "successor_of": first.process_id, "keep_key": keep_key}
            with trio.move_on_after(0.2):
                await worker.backend_processes.spawn("entry.py", **options)
            assert world.states()[-2:] == ["starting", "stopped"]
            assert await is_lost(worker, world.events[-1].process_id)
            assert await is_kept(worker, first.process_id)
        await worker.backend_processes.spawn("obeys.py", **KEPT, successor_of=first.process_id)


async def test_a_successor_that_is_cancelled_as_it_fails_gives_the_key_back(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    async with world.worker() as worker:
        first = await end(worker)
        scope = trio.CancelScope()
        unsubscribe = worker.backend_processes.on_lifecycle(lambda event: event.state.is_terminal and scope.cancel())
        with scope:
            await worker.backend_processes.spawn("obeys.py", payload="fail", **KEPT, successor_of=first.process_id)
        unsubscribe()
        assert scope.cancelled_caught
        assert world.states()[-1] == "failed"
        assert await is_kept(worker, first.process_id)


async def test_a_successor_that_is_cancelled_and_stopped_gives_nothing_back(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    world.entry(NEVER_READY)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        first = await end(worker)
        options = {"kind": "obeys.py", "successor_of": first.process_id} | KEPT
        second = world.spawn_soon(nursery, worker, "entry.py", **options)
        await world.wait_state("starting", 2)
        await worker.backend_processes.stop(world.events[-1].process_id)
        await second.is_over.wait()
        assert isinstance(second.error, spindle.StartupCancelledError)
        assert await is_lost(worker, first.process_id)
        assert not await is_kept(worker, first.process_id)


async def test_a_successor_that_fails_keeps_the_key_for_its_own_successor(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    async with world.worker() as worker:
        spawn = worker.backend_processes.spawn
        first = await end(worker)
        with pytest.raises(spindle.StartupFailedError) as caught:
            await spawn("obeys.py", payload="fail", **KEPT, successor_of=first.process_id)
        second = caught.value.info.process_id
        assert await is_lost(worker, first.process_id)
        assert await is_kept(worker, second)
        with pytest.raises(spindle.StartupFailedError) as caught:
            await spawn("obeys.py", payload="fail", key="k", successor_of=second)
        assert await is_lost(worker, second)
        assert not await is_kept(worker, caught.value.info.process_id), "it has not asked for that"


async def test_while_the_process_lives_its_key_is_kept_for_nobody(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", **KEPT)
        with pytest.raises(spindle.KeyLostError, match="that process is running still"):
            await worker.backend_processes.spawn("entry.py", key="k", successor_of=handle.process_id)
        await worker.backend_processes.release_key(handle.process_id)
        await handle.stop(keep_key=True)
        assert await is_kept(worker, handle.process_id, "entry.py"), "there was nothing to release"


# Giving a key up.


async def test_a_released_key_is_free(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    async with world.worker(max_processes=1) as worker:
        processes = worker.backend_processes
        first = await end(worker)
        await processes.release_key(first.process_id)
        await processes.release_key(first.process_id)
        await processes.release_key("never was")
        assert await is_lost(worker, first.process_id)
        other = await processes.spawn("obeys.py")
        await other.stop()
        assert not await is_kept(worker, first.process_id)


async def test_a_release_while_a_successor_starts_leaves_it_the_key(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    world.entry(NEVER_READY)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        first = await end(worker)
        options = {"kind": "obeys.py", "successor_of": first.process_id} | KEPT

        @nursery.start_soon
        async def cancelled():
            with scope:
                await worker.backend_processes.spawn("entry.py", **options)

        scope = trio.CancelScope()
        await world.wait_state("starting", 2)
        await worker.backend_processes.release_key(first.process_id)
        with pytest.raises(spindle.DuplicateKeyError, match="is starting already"):
            await worker.backend_processes.spawn("obeys.py", key="k")
        # Nobody wants the key any more, so it does not go back.
        scope.cancel()
        await world.wait_state("stopped")
        assert not await is_kept(worker, first.process_id)


async def test_a_release_that_is_cancelled_before_it_begins_changes_nothing(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    async with world.worker() as worker:
        first = await end(worker)
        with trio.CancelScope() as scope:
            scope.cancel()
            await worker.backend_processes.release_key(first.process_id)
        assert scope.cancelled_caught
        assert await is_kept(worker, first.process_id)


async def test_a_kept_key_keeps_its_slot(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    async with world.worker(max_processes=2) as worker:
        processes = worker.backend_processes
        await processes.spawn("obeys.py")
        first = await end(worker)
        with pytest.raises(spindle.ProcessLimitError, match=r"has 2 live processes already.*, 1 of them .* kept"):
            await processes.spawn("obeys.py")
        second = await processes.spawn("obeys.py", **KEPT, successor_of=first.process_id)
        with pytest.raises(spindle.ProcessLimitError):
            await processes.spawn("obeys.py")
        await second.send("fail")
        await second.wait_ended()
        await processes.release_key(second.process_id)
        await processes.spawn("obeys.py")
        with pytest.raises(spindle.ProcessLimitError):
            await processes.spawn("obeys.py")


# Users, closed workers, and options that make no sense.


async def test_the_kept_key_of_another_user_is_out_of_reach(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    async with world.worker(user_id=None) as worker:
        processes = worker.backend_processes
        first = await end(worker, user_id="ada")
        for call in (processes.release_key, processes.stop):
            with pytest.raises(spindle.ProcessAccessError, match=f"{first.process_id} .* another user than 'bob'"):
                await call(first.process_id, user_id="bob")
        with pytest.raises(spindle.ProcessAccessError, match=f"{first.process_id} .* another user"):
            await processes.spawn("obeys.py", user_id="bob", **KEPT, successor_of=first.process_id)
        with pytest.raises(spindle.UserRequiredError):
            await processes.spawn("obeys.py", **KEPT, successor_of=first.process_id)
        bobs = await processes.spawn("obeys.py", user_id="bob", key="k")
        assert bobs.state == "running"
        with pytest.raises(spindle.DuplicateKeyError, match=f"next start .{first.process_id}"):
            await processes.spawn("obeys.py", user_id="ada", key="k")
        await processes.release_key(first.process_id, user_id=" ada ")
        await processes.spawn("obeys.py", user_id="ada", key="k")


async def test_a_worker_that_closes_keeps_no_key(world, world_clock):
    world.entry(OBEYS, "obeys.py")
    async with world.host() as host:
        async with host.open_worker("w", root=world.root, user_id="ada") as worker:
            first = await end(worker)
            lives = await worker.backend_processes.spawn("obeys.py", key="l", keep_key=True)
        assert lives.info.exit_reason == "backend_unloaded"
        for call in (
            lambda: worker.backend_processes.release_key(first.process_id),
            lambda: worker.backend_processes.spawn("obeys.py", key="k", successor_of=first.process_id),
        ):
            with pytest.raises(trio.ClosedResourceError):
                await call()
        async with host.open_worker("w", root=world.root, user_id="ada") as worker:
            assert await is_lost(worker, first.process_id)
            assert not await is_kept(worker, first.process_id)


@pytest.mark.parametrize("key", [None, "", " "])
def test_what_keeps_a_key_needs_one(key):
    with pytest.raises(ValueError, match="keep_key needs a key"):
        spindle.SpawnOptions("a.py", key=key, keep_key=True)
    with pytest.raises(ValueError, match="successor_of needs the key"):
        spindle.SpawnOptions("a.py", key=key, successor_of="1a2b")


def test_options_of_the_wrong_type_are_refused():
    with pytest.raises(TypeError, match="keep_key must be a bool"):
        spindle.SpawnOptions("a.py", key="k", keep_key=1)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match="successor_of must be a str or None"):
        spindle.SpawnOptions("a.py", key="k", successor_of=1)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match="keep_key must be a bool"):
        spindle.StopOptions(keep_key="yes")  # type: ignore[arg-type]  # wrong on purpose
