"""A worker at the far end of a channel behaves like one in the host's own program: both real ends, in virtual time.

Each test runs over three channels: one in memory that carries the attrs values, one in memory that carries their wire
forms, and a `StreamChannel`.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import spindle_trio as spindle
from spindle_trio import ProcessHandle, ProcessState, StreamChannel, connect_worker
from spindle_trio._open_host import Host
from spindle_trio._worker_protocol import WireChannel, WireMessage
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher
from spindle_trio.wire import to_json
from support.worker_protocol import MemoryEnd, memory_ends

# ---- entries


async def indexer(process: ProcessContext) -> int:
    """The entry of the design's example, with the documents in its payload."""
    assert isinstance(process.payload, list)
    process.ready()
    for number, _ in enumerate(process.payload):
        process.heartbeat()
        await process.send({"done": number})
    return len(process.payload)


async def echo(process: ProcessContext) -> None:
    process.ready()
    process.beat_while_running()
    async for payload in process.messages():
        await process.send({"echo": payload})


async def told(process: ProcessContext) -> object:
    """Completes with what it was told: its facts, and the reason of its stop."""
    process.ready()
    process.beat_while_running()
    notice = await process.wait_stop()
    return {
        "reason": notice.reason,
        "payload": process.payload,
        "hasPayload": process.has_payload,
        "metadata": process.metadata,
        "key": process.key,
        "userId": process.user_id,
    }


async def never_ready(process: ProcessContext) -> None:
    await trio.sleep_forever()


async def hasty(process: ProcessContext) -> object:
    """Never says that it is ready."""
    return {"pages": 3}


async def raises(process: ProcessContext) -> None:
    await trio.lowlevel.checkpoint()
    raise RuntimeError("no good")


async def deaf(process: ProcessContext) -> None:
    """Beats, and never reads."""
    process.ready()
    process.beat_while_running()
    await trio.sleep_forever()


async def flood(process: ProcessContext) -> str:
    process.ready()
    for number in range(3_000):
        await process.send(number)
    return "all sent"


async def wedged(process: ProcessContext) -> None:
    process.ready()
    await trio.sleep_forever()


async def stubborn(process: ProcessContext) -> None:
    """Hears of a stop, and leaves it to the host to end it."""
    process.on_stop(lambda notice: None)
    process.ready()
    await trio.sleep_forever()


async def slow_to_stop(process: ProcessContext) -> str:
    process.ready()
    process.beat_while_running()
    await process.wait_stop()
    await trio.sleep(2)
    return "cleaned up"


async def tools(process: ProcessContext) -> None:
    @process.on_call
    def square(payload: Any) -> object:
        return payload["n"] ** 2

    @process.on_call
    async def fail(payload: object) -> None:
        raise ValueError(f"no {payload}")

    @process.on_call
    async def count(upto: int) -> AsyncIterator[int]:
        for number in range(upto):
            await process.send(number)  # says how far it has come
            yield number

    @process.on_call
    async def clings(seconds: float) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)

    process.ready()


ENTRIES = {
    f"{entry.__name__}.py": entry
    for entry in (indexer, echo, told, never_ready, hasty, raises, deaf, flood, wedged, stubborn, slow_to_stop, tools)
}

# ---- channels


class JsonEnd(MemoryEnd):
    """One end of a channel in memory that carries wire forms, each through text."""

    async def send(self, value: WireMessage) -> None:
        await super().send(json.loads(json.dumps(value if isinstance(value, dict) else to_json(value))))


def values() -> tuple[WireChannel, WireChannel]:
    return memory_ends(buffer=0)


def objects() -> tuple[WireChannel, WireChannel]:
    near, far = memory_ends(buffer=0)
    return JsonEnd(near.sending, near.receiving), JsonEnd(far.sending, far.receiving)


def lines() -> tuple[WireChannel, WireChannel]:
    near, far = trio.testing.memory_stream_pair()
    return StreamChannel(near), StreamChannel(far)


Serving: TypeAlias = Callable[..., AbstractAsyncContextManager[tuple[Host, spindle.Worker]]]


@pytest.fixture(params=[values, objects, lines], ids=lambda make: make.__name__)
def serving(request: pytest.FixtureRequest) -> Serving:
    """Serves a worker over one kind of channel, and connects to it."""
    return functools.partial(_serving, request.param)


