"""A test in virtual time: a week of crash loops takes a moment, and waits are exact.

    pytest notes/examples/test_crash_loop.py

Each process works for an hour and crashes. An hour is longer than `stable_after`, so each is the first failure of a new
row, and the service never gives up. Once they crash at once, it does.
"""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

import spindle_trio as spindle
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher

HOUR = 3600.0
WEEK = 7 * 24 * HOUR

POLICY = spindle.RestartPolicy(delay=1, factor=2, jitter=0, stable_after=60, give_up_after=4)


async def works_for_an_hour(process: ProcessContext) -> None:
    process.ready()
    await trio.sleep(HOUR)
    raise ConnectionRefusedError("nobody listens")


async def crashes(process: ProcessContext) -> None:
    process.ready()
    raise ConnectionRefusedError("nobody listens")


LAUNCHER = {"works.py": works_for_an_hour, "crashes.py": crashes}


@pytest.mark.trio
async def test_a_service_that_proves_itself_in_between_never_gives_up(autojump_clock: MockClock) -> None:
    async with (
        spindle.open_host(MemoryLauncher(LAUNCHER)) as host,
        host.open_worker("tests", user_id="ada") as worker,
        spindle.open_service(worker, "works.py", key="db", restart=POLICY, heartbeat_timeout=math.inf) as service,
    ):
        await trio.sleep(WEEK)
        assert service.generation == 1 + WEEK // (HOUR + POLICY.delay)
        assert service.failures == 1


@pytest.mark.trio
async def test_a_crash_loop_gives_up_after_four_failures(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(spindle.ServiceGaveUpError, match=r"4 failure.*nobody listens") as caught:
        async with (
            spindle.open_host(MemoryLauncher(LAUNCHER)) as host,
            host.open_worker("tests", user_id="ada") as worker,
            spindle.open_service(worker, "crashes.py", key="db", restart=POLICY),
        ):
            await trio.sleep_forever()
    assert trio.current_time() - began == 1 + 2 + 4
    assert caught.value.attempts == 4
