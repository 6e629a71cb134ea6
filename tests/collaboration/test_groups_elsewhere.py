"""Groups of a worker at the far end of a stream, in virtual time: as in the host's own program."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import RestartPolicy, ServiceGaveUpError, open_group
from spindle_trio.child import ProcessContext

from .test_services_elsewhere import ENTRIES, crash, elsewhere, steady

POLICY = RestartPolicy(delay=5, jitter=0, give_up_after=3)


async def slow(process: ProcessContext) -> None:
    await trio.sleep(3)
    await steady(process)


ALL = ENTRIES | {"slow.py": slow}


@pytest.mark.parametrize(
    ("strategy", "generations", "seconds"),
    [("one_for_one", [1, 2, 1], 8), ("one_for_all", [2, 2, 2], 14), ("rest_for_one", [1, 2, 2], 11)],
)
async def test_a_failure_takes_along_whom_the_strategy_says(
    autojump_clock: MockClock, strategy: Any, generations: list[int], seconds: float
) -> None:
    async with elsewhere(ALL) as (worker, _), open_group(worker, strategy=strategy, restart=POLICY) as group:
        services = [await group.start("slow.py", key=key) for key in "abc"]
        began = trio.current_time()
        await crash(services[1])
        await trio.sleep(0.1)
        for service in services:
            await service.wait_running()
        assert trio.current_time() - began == pytest.approx(seconds)
        assert [service.generation for service in services] == generations
        assert group.failures == 1
        assert len(await worker.backend_processes.list()) == 3
    # The connection is closed by now; the host has ended all.


async def test_an_end_during_the_start_of_a_later_one_keeps_all_keys(autojump_clock: MockClock) -> None:
    """A spawn that is cancelled over a stream has the key for a while; so that start is let come to its end."""
    async with (
        elsewhere(ALL) as (worker, _),
        open_group(worker, strategy="rest_for_one", restart=POLICY) as group,
    ):
        a = await group.start("slow.py", key="a")
        b = await group.start("slow.py", key="b")
        began = trio.current_time()
        await crash(b)
        await trio.sleep(6)
        assert b.state == "starting"
        await crash(a)
        assert await b.wait_running()
        assert (a.generation, b.generation, group.failures) == (2, 3, 2)
        assert trio.current_time() - began == pytest.approx(6 + 10 + 3 + 3)


async def test_a_start_that_is_cancelled_leaves_nothing(autojump_clock: MockClock) -> None:
    async with elsewhere(ALL) as (worker, _), open_group(worker, strategy="one_for_all", restart=POLICY) as group:
        await group.start("slow.py", key="a")
        with trio.move_on_after(1):
            await group.start("slow.py", key="b")
        await trio.sleep(2.5)  # the host names the process when it is ready, and then it is stopped
        assert [info.key for info in await worker.backend_processes.list()] == ["a"]
        await group.start("slow.py", key="b")


async def test_a_group_gives_up_and_stops_the_others_in_reverse(autojump_clock: MockClock) -> None:
    async with elsewhere(ALL) as (worker, _):
        ends: list[str | None] = []
        worker.backend_processes.on_lifecycle(lambda event: ends.append(event.key) if event.state.is_terminal else None)
        with pytest.raises(ServiceGaveUpError, match=r"after 3 failure.* of the service crashes\.py \(key 'c'\)"):
            async with open_group(worker, restart=POLICY) as group:
                await group.start("steady.py", key="a")
                await group.start("steady.py", key="b")
                await group.start("crashes.py", key="c")
                await trio.sleep_forever()
        assert ends == ["c", "c", "c", "b", "a"]
        assert await worker.backend_processes.list() == []
        for key in "abc":
            await worker.backend_processes.spawn("steady.py", kind="steady.py", key=key)


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
@pytest.mark.parametrize("moment", ["running", "waiting", "starting"])
async def test_a_connection_that_is_lost_ends_the_group_and_leaves_its_block_bare(
    autojump_clock: MockClock, moment: str, strategy: Any
) -> None:
    async with elsewhere(ALL) as (worker, stream):
        with pytest.raises(trio.BrokenResourceError, match="connection"):
            async with open_group(worker, strategy=strategy, restart=POLICY) as group:
                services = [await group.start("slow.py", key=key) for key in "abc"]
                if moment != "running":
                    await crash(services[1])
                    await trio.sleep(1 if moment == "waiting" else 6)
                await stream.aclose()
                with trio.CancelScope(shield=True):
                    for service in services:
                        with pytest.raises(trio.BrokenResourceError, match=r"'.'\) is stopped: BrokenResourceE.*conn"):
                            await service.restart()
                    with pytest.raises(trio.BrokenResourceError, match="the group is stopped: BrokenResourceErr"):
                        await group.start("slow.py")
                await trio.sleep_forever()
        assert [service.state for service in services] == ["stopped"] * 3
