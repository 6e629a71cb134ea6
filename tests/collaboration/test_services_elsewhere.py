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
