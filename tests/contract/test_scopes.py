"""Scopes: whose processes a worker's are, which user ids are heard, and what one worker sees of another."""

from __future__ import annotations

import pytest
import trio

import spindle_trio as spindle
from support.contract import ECHO, WAITS


async def test_every_process_of_a_user_scoped_worker_is_that_user_s(world, world_clock):
    """User ids in `spawn`, `list`, `stop` and `send` are ignored, blank ones too."""
    world.entry(ECHO)
    async with world.worker(user_id=" ada ") as worker:
        assert worker.user_id == "ada"
        processes = worker.backend_processes
        first = await processes.spawn("entry.py", user_id="bob")
        await processes.spawn("entry.py", user_id="  ")
        assert [info.user_id for info in await processes.list()] == ["ada", "ada"]
        assert len(await processes.list(user_id="bob")) == 2
        channel = first.messages()
        for user_id in ("bob", "", None):
            await processes.send(first.process_id, 1, user_id=user_id)
            assert await channel.receive() == 1
        await processes.stop(first.process_id, user_id="bob")
        assert first.state == "stopped"
    assert {event.user_id for event in world.events} == {"ada"}
    assert {message.user_id for message in world.messages} == {"ada"}


async def test_a_key_in_a_user_scoped_worker_is_one_whatever_user_is_named(world, world_clock):
    world.entry(WAITS)
    async with world.worker(user_id="ada") as worker:
        await worker.backend_processes.spawn("entry.py", key="k", user_id="bob")
        with pytest.raises(spindle.DuplicateKeyError):
            await worker.backend_processes.spawn("entry.py", key="k", user_id="eve")


@pytest.mark.parametrize("user_id", [None, "", " \t\n"])
async def test_a_spawn_in_an_operator_scoped_worker_has_to_name_a_user(world, world_clock, user_id):
    world.entry(WAITS)
    async with world.worker(user_id=None) as worker:
        assert worker.user_id is None
        with pytest.raises(spindle.UserRequiredError, match="user_id") as caught:
            await worker.backend_processes.spawn("entry.py", user_id=user_id, key="k", replace_existing=True)
        assert "entry.py" in str(caught.value)
        assert await worker.backend_processes.list() == []
    assert world.events == []


async def test_the_process_shows_its_user(world, world_clock):
    world.entry("""
    async def run(process):
        process.ready()
        await process.send(process.user_id)
    """)
    async with world.worker(user_id=None) as worker:
        handle = await worker.backend_processes.spawn("entry.py", user_id="ada")
        info = await handle.wait_ended()
        assert info.user_id == "ada"
    assert [(message.payload, message.user_id) for message in world.messages] == [("ada", "ada")]
    assert {event.user_id for event in world.events} == {"ada"}


async def test_another_user_s_process_is_neither_stopped_nor_sent_to(world, world_clock):
    """Row 34 of the reliability contract. Nothing happens: the process goes on and hears nothing."""
    world.entry(ECHO)
    async with world.worker(user_id=None) as worker:
        processes = worker.backend_processes
        handle = await processes.spawn("entry.py", user_id="ada")
        for user_id in ("bob", "ADA", "adamant"):
            with pytest.raises(spindle.ProcessAccessError) as caught:
                await processes.stop(handle.process_id, user_id=user_id)
            assert handle.process_id in str(caught.value)
            assert "entry.py" in str(caught.value)
            with pytest.raises(spindle.ProcessAccessError):
                await processes.send(handle.process_id, "no", user_id=user_id)
        assert handle.state == "running"
        async with handle.messages() as messages:
            await processes.send(handle.process_id, "yes", user_id="ada")
            assert await messages.receive() == "yes"
    assert world.payloads() == ["yes"]