@asynccontextmanager
async def _serving(
    channel_pair: Callable[[], tuple[WireChannel, WireChannel]],
    *,
    user_id: str | None = "ada",
    max_processes: int = 16,
    limits: spindle.Limits = spindle.Limits(),  # noqa: B008  # it is frozen
    allow: tuple[str, ...] = (),
    own: spindle.Limits | None = None,
) -> AsyncIterator[tuple[Host, spindle.Worker]]:
    near, far = channel_pair()
    async with (
        spindle.open_host(MemoryLauncher(ENTRIES), max_processes=max_processes, limits=limits, allow=allow) as host,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(functools.partial(host.serve_worker, near, "remote", user_id=user_id))
        async with connect_worker(far, limits=own or limits) as worker:
            yield host, worker


# ---- tests


async def test_the_example_of_the_design_runs_over_a_channel(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving() as (_, worker):
        handle = await worker.backend_processes.spawn("indexer.py", key="chat:42", payload=["a", "b", "c"])
        assert [payload async for payload in handle.messages()] == [{"done": 0}, {"done": 1}, {"done": 2}]
        info = await handle.wait_ended()
        assert info.state is ProcessState.COMPLETED
        assert info.exit_reason is spindle.ExitReason.COMPLETED
        assert handle.result == 3
        assert handle.key == "chat:42"
        assert info.user_id == "ada"


async def test_options_and_the_reason_of_a_stop_reach_the_entry(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving(user_id=None) as (_, worker):
        handle = await worker.backend_processes.spawn(
            "told.py", key=" k ", payload=None, metadata={"snake_case": 1}, user_id="eve"
        )
        assert handle.info.metadata == {"snake_case": 1}
        await handle.stop("enough")
        assert handle.state is ProcessState.COMPLETED
        assert handle.result == {
            "reason": "enough",
            "payload": None,
            "hasPayload": True,
            "metadata": {"snake_case": 1},
            "key": "k",
            "userId": "eve",
        }


async def test_messages_travel_both_ways(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving() as (_, worker):
        processes = worker.backend_processes
        heard: list[object] = []
        processes.on_message(heard.append)
        messages = processes.messages()
        first, second = [await processes.spawn("echo.py") for _ in range(2)]
        await first.send({"a": [1, None]})
        assert await messages.receive() == spindle.ProcessMessage(first.process_id, {"echo": {"a": [1, None]}}, "ada")
        await processes.send(second.process_id, "ü")
        second.send_nowait("again")
        assert [await second.messages().receive()] == [{"echo": "ü"}]
        assert (await messages.receive()).payload == {"echo": "ü"}
        assert (await messages.receive()).payload == {"echo": "again"}
        assert len(heard) == 3


async def test_both_ends_know_the_same_events_and_snapshots(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving() as (_, worker):
        processes = worker.backend_processes
        events = processes.lifecycle_events()
        handle = await processes.spawn("slow_to_stop.py")
        assert await processes.list() == [handle.info]
        assert await processes.get(handle.process_id) == handle.info
        assert await processes.list(state=ProcessState.STARTING) == []
        await trio.sleep(20)  # time for a beat
        refreshed = await handle.refresh()
        assert refreshed == handle.info
        assert refreshed is not None
        assert refreshed.last_heartbeat_at is not None
        assert refreshed.ready_at is not None
        assert refreshed.last_heartbeat_at > refreshed.ready_at
        before = trio.current_time()
        await handle.stop()
        assert trio.current_time() - before == pytest.approx(2)
        assert handle.info.exit_reason is spindle.ExitReason.COMPLETED
        assert handle.result == "cleaned up"
        assert await handle.refresh() is None
        assert await processes.get(handle.process_id) is None
        assert await processes.list() == []
        await handle.stop()  # of an ended process does nothing
        assert [(await events.receive()).state for _ in range(4)] == ["starting", "running", "stopping", "completed"]


async def test_both_ends_raise_the_same_errors(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving(user_id=None, max_processes=2) as (_, worker):
        processes = worker.backend_processes
        with pytest.raises(spindle.UserRequiredError):
            await processes.spawn("echo.py")
        with pytest.raises(spindle.EntryError, match=r"absent\.py"):
            await processes.spawn("absent.py", user_id="ada")
        handle = await processes.spawn("echo.py", key="k", user_id="ada")
        with pytest.raises(spindle.DuplicateKeyError) as duplicate:
            await processes.spawn("echo.py", key="k", user_id="ada")
        assert duplicate.value.existing.process_id == handle.process_id
        with pytest.raises(spindle.StartupTimeoutError) as late:
            await processes.spawn("never_ready.py", user_id="ada", startup_timeout=2)
        assert late.value.info.state is ProcessState.TIMED_OUT
        with pytest.raises(spindle.StartupFailedError, match="no good") as failed:
            await processes.spawn("raises.py", user_id="ada")
        assert failed.value.info.exit_reason is spindle.ExitReason.FAILED
        other = await processes.spawn("echo.py", user_id="eve")
        with pytest.raises(spindle.ProcessLimitError) as full:
            await processes.spawn("echo.py", user_id="eve")
        assert full.value.limit == 2
        with pytest.raises(spindle.ProcessAccessError):
            await processes.stop(other.process_id, user_id="ada")
        with pytest.raises(spindle.PayloadError, match="payload: nan"):
            await other.send(math.nan)
        assert await processes.list() == [handle.info, other.info]  # nothing else was disturbed


async def test_what_an_entry_returned_that_was_never_ready_comes_with_the_error(
    serving: Serving, autojump_clock: MockClock
) -> None:
    async with serving() as (_, worker):
        with pytest.raises(spindle.StartupFailedError, match=r"call that as soon as the entry can work") as caught:
            await worker.backend_processes.spawn("hasty.py")
    assert caught.value.info.state is ProcessState.COMPLETED
    assert caught.value.result == {"pages": 3}


async def test_a_process_that_is_stopped_while_it_starts_answers_its_spawn_at_once(
    serving: Serving, autojump_clock: MockClock
) -> None:
    async with serving() as (_, worker), trio.open_nursery() as nursery:
        processes = worker.backend_processes
        events = processes.lifecycle_events()

        async def spawn() -> None:
            with pytest.raises(spindle.StartupCancelledError):
                await processes.spawn("never_ready.py")

        nursery.start_soon(spawn)
        process_id = (await events.receive()).process_id
        await processes.stop(process_id)
        assert [(await events.receive()).state for _ in range(2)] == ["stopping", "stopped"]


async def test_a_replacement_stops_the_old_process_first(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving() as (_, worker):
        processes = worker.backend_processes
        old = await processes.spawn("slow_to_stop.py", key="k")
        before = trio.current_time()
        new = await processes.spawn("slow_to_stop.py", key="k", replace_existing=True)
        assert trio.current_time() - before == pytest.approx(2)
        assert old.info.exit_reason is spindle.ExitReason.REPLACED
        assert new.state is ProcessState.RUNNING


async def test_surroundings_travel_where_the_host_allows_them(serving: Serving, autojump_clock: MockClock) -> None:
    options = {"environment": {"MODEL": "small"}, "folder": "data", "arguments": ["--fast"]}
    async with serving() as (_, worker):
        for name, value in options.items():
            with pytest.raises(spindle.SpawnRefusedError, match=rf"options.{name}: .*allow=\{{'{name}'\}}"):
                await worker.backend_processes.spawn("wedged.py", **{name: value})
        assert await worker.backend_processes.list() == []
    async with serving(allow=("folder", "environment", "arguments")) as (host, worker):
        await worker.backend_processes.spawn("wedged.py", **options)
        (process,) = next(iter(host._scope._workers))
        order = process.record.launched.order
        assert (order.folder.name, order.arguments) == ("data", ("--fast",))
        assert order.environment["MODEL"] == "small"


async def test_grace_periods_travel_and_a_kill_is_one_of_none(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving() as (_, worker):
        processes = worker.backend_processes
        options = {"kind": "one", "key": "k", "replace_existing": True}
        handles = [await processes.spawn("stubborn.py", **options, grace_period=90)]
        handles.append(await processes.spawn("stubborn.py", **options, grace_period=20, replace_grace=0))
        taken = []
        for end in (lambda handle: handle.stop(), lambda handle: handle.stop(grace=0.25), ProcessHandle.kill):
            before = trio.current_time()
            await end(handles[-1])
            taken.append(trio.current_time() - before)
            handles.append(await processes.spawn("stubborn.py", **options))
        assert taken == pytest.approx([20, 0.25, 0])
        assert handles[0].info.error == handles[3].info.error == "killed without a grace period"


async def test_a_wedged_process_is_killed_and_the_far_end_hears_of_it(
    serving: Serving, autojump_clock: MockClock
) -> None:
    async with serving() as (_, worker):
        handle = await worker.backend_processes.spawn("wedged.py", heartbeat_timeout=15)
        before = trio.current_time()
        assert (await handle.wait_ended()).state is ProcessState.TIMED_OUT
        assert trio.current_time() - before == pytest.approx(15)


@pytest.mark.slow
async def test_no_message_of_a_flood_is_lost_and_the_result_comes_with_it(
    serving: Serving, autojump_clock: MockClock
) -> None:
    """A terminal event may overtake messages; the subscription ends after the last of them."""
    async with serving(limits=spindle.Limits(inbox_messages=10_000)) as (_, worker):
        handle = await worker.backend_processes.spawn("flood.py")
        messages = handle.messages()
        assert (await handle.wait_ended()).state is ProcessState.COMPLETED
        assert handle.result == "all sent"
        assert [number async for number in messages] == list(range(3_000))


@pytest.mark.slow
async def test_many_messages_are_received_at_once_at_this_end_too(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving(limits=spindle.Limits(inbox_messages=10_000)) as (_, worker):
        everybodys = worker.backend_processes.messages()
        handle = await worker.backend_processes.spawn("flood.py")
        messages = handle.messages()
        await handle.wait_ended()
        await trio.testing.wait_all_tasks_blocked()
        assert await messages.receive_many(1_000) == list(range(1_000))
        assert await messages.receive_many() == list(range(1_000, 3_000))
        with pytest.raises(trio.EndOfChannel):
            await messages.receive_many()
        assert [message.payload for message in await everybodys.receive_many()] == list(range(3_000))


async def test_a_message_that_is_too_large_for_the_host_is_told_to_its_sender(
    serving: Serving, autojump_clock: MockClock
) -> None:
    """The two ends may have different limits; a worker that waits for an answer would wait in vain."""
    async with serving(limits=spindle.Limits(frame_bytes=1_000), own=spindle.Limits()) as (_, worker):
        handle = await worker.backend_processes.spawn("echo.py")
        await handle.send("x" * 2_000)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(
            spindle.PayloadError, match=r"2002 bytes as JSON, more than 1000 .*write it to a file"
        ) as caught:
            await handle.send("next")
        assert (caught.value.size, caught.value.limit) == (2_002, 1_000)
        await handle.send("next")


async def test_a_process_that_does_not_read_fails_and_holds_up_nobody(
    serving: Serving, autojump_clock: MockClock
) -> None:
    async with serving(limits=spindle.Limits(outbox_bytes=50_000)) as (_, worker):
        processes = worker.backend_processes
        unheard, other = await processes.spawn("deaf.py"), await processes.spawn("echo.py")
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(1_000):
                await unheard.send("x" * 10_000)
        assert (await unheard.wait_ended()).state is ProcessState.FAILED
        await other.send("well?")
        assert await other.messages().receive() == {"echo": "well?"}


@pytest.mark.slow
async def test_a_subscription_that_falls_behind_holds_up_nobody(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving(limits=spindle.Limits(inbox_messages=100)) as (_, worker):
        handle = await worker.backend_processes.spawn("flood.py")
        messages = handle.messages()
        assert (await handle.wait_ended()).state is ProcessState.COMPLETED
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(spindle.LaggedError) as lagged:
            await messages.receive()
        read = [number async for number in messages]
        assert read == list(range(lagged.value.missed, 3_000))
        assert len(read) == 100


async def test_a_cancelled_spawn_leaves_nothing_behind(serving: Serving, autojump_clock: MockClock) -> None:
    async def late(process: ProcessContext) -> None:
        await trio.sleep(3)
        process.ready()
        await trio.sleep_forever()

    ENTRIES_WITH_LATE = ENTRIES | {"late.py": late}  # noqa: N806
    near, far = lines()
    async with (
        spindle.open_host(MemoryLauncher(ENTRIES_WITH_LATE)) as host,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(functools.partial(host.serve_worker, near, "remote", user_id="ada"))
        async with connect_worker(far) as worker:
            events = worker.backend_processes.lifecycle_events()
            before = trio.current_time()
            with trio.move_on_after(1):
                await worker.backend_processes.spawn("late.py")
            assert trio.current_time() - before == 1  # at once
            assert [(await events.receive()).state for _ in range(4)] == ["starting", "running", "stopping", "stopped"]
            assert trio.current_time() - before == pytest.approx(3)
            assert host.statistics().processes == 0


KEPT: dict[str, Any] = {"key": "k", "keep_key": True}


async def end_kept(worker: spindle.Worker, **options: Any) -> str:
    """Spawn a process that keeps its key and fails, and return its id."""
    with pytest.raises(spindle.StartupFailedError) as caught:
        await worker.backend_processes.spawn("raises.py", kind="x", **KEPT, **options)
    return caught.value.info.process_id


async def is_free(worker: spindle.Worker) -> bool:
    try:
        handle = await worker.backend_processes.spawn("echo.py", kind="x", key="k")
    except spindle.DuplicateKeyError:
        return False
    await handle.stop()
    return True


async def test_a_key_is_kept_for_a_successor_at_the_far_end(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving(max_processes=1) as (_, worker):
        processes = worker.backend_processes
        first = await end_kept(worker)
        with pytest.raises(spindle.DuplicateKeyError, match=f"kept for its next start .{first}") as caught:
            await processes.spawn("echo.py", kind="x", key="k")
        assert (caught.value.existing.process_id, caught.value.existing.state) == (first, "failed")
        with pytest.raises(spindle.ProcessLimitError, match="1 of them keys that are kept"):
            await processes.spawn("echo.py")
        with pytest.raises(spindle.SpawnRefusedError, match="must have its kind 'x' and key 'k'"):
            await processes.spawn("echo.py", key="k", successor_of=first)
        second = await processes.spawn("wedged.py", kind="x", heartbeat_timeout=1, **KEPT, successor_of=first)
        with pytest.raises(spindle.KeyLostError, match=f"'k' of kind 'x' is no longer kept .* of {first}"):
            await processes.spawn("echo.py", kind="x", **KEPT, successor_of=first)
        await second.wait_ended()
        await second.stop()
        assert not await is_free(worker)
        third = await processes.spawn("told.py", kind="x", **KEPT, successor_of=second.process_id)
        await third.stop(keep_key=True)
        assert not await is_free(worker)
        await processes.release_key(third.process_id)
        await processes.release_key(third.process_id)
        assert await is_free(worker)


async def test_a_stop_at_the_far_end_gives_up_a_kept_key(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving() as (_, worker):
        first = await end_kept(worker)
        await worker.backend_processes.stop(first, keep_key=True)
        assert not await is_free(worker)
        await worker.backend_processes.stop(first)
        assert await is_free(worker)


@pytest.mark.parametrize("is_released", [False, True])
@pytest.mark.parametrize("outcome", ["ready", "failed"])
async def test_a_successor_that_is_cancelled_at_the_far_end_gives_the_key_back(
    autojump_clock: MockClock, outcome: str, is_released: bool
) -> None:
    """As soon as the process that the host has named is gone; unless nobody wants the key any more."""

    async def late(process: ProcessContext) -> None:
        await trio.sleep(3)
        if outcome == "failed":
            raise RuntimeError("no good")
        process.ready()
        await trio.sleep_forever()

    entries = ENTRIES | {"late.py": late}
    near, far = lines()
    async with spindle.open_host(MemoryLauncher(entries)) as host, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(host.serve_worker, near, "remote", user_id="ada"))
        async with connect_worker(far) as worker:
            processes = worker.backend_processes
            first = await end_kept(worker)
            with trio.move_on_after(1):
                await processes.spawn("late.py", kind="x", **KEPT, successor_of=first)
            if is_released:
                await processes.release_key(first)
            with pytest.raises(spindle.DuplicateKeyError, match="starting"):
                await processes.spawn("echo.py", kind="x", key="k")
            await trio.sleep(3)
            assert await processes.list() == []
            if is_released:
                assert await is_free(worker)
            else:
                await processes.spawn("echo.py", kind="x", **KEPT, successor_of=first)


async def test_a_spawn_that_is_cancelled_at_the_far_end_keeps_no_key(autojump_clock: MockClock) -> None:
    async def late(process: ProcessContext) -> None:
        await trio.sleep(3)

    near, far = lines()
    async with spindle.open_host(MemoryLauncher(ENTRIES | {"late.py": late})) as host, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(host.serve_worker, near, "remote", user_id="ada"))
        async with connect_worker(far) as worker:
            with trio.move_on_after(1):
                await worker.backend_processes.spawn("late.py", kind="x", **KEPT)
            await trio.sleep(3)
            assert await is_free(worker)


async def test_the_kept_key_of_another_user_is_out_of_reach_at_the_far_end(
    serving: Serving, autojump_clock: MockClock
) -> None:
    async with serving(user_id=None) as (_, worker):
        first = await end_kept(worker, user_id="ada")
        processes = worker.backend_processes
        for call in (processes.release_key, processes.stop):
            with pytest.raises(spindle.ProcessAccessError):
                await call(first, user_id="bob")
        with pytest.raises(spindle.ProcessAccessError):
            await processes.spawn("echo.py", kind="x", user_id="bob", **KEPT, successor_of=first)
        await processes.spawn("echo.py", kind="x", user_id="ada", **KEPT, successor_of=first)


async def test_a_block_is_a_processs_life_over_a_channel_too(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving() as (host, worker):
        with pytest.raises(KeyError):
            async with worker.backend_processes.open("slow_to_stop.py") as handle:
                raise KeyError
        assert handle.result == "cleaned up"
        with trio.move_on_after(1) as scope:
            async with worker.backend_processes.open("slow_to_stop.py") as handle:
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert handle.result == "cleaned up"
        assert host.statistics().processes == 0


async def test_cancelling_everything_still_stops_an_open_process_through_the_host(
    serving: Serving, autojump_clock: MockClock
) -> None:
    """The connection outlives the cancellation until its block has been left."""
    with trio.move_on_after(1):
        async with serving() as (_, worker), worker.backend_processes.open("slow_to_stop.py") as handle:
            await trio.sleep_forever()
    assert handle.info.state in {ProcessState.COMPLETED, ProcessState.STOPPED}


async def test_leaving_the_connection_is_an_unload(serving: Serving, autojump_clock: MockClock) -> None:
    """With the grace period: an entry that cleans up may do so."""
    near, far = lines()
    async with (
        spindle.open_host(MemoryLauncher(ENTRIES)) as host,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(functools.partial(host.serve_worker, near, "remote", user_id="ada"))
        async with connect_worker(far) as worker:
            handle = await worker.backend_processes.spawn("slow_to_stop.py")
        before = trio.current_time()
        await trio.testing.wait_all_tasks_blocked()
        assert host.statistics().states == {ProcessState.STOPPING: 1}
        with pytest.raises(trio.BrokenResourceError):
            await handle.wait_ended()
        await trio.sleep(2.5)
        assert host.statistics().workers == 0
        assert host.statistics().processes == 0
    assert trio.current_time() - before == pytest.approx(2.5)


@pytest.mark.parametrize("end", ["the connection", "the serving"])
async def test_a_starting_process_is_unloaded_with_its_grace_period_and_not_killed(
    end: str, autojump_clock: MockClock
) -> None:
    """The spawn that waits for it is a task of the connection; its end must not cancel that spawn first."""
    cleaned_up: list[str] = []

    async def starting(process: ProcessContext) -> None:
        await process.wait_stop()
        await trio.sleep(1)
        cleaned_up.append("yes")

    near, far = memory_ends()
    async with spindle.open_host(MemoryLauncher({"starting.py": starting})) as host, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(host.serve_worker, near, "remote", user_id="ada"))
        await far.send({"type": "backend_process_spawn", "requestId": "s1", "options": {"entry": "starting.py"}})
        assert isinstance(await far.receive(), dict)
        await trio.testing.wait_all_tasks_blocked()
        if end == "the connection":
            await far.sending.aclose()
        else:
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            heard = [value async for value in far]
    assert cleaned_up == ["yes"]
    kinds = [value["event"]["state"] if "event" in value else value["errorType"] for value in heard]  # type: ignore[index,operator,call-overload]
    assert kinds == ["stopping", "StartupCancelledError", "stopped"]


async def test_a_host_that_closes_says_how_its_processes_ended(autojump_clock: MockClock) -> None:
    near, far = lines()
    closing = trio.Event()
    async with trio.open_nursery() as nursery:

        async def be_host() -> None:
            async with spindle.open_host(MemoryLauncher(ENTRIES)) as host:
                nursery.start_soon(functools.partial(host.serve_worker, near, "remote", user_id="ada"))
                await closing.wait()

        nursery.start_soon(be_host)
        async with connect_worker(far) as worker:
            handle = await worker.backend_processes.spawn("slow_to_stop.py")
            closing.set()
            info = await handle.wait_ended()
            assert info.exit_reason is spindle.ExitReason.BACKEND_UNLOADED
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BrokenResourceError):
                await worker.backend_processes.list()


async def test_a_closed_host_serves_nobody() -> None:
    near, _ = memory_ends()
    async with spindle.open_host(MemoryLauncher({})) as host:
        with pytest.raises(ValueError, match="non-blank"):
            await host.serve_worker(near, "remote", user_id=" ")
    with pytest.raises(trio.ClosedResourceError):
        await host.serve_worker(near, "remote", user_id="ada")


async def test_the_bounds_of_the_wire_are_those_of_the_contract(autojump_clock: MockClock) -> None:
    """Through JSON, a startup timeout is at least a second, and a heartbeat timeout of 0 is none."""
    near, far = objects()
    async with spindle.open_host(MemoryLauncher(ENTRIES)) as host, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(host.serve_worker, near, "remote", user_id="ada"))
        async with connect_worker(far) as worker:
            before = trio.current_time()
            with pytest.raises(spindle.StartupTimeoutError):
                await worker.backend_processes.spawn("never_ready.py", startup_timeout=0.2)
            assert trio.current_time() - before == pytest.approx(1)
            handle = await worker.backend_processes.spawn("wedged.py", heartbeat_timeout=math.inf)
            await trio.sleep(1_000)
            assert handle.state is ProcessState.RUNNING


# ---- a peer that speaks the protocol itself


class RawPeer:
    """Speaks lines of JSON, as a worker in another language would."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.channel = StreamChannel(stream)

    async def ask(self, **request: object) -> dict[str, object]:
        """Send a request and return its answer, with the events and messages before it left in `heard`."""
        await self.channel.send(request)  # type: ignore[arg-type]  # what is not of the protocol is part of the tests
        self.heard: list[dict[str, object]] = []
        while True:
            value: dict[str, object] = await self.channel.receive()  # type: ignore[assignment]  # dicts are invariant
            if value["type"] == "response":
                return value
            self.heard.append(value)


@asynccontextmanager
async def raw_peer(user_id: str | None = "ada") -> AsyncIterator[RawPeer]:
    near, far = trio.testing.memory_stream_pair()
    async with spindle.open_host(MemoryLauncher(ENTRIES)) as host, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(host.serve_worker, StreamChannel(near), "remote", user_id=user_id))
        yield RawPeer(far)
        await far.aclose()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"entry": 7}, "options.entry"),
        ({"kind": 5, "key": 7, "replaceExisting": "yes"}, "options.kind"),
        ({"metadata": []}, "options.metadata"),
        ({"metadata": None}, "options.metadata"),
        ({"metadata": "x"}, "options.metadata"),
        ({"key": None}, "options.key"),
        ({"userId": 5}, "options.userId"),
        ({"payload": math.inf}, "payload"),
        ({"payload": {"big": 2**64}}, "payload.big"),
        ({"payload": "\ud800"}, "payload"),
        ({"metadata": {"deep": [[[]]] * 2, "nan": math.nan}}, "metadata.nan"),
        ({"kind": "\ud800"}, "options.kind"),
    ],
)
async def test_a_bad_option_on_the_wire_is_refused_with_its_name(
    options: dict[str, object], field: str, autojump_clock: MockClock
) -> None:
    async with raw_peer() as peer:
        request = {"type": "backend_process_spawn", "requestId": "s1", "options": {"entry": "echo.py"} | options}
        # As other writers do: NaN and surrogates are spelled out.
        await peer.channel._stream.send_all(json.dumps(request).encode() + b"\n")
        answer = await peer.channel.receive()
        assert answer["requestId"] == "s1"
        assert str(answer["error"]).startswith(field)
        assert (await peer.ask(type="backend_process_list", requestId="l1"))["result"] == []


async def test_a_stop_on_the_wire_is_answered_at_once_as_a_request(autojump_clock: MockClock) -> None:
    async with raw_peer() as peer:
        spawned = await peer.ask(
            type="backend_process_spawn", requestId="s1", options={"entry": "slow_to_stop.py", "heartbeatTimeoutMs": 0}
        )
        process_id = spawned["result"]["processId"]  # type: ignore[index]  # it is a dict
        before = trio.current_time()
        assert await peer.ask(type="backend_process_stop", requestId="st1", processId=process_id) == {
            "type": "response",
            "requestId": "st1",
        }
        assert [event["event"]["state"] for event in peer.heard] == ["stopping"]  # type: ignore[index]
        assert trio.current_time() == before
        assert await peer.ask(type="backend_process_stop", requestId="st2", processId="unknown") == {
            "type": "response",
            "requestId": "st2",
        }
        ended = await peer.channel.receive()
        assert ended["event"]["state"] == "completed"  # type: ignore[index,call-overload]
        assert ended["event"]["result"] == "cleaned up"  # type: ignore[index,call-overload]


async def test_a_send_on_the_wire_that_cannot_be_delivered_is_logged_and_told_to_its_sender(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "spindle_trio"):
        async with raw_peer(user_id=None) as peer:
            spawned = await peer.ask(
                type="backend_process_spawn", requestId="s1", options={"entry": "echo.py", "userId": "ada"}
            )
            process_id = str(spawned["result"]["processId"])  # type: ignore[index]  # it is a dict
            for fields in (
                {"processId": "unknown", "payload": 1},
                {"processId": process_id, "payload": "not hers", "userId": "eve"},
                {"processId": process_id, "payload": "not trimmed", "userId": " ada "},
                {"processId": process_id, "payload": "hers", "userId": "ada"},
            ):
                await peer.channel.send({"type": "backend_process_send", **fields})
            failures = [await peer.channel.receive() for _ in range(3)]
            assert {failure["type"] for failure in failures} == {"backend_process_send_failed"}  # type: ignore[index,call-overload]
            assert [(failure["processId"], failure["errorType"]) for failure in failures] == [  # type: ignore[index,call-overload]
                ("unknown", "BrokenResourceError"),
                (process_id, "ProcessAccessError"),
                (process_id, "ProcessAccessError"),
            ]
            heard = await peer.channel.receive()
            assert heard["payload"] == {"echo": "hers"}  # type: ignore[index,call-overload]
    dropped = [record for record in caplog.records if "dropped" in record.message]
    assert len(dropped) == 3
    assert all("unknown" in record.message or process_id in record.message for record in dropped)


async def test_calls_and_streams_are_as_in_the_hosts_own_program(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving() as (_, worker), worker.backend_processes.open("tools.py") as handle:
        assert await handle.call("square", {"n": 3}) == 9
        with pytest.raises(spindle.CallFailedError) as failed:
            await handle.call("fail", "luck")
        assert (failed.value.error_type, failed.value.text) == ("ValueError", "no luck")
        with pytest.raises(spindle.UnknownMethodError) as unknown:
            await handle.call("cube")
        assert set(unknown.value.known) == {"square", "fail", "count", "clings"}
        async with handle.stream("count", 50) as items:
            assert [item async for item in items] == list(range(50))
        with pytest.raises(spindle.PayloadError):
            await handle.call("square", {1})
        began = trio.current_time()
        with pytest.raises(spindle.CallTimeoutError):
            await handle.call("clings", 2, timeout=1.5)
        assert trio.current_time() - began == 1.5
        assert await handle.call("square", {"n": 4}) == 16  # it goes on beside the other


async def test_a_slow_reader_elsewhere_holds_up_the_generator(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving() as (_, worker), worker.backend_processes.open("tools.py") as handle:
        messages = handle.messages()
        async with handle.stream("count", 1_000, window=3) as items:
            await trio.sleep(10)
            assert await messages.receive_many() == [0, 1, 2]
            assert await items.receive() == 0
            assert await items.receive() == 1
            await trio.sleep(10)
            assert await messages.receive_many() == [3, 4]
        await trio.sleep(10)
        assert await handle.call("square", {"n": 3}) == 9
        with pytest.raises(trio.WouldBlock):
            messages.receive_nowait()


async def test_a_pool_works_for_a_worker_elsewhere(serving: Serving, autojump_clock: MockClock) -> None:
    async with serving() as (_, worker), spindle.open_pool(worker, "tools.py", size=1) as pool:
        assert await pool.call("square", {"n": 3}) == 9
        (first,) = await worker.backend_processes.list()
        began = trio.current_time()
        with pytest.raises(spindle.CallTimeoutError):
            await pool.call("clings", 3.5, timeout=2)
        assert trio.current_time() - began == 2
        # The handler goes on, so its process serves nobody, and is ended after the host's `cancel_grace`.
        assert await pool.call("square", {"n": 4}) == 16
        assert trio.current_time() - began == pytest.approx(3.5, abs=0.1)  # when it is gone
        (second,) = await worker.backend_processes.list()
        assert second.process_id != first.process_id
