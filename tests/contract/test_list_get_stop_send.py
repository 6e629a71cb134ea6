"""`list`, `get`, `stop` and `send` of the worker API, and every call on a worker that is closed."""

from __future__ import annotations

import itertools

import pytest
import trio

import spindle_trio as spindle
from support.contract import ECHO, ENDS_WHEN_TOLD, NEVER_READY, WAITS, wait_until

# list


async def test_a_list_matches_on_everything_that_is_given(world, world_clock):
    """All sixteen combinations of the four filters, against a plain reading of the rule."""
    world.entry(WAITS)
    world.entry(ENDS_WHEN_TOLD, "ends.py")
    async with world.worker(user_id=None) as worker, trio.open_nursery() as nursery:
        processes = worker.backend_processes
        for user_id, kind, key, entry in [
            ("ada", "index", "a", "entry.py"),
            ("bob", "index", "a", "ends.py"),
            ("ada", "search", "a", "entry.py"),
            ("ada", "index", None, "ends.py"),
            ("bob", None, "b", "entry.py"),
        ]:
            handle = await processes.spawn(entry, user_id=user_id, kind=kind, key=key)
            if entry == "ends.py":
                nursery.start_soon(handle.stop)
                await wait_until(worker, lambda handle=handle: handle.state == "stopping")
        everything = await processes.list()
        assert [info.process_id for info in everything] == [
            event.process_id for event in world.events if event.state == "starting"
        ]
        found = 0
        choices = {
            "user_id": [None, "ada", "bob", "eve"],
            "kind": [None, "index", "entry.py", "other"],
            "key": [None, "a", "b", ""],
            "state": [None, "running", "stopping", "starting"],
        }
        for values in itertools.product(*choices.values()):
            wanted = dict(zip(choices, values, strict=True))
            matching = [
                info
                for info in everything
                if all(value is None or getattr(info, name) == value for name, value in wanted.items())
            ]
            listed = await processes.list(**wanted)
            assert [info.process_id for info in listed] == [info.process_id for info in matching], wanted
            found += len(listed)
        assert found > 40
        for info in everything:
            if info.state == "stopping":
                await processes.send(info.process_id, "end")


async def test_a_list_compares_kind_and_key_as_given(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        await worker.backend_processes.spawn("entry.py", kind=" index ", key=" k ")
        for wanted in ({"kind": " index "}, {"key": " k "}, {"kind": ""}, {"key": ""}):
            assert await worker.backend_processes.list(**wanted) == []
        assert len(await worker.backend_processes.list(kind="index", key="k")) == 1


async def test_the_oldest_is_listed_first(world, world_clock):
    """Even if a younger process has taken an older one's key."""
    world.entry(WAITS)
    async with world.worker() as worker:
        spawn = worker.backend_processes.spawn
        first, second, third = [await spawn("entry.py", key=key) for key in "abc"]
        replaced = await spawn("entry.py", key="a", replace_existing=True)
        listed = await worker.backend_processes.list()
        assert [info.process_id for info in listed] == [each.process_id for each in (second, third, replaced)]
        assert [info.started_at for info in listed] == sorted(info.started_at for info in listed)
        assert first.state == "stopped"


async def test_ended_processes_are_not_listed_and_terminal_states_list_nothing(world, world_clock):
    world.entry(WAITS)
    world.entry("async def run(process): process.ready()", "ends.py")
    async with world.worker() as worker:
        live = await worker.backend_processes.spawn("entry.py")
        await (await worker.backend_processes.spawn("ends.py")).wait_ended()
        for state in spindle.ProcessState:
            listed = await worker.backend_processes.list(state=state)
            assert [info.process_id for info in listed] == ([live.process_id] if state == "running" else [])


async def test_a_starting_process_is_listed(world, world_clock):
    world.entry(NEVER_READY)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: worker.backend_processes.spawn("entry.py"))
        await wait_until(worker, lambda: world.events)
        (info,) = await worker.backend_processes.list(state=spindle.ProcessState.STARTING)
        assert (info.ready_at, info.last_heartbeat_at, info.ended_at) == (None, None, None)
        assert info.started_at == world.events[0].at
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("option", "value"), [("user_id", 3), ("kind", 3), ("key", b"k"), ("state", "resting"), ("state", 3)]
)
async def test_a_filter_of_a_wrong_type_is_refused_by_name(virtual_world, autojump_clock, option, value):
    """In memory only: no process takes part."""
    async with virtual_world.worker() as worker:
        with pytest.raises((TypeError, ValueError), match=option):
            await worker.backend_processes.list(**{option: value})


# get