async def test_a_stop_trims_the_id_that_it_is_given_and_a_send_does_not(world, world_clock):
    world.entry(ECHO)
    async with world.worker(user_id=None) as worker:
        processes = worker.backend_processes
        handle = await processes.spawn("entry.py", user_id="ada")
        for user_id in (" ada ", "", " "):
            with pytest.raises(spindle.ProcessAccessError):
                await processes.send(handle.process_id, "no", user_id=user_id)
        await processes.stop(handle.process_id, user_id=" ada\n")
        assert handle.state == "stopped"
        assert handle.statistics().messages_received == 0


@pytest.mark.parametrize("user_id", [None, "", "  "])
async def test_without_an_id_a_stop_applies(world, world_clock, user_id):
    """A blank one is none, once it has been trimmed."""
    world.entry(WAITS)
    async with world.worker(user_id=None) as worker:
        handle = await worker.backend_processes.spawn("entry.py", user_id="ada")
        await worker.backend_processes.stop(handle.process_id, user_id=user_id)
        assert handle.state == "stopped"


async def test_without_an_id_a_send_applies_and_a_handle_needs_none(world, world_clock):
    world.entry(ECHO)
    async with world.worker(user_id=None) as worker:
        handle = await worker.backend_processes.spawn("entry.py", user_id="ada")
        channel = handle.messages()
        await worker.backend_processes.send(handle.process_id, 1)
        await handle.send(2)
        assert [await channel.receive(), await channel.receive()] == [1, 2]
        await handle.stop()
        assert handle.state == "stopped"


async def test_a_list_compares_the_id_as_given(world, world_clock):
    world.entry(WAITS)
    async with world.worker(user_id=None) as worker:
        for user_id in ("ada", "bob"):
            await worker.backend_processes.spawn("entry.py", user_id=user_id)

        async def users(**wanted):
            return [info.user_id for info in await worker.backend_processes.list(**wanted)]

        assert await users() == ["ada", "bob"]
        assert await users(user_id="bob") == ["bob"]
        assert await users(user_id=" bob") == []
        assert await users(user_id="") == []
        assert await users(user_id="Bob") == []


async def test_a_worker_never_sees_another_worker_s_processes(world, world_clock):
    """Not by list, get, stop or send, and not by events or messages either; the two may use the same key."""
    world.entry(ECHO)
    heard = []
    async with world.host() as host, host.open_worker("one", root=world.root, user_id="ada") as one:
        async with host.open_worker("two", root=world.root, user_id="ada") as two:
            two.backend_processes.on_lifecycle(heard.append)
            two.backend_processes.on_message(heard.append)
            events, messages = two.backend_processes.lifecycle_events(), two.backend_processes.messages()
            theirs = await one.backend_processes.spawn("entry.py", key="k")
            channel = theirs.messages()
            processes = two.backend_processes
            assert await processes.list() == []
            assert await processes.get(theirs.process_id) is None
            await processes.stop(theirs.process_id)
            with pytest.raises(trio.BrokenResourceError):
                await processes.send(theirs.process_id, "hello")
            await theirs.send("mine")
            assert await channel.receive() == "mine"
            assert theirs.state == "running"
            assert heard == []
            for subscription in (events, messages):
                with pytest.raises(trio.WouldBlock):
                    subscription.receive_nowait()
            own = await processes.spawn("entry.py", key="k")
            replaced = await processes.spawn("entry.py", key="k", replace_existing=True)
            assert (own.state, replaced.state, theirs.state) == ("stopped", "running", "running")
        assert theirs.state == "running"


async def test_closing_one_worker_leaves_the_other_alone(world, world_clock):
    world.entry(WAITS)
    async with world.host() as host, host.open_worker("one", root=world.root, user_id="ada") as one:
        kept = await one.backend_processes.spawn("entry.py")
        async with host.open_worker("two", root=world.root, user_id="ada") as two:
            gone = await two.backend_processes.spawn("entry.py")
        assert (gone.state, gone.info.exit_reason) == ("stopped", "backend_unloaded")
        assert kept.state == "running"
