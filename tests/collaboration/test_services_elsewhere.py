"""Services of a worker at the far end of a stream, in virtual time: as in the host's own program."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import spindle_trio as spindle
from spindle_trio import (
    DuplicateKeyError,
    ProcessLostError,
    RestartPolicy,
    ServiceGaveUpError,
    ServiceMessage,
    StreamChannel,
    Worker,
    connect_worker,
    open_service,
)
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher

POLICY = RestartPolicy(delay=5, jitter=0, give_up_after=3)


async def steady(process: ProcessContext) -> None:
    @process.on_call
    async def who(payload: object) -> str:
        return process.process_id

    @process.on_call
    async def end(payload: str) -> None:
        await process.send(f"{payload} follows")
        getattr(process, payload)("as it was told")
        await trio.sleep_forever()

    process.ready()
    process.beat_while_running()
    await trio.sleep_forever()


async def crashes(process: ProcessContext) -> None:
    process.ready()
    process.fail("it crashes")


async def has_a_last_word(process: ProcessContext) -> str:
    process.ready()
    process.beat_while_running()
    await process.wait_stop()
    return "done"


ENTRIES = {"steady.py": steady, "crashes.py": crashes, "last_word.py": has_a_last_word}


Entry = Callable[[ProcessContext], Awaitable[object]]


@asynccontextmanager
async def elsewhere(entries: Mapping[str, Entry] = ENTRIES) -> AsyncIterator[tuple[Worker, trio.abc.Stream]]:
    """Open a host, and a worker at the other end of a stream; also yields the host's end of that."""
    near, far = trio.testing.memory_stream_pair()
    async with spindle.open_host(MemoryLauncher(entries)) as host, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(host.serve_worker, StreamChannel(near), "remote", user_id="ada"))
        with trio.fail_after(300):
            async with connect_worker(StreamChannel(far)) as worker:
                yield worker, near


async def test_a_worker_knows_whether_its_host_is_in_this_program_whatever_its_name_is(
    autojump_clock: MockClock,
) -> None:
    async with elsewhere() as (worker, _):
        assert not worker.is_local
    async with spindle.open_host(MemoryLauncher(ENTRIES)) as host, host.open_worker(worker.identifier) as local:
        assert local.is_local


async def crash(service: spindle.Service) -> None:
    with pytest.raises(ProcessLostError):
        await service.call("end", "fail")


async def test_a_service_is_started_again_and_keeps_its_key(autojump_clock: MockClock) -> None:
    async with elsewhere() as (worker, _):
        processes = worker.backend_processes
        async with open_service(worker, "steady.py", key="a", restart=POLICY) as service:
            messages = service.messages()
            first = await service.call("who")
            began = trio.current_time()
            await crash(service)
            with pytest.raises(DuplicateKeyError):
                await processes.spawn("steady.py", key="a")
            second = await service.call("who")
            assert trio.current_time() - began == pytest.approx(5)
            assert second != first
            await service.restart("again")
            assert (service.generation, service.failures) == (3, 1)
            await crash(service)
            assert await messages.receive() == ServiceMessage(1, "fail follows")
            assert await messages.receive() == ServiceMessage(3, "fail follows")
        assert await processes.list() == []
        await processes.spawn("steady.py", key="a")


async def test_a_service_gives_up_with_its_post_mortem(autojump_clock: MockClock) -> None:
    async with elsewhere() as (worker, _):
        with pytest.raises(ServiceGaveUpError) as caught:
            async with open_service(worker, "crashes.py", key="a", restart=POLICY):
                await trio.sleep_forever()
        assert caught.value.attempts == 3
        assert caught.value.post_mortem is not None
        assert caught.value.post_mortem.error == "it crashes"
        await worker.backend_processes.spawn("steady.py", kind="crashes.py", key="a")


async def test_what_somebody_stops_stays_stopped(autojump_clock: MockClock) -> None:
    policy = RestartPolicy("always")
    async with elsewhere() as (worker, _), open_service(worker, "last_word.py", restart=policy) as service:
        events = service.events()
        process = await service.wait_running()
        await worker.backend_processes.stop(process.process_id)
        assert [str(event.kind) async for event in events] == ["ended", "stopped"]
        assert process.state == "completed"
        with pytest.raises(trio.ClosedResourceError, match="somebody has stopped it"):
            await service.restart()


@pytest.mark.parametrize("moment", ["running", "waiting", "starting"])
async def test_a_connection_that_is_lost_ends_the_service_and_leaves_its_block_bare(
    autojump_clock: MockClock, moment: str
) -> None:
    async def wait(process: spindle.ProcessHandle) -> None:
        if begun:
            await trio.sleep_forever()

    begun: list[bool] = []
    async with elsewhere() as (worker, stream):
        with pytest.raises(trio.BrokenResourceError, match="connection"):
            async with open_service(worker, "steady.py", key="a", restart=POLICY, on_start=wait) as service:
                begun.append(True)
                if moment != "running":
                    await crash(service)
                    await trio.sleep(1)
                if moment == "starting":
                    await trio.sleep(10)
                    assert service.state == "starting"
                lost_at = trio.current_time()
                await stream.aclose()
                with pytest.raises(trio.BrokenResourceError, match=r"the service steady\.py \(key 'a'\) is over"):
                    await service.call("who")
                await trio.sleep_forever()
        assert trio.current_time() == lost_at
        assert service.state == "stopped"