async def test_get_gives_the_snapshot_of_a_live_process_and_none_otherwise(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", key="k", metadata={"a": 1})
        info = await worker.backend_processes.get(handle.process_id)
        assert info == handle.info
        assert (info.state, info.key, info.metadata) == ("running", "k", {"a": 1})
        for unknown in ("", "nobody", handle.process_id.upper() + "x"):
            assert await worker.backend_processes.get(unknown) is None
        await handle.stop()
        assert await worker.backend_processes.get(handle.process_id) is None


async def test_an_info_is_a_snapshot(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        before = await worker.backend_processes.get(handle.process_id)
        await handle.stop()
        assert (before.state, before.ended_at, before.exit_reason) == ("running", None, None)


# stop


async def test_a_stop_returns_when_the_process_is_gone_and_announced(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        await worker.backend_processes.stop(handle.process_id)
        assert world.states() == ["starting", "running", "stopping", "stopped"]
        assert (handle.info.exit_reason, handle.info.error) == ("stopped", None)
        assert handle.info.ended_at == world.events[-1].at


async def test_a_stop_of_an_ended_or_unknown_process_does_nothing(world, world_clock):
    world.entry(WAITS)
    async with world.worker(user_id=None) as worker:
        handle = await worker.backend_processes.spawn("entry.py", user_id="ada")
        await handle.stop()
        events = len(world.events)
        before = handle.info
        for _ in range(2):
            await handle.stop("again")
            await worker.backend_processes.stop(handle.process_id, user_id="bob", reason="again")
        await worker.backend_processes.stop("nobody")
        assert len(world.events) == events
        assert handle.info == before


@pytest.mark.parametrize(("given", "reason"), [("enough", "enough"), (None, None), ("", None), (" ", " ")])
async def test_the_reason_reaches_the_entry(world, world_clock, given, reason):
    world.entry(ENDS_WHEN_TOLD)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn("entry.py")
        channel = handle.messages()
        nursery.start_soon(lambda: worker.backend_processes.stop(handle.process_id, reason=given))
        assert await channel.receive() == {"stop": reason}
        await handle.send("end")


async def test_cancelling_a_stop_withdraws_the_waiting_and_not_the_request(world, world_clock):
    world.entry(ENDS_WHEN_TOLD)
    async with world.worker(grace_period=100) as worker:
        handle = await worker.backend_processes.spawn("entry.py", payload="the result")
        channel = handle.messages()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.stop, "enough")
            assert await channel.receive() == {"stop": "enough"}
            nursery.cancel_scope.cancel()
        assert handle.state == "stopping"
        await handle.send("end")
        info = await handle.wait_ended()
        assert (info.state, handle.result) == ("completed", "the result")


async def test_a_stop_that_is_cancelled_before_it_began_asks_for_nothing(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        with trio.CancelScope() as scope:
            scope.cancel()
            await handle.stop()
        assert scope.cancelled_caught
        assert handle.state == "running"


async def test_all_who_stop_a_process_return_at_its_one_end(world, world_clock):
    """Row 29 of the reliability contract: two stops have one outcome, the same for both callers."""
    world.entry(ENDS_WHEN_TOLD)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        channel = handle.messages()
        seen = []

        async def stop(reason):
            await handle.stop(reason)
            seen.append(handle.info)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop, "first")
            first = await channel.receive()
            nursery.start_soon(stop, "second")
            nursery.start_soon(stop, "third")
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            await handle.send("end")
        assert first == {"stop": "first"}
        assert [payload async for payload in channel] == []
        assert seen == [handle.info] * 3
        assert world.states() == ["starting", "running", "stopping", "completed"]


async def test_a_process_that_is_starting_can_be_stopped_by_its_id(world, world_clock):
    world.entry(NEVER_READY)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        errors = []

        @nursery.start_soon
        async def spawn():
            with pytest.raises(spindle.StartupCancelledError) as caught:
                await worker.backend_processes.spawn("entry.py")
            errors.append(caught.value)

        await wait_until(worker, lambda: world.events)
        await worker.backend_processes.stop(world.events[0].process_id)
        assert world.states() == ["starting", "stopping", "stopped"]
        assert errors[0].info.process_id == world.events[0].process_id
        assert errors[0].info.state == "stopping"


# send


async def test_a_message_sent_by_id_arrives(world, world_clock):
    world.entry(ECHO)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        channel = handle.messages()
        for payload in (None, [], {"a": "ü"}):
            await worker.backend_processes.send(handle.process_id, payload)
            assert await channel.receive() == payload


async def test_a_send_to_an_ended_or_unknown_process_says_so(world, world_clock):
    world.entry(WAITS)
    async with world.worker(user_id=None) as worker:
        processes = worker.backend_processes
        handle = await processes.spawn("entry.py", user_id="ada")
        await handle.stop()
        for process_id in (handle.process_id, "nobody"):
            for user_id in (None, "ada", "bob"):
                with pytest.raises(trio.BrokenResourceError, match=process_id):
                    await processes.send(process_id, 1, user_id=user_id)
        with pytest.raises(trio.BrokenResourceError, match=handle.process_id):
            await handle.send(1)
        with pytest.raises(trio.BrokenResourceError, match=handle.process_id):
            handle.send_nowait(1)


async def test_messages_to_a_starting_process_wait_for_it(world, world_clock):
    world.entry("""
    async def run(process):
        channel = process.messages()
        first = await channel.receive()
        process.ready()
        return first
    """)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        handles = []

        @nursery.start_soon
        async def spawn():
            handles.append(await worker.backend_processes.spawn("entry.py"))

        await wait_until(worker, lambda: world.events)
        await worker.backend_processes.send(world.events[0].process_id, "go on")
        await wait_until(worker, lambda: world.states()[-1] == "completed")
        assert handles[0].result == "go on"


# A closed worker.


async def test_every_call_on_a_closed_worker_is_refused(world, world_clock):
    world.entry(WAITS)
    async with world.host() as host:
        async with host.open_worker("w", root=world.root, user_id="ada") as worker:
            handle = await worker.backend_processes.spawn("entry.py")
        processes = worker.backend_processes
        process_id = handle.process_id
        for call in [
            lambda: processes.spawn("entry.py"),
            lambda: processes.spawn("missing.py"),
            lambda: processes.open("entry.py").__aenter__(),
            processes.list,
            lambda: processes.get(process_id),
            lambda: processes.get("nobody"),
            lambda: processes.stop(process_id),
            lambda: processes.stop("nobody"),
            lambda: processes.send(process_id, 1),
            lambda: processes.send("nobody", 1),
            lambda: handle.send(1),
            handle.stop,
            handle.refresh,
        ]:
            with pytest.raises(trio.ClosedResourceError, match="'w' is closed"):
                await call()
        for call_now in [
            processes.lifecycle_events,
            processes.messages,
            lambda: processes.on_lifecycle(print),
            lambda: processes.on_message(print),
            lambda: handle.send_nowait(1),
        ]:
            with pytest.raises(trio.ClosedResourceError, match="'w' is closed"):
                call_now()
        assert "closed" in repr(worker)
        assert "closed" in repr(processes)


async def test_calls_are_refused_while_a_worker_closes(world, world_clock):
    """From the moment its scope is left, not only once its processes are gone."""
    world.entry(ENDS_WHEN_TOLD)
    refused = []
    async with trio.open_nursery() as nursery, world.host() as host:
        async with host.open_worker("w", root=world.root, user_id="ada") as worker:
            handle = await worker.backend_processes.spawn("entry.py")
            channel = handle.messages()

            @nursery.start_soon
            async def try_everything():
                await channel.receive()
                processes = worker.backend_processes
                for call in (lambda: processes.spawn("entry.py"), processes.list, handle.refresh, handle.stop):
                    with pytest.raises(trio.ClosedResourceError):
                        await call()
                refused.append(handle.state)
                await handle._process.send("end")

        assert refused == ["stopping"]
        assert handle.info.exit_reason == "backend_unloaded"


async def test_what_a_handle_knows_can_still_be_read_on_a_closed_worker(world, world_clock):
    world.entry("""
    async def run(process):
        process.ready()
        for number in range(3):
            await process.send(number)
        return "the result"
    """)
    async with world.host() as host:
        async with host.open_worker("w", root=world.root, user_id="ada") as worker:
            handle = await worker.backend_processes.spawn("entry.py")
            await handle.wait_ended()
            other = await worker.backend_processes.spawn("entry.py", key="k")
        assert (handle.state, handle.info.state, handle.result) == ("completed", "completed", "the result")
        assert await handle.wait_ended() == handle.info
        assert [payload async for payload in handle.messages()] == [0, 1, 2]
        assert handle.statistics().messages_received == 3
        assert other.state.is_terminal
        assert (await other.wait_ended()).ended_at is not None
        assert handle.process_id in repr(handle)


async def test_the_subscriptions_of_a_closed_worker_end_once_they_are_read(world, world_clock):
    world.entry("""
    async def run(process):
        await process.send("hello")
        process.ready()
        await process.wait_stop()
        await process.send("good-bye")
    """)
    async with world.host() as host:
        async with host.open_worker("w", root=world.root, user_id="ada") as worker:
            events, messages = worker.backend_processes.lifecycle_events(), worker.backend_processes.messages()
            handle = await worker.backend_processes.spawn("entry.py")
            own = handle.messages()
            assert await own.receive() == "hello"
        assert [str(event.state) async for event in events] == ["starting", "running", "stopping", "stopped"]
        assert [message.payload async for message in messages] == ["hello", "good-bye"]
        assert [payload async for payload in own] == ["good-bye"]
