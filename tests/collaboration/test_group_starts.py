"""Starts of a group's services that somebody ends, or asks for again, while they are under way."""

from __future__ import annotations

import pytest
import trio

from spindle_trio import open_group, open_host
from spindle_trio.testing import MemoryLauncher

STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")


async def steady(process) -> None:
    process.ready()
    await trio.sleep_forever()


async def never_ready(process) -> None:
    await trio.sleep_forever()


async def ready_after_a_second(process) -> None:
    await trio.sleep(1)
    process.ready()
    await trio.sleep_forever()


ENTRIES = {"steady": steady, "never_ready": never_ready, "slow": ready_after_a_second}
OPTIONS = {"startup_timeout": 100.0, "heartbeat_timeout": float("inf")}


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_first_start_that_is_cancelled_is_not_begun_again(autojump_clock, strategy) -> None:
    async with (
        open_host(MemoryLauncher(ENTRIES)) as host,
        host.open_worker("w", user_id="ada") as worker,
        open_group(worker, strategy=strategy) as group,
    ):
        await group.start("steady", **OPTIONS)
        began = trio.current_time()
        with trio.move_on_after(1):
            await group.start("never_ready", **OPTIONS)
        assert trio.current_time() - began == 1, "it ends at once"
        assert [info.entry for info in await worker.backend_processes.list()] == ["steady"]
        assert len(group.services) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_restart_that_is_asked_for_during_a_start_is_done(autojump_clock, strategy) -> None:
    async with (
        open_host(MemoryLauncher(ENTRIES)) as host,
        host.open_worker("w", user_id="ada") as worker,
        open_group(worker, strategy=strategy) as group,
    ):
        service = await group.start("slow", **OPTIONS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.restart)
            await trio.sleep(0.5)
            assert (service.state, service.generation) == ("starting", 2)
            with trio.fail_after(10):
                await service.restart()
        assert service.generation == 3