# ---- while a process is starting


async def slow(process: ProcessContext) -> None:
    await trio.sleep(10)
    await steady(process)


async def lingers(process: ProcessContext) -> None:
    process.ready()
    process.beat_while_running()
    await process.wait_stop()
    await trio.sleep_forever()


SLOW = {**ENTRIES, "slow.py": slow, "lingers.py": lingers}


async def restart_for_a_second(service: spindle.Service) -> None:
    """Leave the next generation starting."""
    with trio.move_on_after(1):
        await service.restart()
    assert service.state == "starting"


@pytest.mark.parametrize("way", ["stop", "block", "opening", "group block", "group start"])
async def test_a_service_that_is_stopped_while_it_starts_is_gone_at_once(autojump_clock: MockClock, way: str) -> None:
    async with elsewhere(SLOW) as (worker, _):
        if way == "stop":
            async with open_service(worker, "slow.py", key="a") as service:
                await restart_for_a_second(service)
                await service.stop()
                assert await worker.backend_processes.list() == []
        elif way == "block":
            async with open_service(worker, "slow.py", key="a") as service:
                await restart_for_a_second(service)
        elif way == "opening":
            with trio.move_on_after(1):
                async with open_service(worker, "slow.py", key="a"):
                    pytest.fail("it is not ready")
        elif way == "group block":
            async with spindle.open_group(worker) as group:
                await restart_for_a_second(await group.start("slow.py", key="a"))
        else:
            async with spindle.open_group(worker) as group:
                with trio.move_on_after(1):
                    await group.start("slow.py", key="a")
                assert await worker.backend_processes.list() == []
        assert trio.current_time() == pytest.approx(1 if way in {"opening", "group start"} else 11)
        assert await worker.backend_processes.list() == []
        await worker.backend_processes.spawn("steady.py", kind="slow.py", key="a")


async def test_a_service_that_is_stopped_before_its_process_is_named_leaves_nothing(autojump_clock: MockClock) -> None:
    async with elsewhere(SLOW) as (worker, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with open_service(worker, "slow.py", key="a"):
                pytest.fail("it was cancelled")
        assert trio.current_time() == 0
        assert await worker.backend_processes.list() == []
        await worker.backend_processes.spawn("steady.py", kind="slow.py", key="a")


async def test_a_service_that_waits_for_its_key_leaves_nothing_when_it_is_cancelled(autojump_clock: MockClock) -> None:
    async with elsewhere(SLOW) as (worker, _):
        old = await worker.backend_processes.spawn("lingers.py", kind="slow.py", key="a", grace_period=3)
        with trio.move_on_after(1):
            async with open_service(worker, "slow.py", key="a", replace_existing=True):
                pytest.fail("it is not ready")
        assert old.state.is_terminal
        assert trio.current_time() == pytest.approx(3)
        assert await worker.backend_processes.list() == []


async def test_without_a_key_a_process_is_stopped_once_it_is_ready(autojump_clock: MockClock) -> None:
    async with elsewhere(SLOW) as (worker, _):
        with trio.move_on_after(1):
            async with open_service(worker, "slow.py"):
                pytest.fail("it is not ready")
        assert trio.current_time() == pytest.approx(1)
        await trio.sleep(10)
        assert await worker.backend_processes.list() == []


async def test_a_service_whose_key_somebody_else_has_just_taken_does_not_kill_that_process(
    autojump_clock: MockClock,
) -> None:
    async with elsewhere(SLOW) as (worker, _), trio.open_nursery() as nursery:
        processes = worker.backend_processes
        nursery.start_soon(functools.partial(processes.spawn, "slow.py", key="a"))
        await trio.lowlevel.checkpoint()
        with trio.CancelScope() as scope, pytest.raises(DuplicateKeyError):
            processes.on_lifecycle(lambda _: scope.cancel())
            async with open_service(worker, "slow.py", key="a"):
                pytest.fail("it was refused")
        await trio.sleep(1)
        assert [info.state for info in await processes.list()] == ["starting"]


async def test_a_connection_that_is_lost_ends_the_stop_of_a_service_that_starts(autojump_clock: MockClock) -> None:
    async with elsewhere(SLOW) as (worker, stream):
        with trio.move_on_after(1), pytest.raises(trio.BrokenResourceError):
            async with open_service(worker, "slow.py", key="a") as service:
                await restart_for_a_second(service)
                await stream.aclose()
                await service.stop()
        assert trio.current_time() <= 11
