"""The task that goes round the heartbeats of a worker's processes, so that their watchdogs can sleep on."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio._supervision._heartbeat_poller import LOOKS_IN_A_ROW, HeartbeatPoller


class Watched:
    """Notes when it is looked at, and which times are left out."""

    def __init__(self) -> None:
        self.looks: list[float] = []
        self.pauses: list[tuple[float, float]] = []

    def put_off_watchdog(self) -> None:
        self.looks.append(trio.current_time())

    def extend_by_stall(self, since: float) -> None:
        self.pauses.append((since, trio.current_time()))


@pytest.fixture
async def rounds(nursery: trio.Nursery) -> AsyncIterator[HeartbeatPoller]:
    rounds = HeartbeatPoller()
    nursery.start_soon(rounds.run)
    yield rounds
    rounds.close()


@pytest.mark.parametrize("timeout", [1.0, 1.5, 15.0, 16.0, 120.0])
async def test_each_is_looked_at_twice_within_its_timeout_and_not_much_more(
    rounds: HeartbeatPoller, autojump_clock: MockClock, timeout: float
) -> None:
    """Then a process that beats twice within it has a watchdog that never wakes up."""
    watched = Watched()
    rounds.add(watched, timeout)
    await trio.sleep(10 * timeout)
    pauses = [after - before for before, after in zip([0.0, *watched.looks], watched.looks, strict=False)]
    assert all(timeout / 4 < pause <= timeout / 2 + 1e-6 for pause in pauses)
    assert len(pauses) >= 19


async def test_a_shorter_timeout_waits_for_no_round_of_a_longer_one(
    rounds: HeartbeatPoller, autojump_clock: MockClock
) -> None:
    slow, fast = Watched(), Watched()
    rounds.add(slow, 64)
    await trio.sleep(1)
    rounds.add(fast, 4)
    await trio.sleep(8.5)
    assert fast.looks == [pytest.approx(at) for at in (3, 5, 7, 9)]
    assert slow.looks == []


async def test_nobody_is_looked_at_who_has_gone(rounds: HeartbeatPoller, autojump_clock: MockClock) -> None:
    stays, goes = Watched(), Watched()
    for watched in (stays, goes):
        rounds.add(watched, 4)
    rounds.remove(goes, 4)
    rounds.remove(goes, 4)
    await trio.sleep(2.5)
    assert (stays.looks, goes.looks) == ([pytest.approx(2)], [])
    rounds.remove(stays, 4)
    rounds.remove(stays, 4)
    await trio.sleep(20)
    assert stays.looks == [pytest.approx(2)]


@pytest.mark.parametrize("timeout", [math.inf, 0.5])
async def test_a_watchdog_that_never_or_always_wakes_up_is_left_alone(
    rounds: HeartbeatPoller, autojump_clock: MockClock, timeout: float
) -> None:
    watched = Watched()
    rounds.add(watched, timeout)
    await trio.sleep(100)
    rounds.remove(watched, timeout)
    assert watched.looks == []


async def test_a_round_of_many_lets_others_run_in_between(rounds: HeartbeatPoller, autojump_clock: MockClock) -> None:
    many = [Watched() for _ in range(3 * LOOKS_IN_A_ROW)]
    for watched in many:
        rounds.add(watched, 4)
    await trio.sleep(2)
    seen: list[int] = []
    while not many[-1].looks:
        await trio.lowlevel.checkpoint()
        seen.append(sum(bool(watched.looks) for watched in many))
    assert any(0 < looks < len(many) for looks in seen)


async def test_a_round_that_is_late_says_that_this_program_stood_still(
    rounds: HeartbeatPoller, mock_clock: MockClock
) -> None:
    """To everybody, also to those whose own round is not due."""
    slow, fast = Watched(), Watched()
    rounds.add(slow, 64)
    rounds.add(fast, 4)
    for seconds in (2, 1, 1):
        mock_clock.jump(seconds)  # to the moment of each round, or before it
        await trio.testing.wait_all_tasks_blocked()
    assert (slow.pauses, fast.pauses) == ([], [])
    mock_clock.jump(2.5)  # half a second late: it may have stood still for half a second before
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(50)
    await trio.testing.wait_all_tasks_blocked()
    pauses = [pytest.approx((5.5, 6.5)), pytest.approx((6.5, 56.5))]
    assert (slow.pauses, fast.pauses) == (pauses, pauses)


async def test_whoever_is_woken_before_the_round_hears_first_that_this_program_stood_still(
    rounds: HeartbeatPoller, mock_clock: MockClock
) -> None:
    """After a stall the scheduler runs whom it likes: a watchdog asks before it judges, and nobody is told twice."""
    watched = Watched()
    rounds.add(watched, 4)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(100)
    rounds.note_stall()
    assert watched.pauses == [pytest.approx((0, 100))]
    rounds.note_stall()
    await trio.testing.wait_all_tasks_blocked()
    assert len(watched.pauses) == 1
    assert watched.looks == [pytest.approx(100)]


async def test_nobody_is_told_of_a_stall_before_the_first_round_is_planned(mock_clock: MockClock) -> None:
    rounds = HeartbeatPoller()
    mock_clock.jump(100)
    rounds.note_stall()
    watched = Watched()
    rounds.add(watched, 4)
    rounds.note_stall()
    assert watched.pauses == []
