"""Stalls, as the lifecycle accounts for them: exact times, no clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio._stalls import STALL_SECONDS, stood_still_since
from spindle_trio._supervision._lifecycle import Lifecycle
from spindle_trio._supervision._state_table import Input
from spindle_trio.abc import ABANDON_SECONDS

HEARTBEAT = 20


def lifecycle_after(*inputs: Input, heartbeat: float = HEARTBEAT) -> Lifecycle:
    """A process that has been told these at 0, with a grace period of 5 s."""
    life = Lifecycle(startup_timeout=10, heartbeat_timeout=heartbeat, grace_period=5, now=0)
    for said in inputs:
        life.feed(said, 0)
    return life


# ---- for how long it stood still


@pytest.mark.parametrize(
    ("planned_at", "now", "since"),
    [
        (10, 9, 9),  # woken early, for something else
        (10, 10 + STALL_SECONDS / 2, 10 + STALL_SECONDS / 2),
        (10, 11, 9),
        (10, 14, 6),
        (10, 100, 6),
        (math.inf, 100, 100),  # it had planned nothing
    ],
)
def test_a_late_program_stood_still_for_twice_as_long_but_not_since_before_it_was_last_awake(
    planned_at: float, now: float, since: float
) -> None:
    assert stood_still_since(planned_at, 6, now) == since


# ---- what is put off by it


def test_time_in_which_this_program_stood_still_is_left_out_of_a_silence() -> None:
    life = lifecycle_after(Input.READY)
    life.extend_deadline(96, 100)
    assert life.heartbeat_at == 0
    assert (life.due(115.9), life.due(116)) == (None, Input.HEARTBEAT_DEADLINE)


def test_two_pauses_in_one_silence_are_both_left_out() -> None:
    life = lifecycle_after(Input.READY)
    life.extend_deadline(96, 100)
    life.extend_deadline(99, 200)
    assert life.deadline() == 215


def test_a_process_that_beat_meanwhile_has_its_whole_time_again_and_no_more() -> None:
    life = lifecycle_after(Input.READY)
    life.note_heartbeat(50, 100)
    life.extend_deadline(96, 100)
    assert life.deadline() == 120


def test_a_later_heartbeat_counts_from_its_own_time() -> None:
    """What was left out belongs to the silence before it."""
    life = lifecycle_after(Input.READY)
    life.extend_deadline(96, 100)
    life.note_heartbeat(101, 102)
    assert life.deadline() == 121


def test_a_heartbeat_from_before_the_pause_that_is_seen_after_it_takes_nothing_back() -> None:
    life = lifecycle_after(Input.READY)
    life.extend_deadline(96, 100)
    life.note_heartbeat(3, 101)
    assert (life.heartbeat_at, life.deadline()) == (3, 116)


def test_the_grace_period_and_the_time_after_a_kill_are_put_off_alike() -> None:
    stopping = lifecycle_after(Input.READY, Input.STOP)
    stopping.extend_deadline(98, 100)
    assert (stopping.due(102.9), stopping.due(103)) == (None, Input.GRACE_DEADLINE)
    leaving = lifecycle_after(Input.READY, Input.COMPLETE)
    leaving.extend_deadline(98, 100)
    assert leaving.deadline() == 103
    killed = lifecycle_after(Input.READY, Input.BROKEN)
    killed.extend_deadline(99, 100)
    assert (killed.due(100 + ABANDON_SECONDS - 1.01), killed.due(100 + ABANDON_SECONDS - 1)) == (
        None,
        Input.ABANDON_DEADLINE,
    )


def test_a_stop_that_came_during_the_pause_has_its_grace_period_and_no_more() -> None:
    life = lifecycle_after(Input.READY)
    life.feed(Input.STOP, 99)
    life.extend_deadline(96, 100)
    assert life.deadline() == 105


def test_what_has_no_deadline_gets_none() -> None:
    unwatched = lifecycle_after(Input.READY, heartbeat=math.inf)
    unwatched.extend_deadline(100, 100)
    assert unwatched.deadline() == math.inf
    abandoned = lifecycle_after(Input.READY, Input.HEARTBEAT_DEADLINE, Input.ABANDON_DEADLINE)
    abandoned.extend_deadline(100, 100)
    assert abandoned.deadline() == math.inf


def test_the_startup_deadline_is_put_off_alike() -> None:
    life = lifecycle_after()
    life.extend_deadline(3, 5)
    assert life.deadline() == 13
    life.extend_deadline(30, 10)
    assert life.deadline() == 20


# ---- both together


@given(
    timeout=st.sampled_from([1.0, 1.5, 2.0, 15.0, 120.0]),
    round_part=st.floats(0.25, 0.5),
    stopped_part=st.floats(0, 1),
    beat_part=st.floats(0, 1),
    length_part=st.floats(1, 50),
)
def test_after_a_stall_longer_than_its_timeout_a_process_has_all_that_was_left_to_it(
    timeout: float, round_part: float, stopped_part: float, beat_part: float, length_part: float
) -> None:
    """Stopped together with its host, at any moment between two rounds, after any part of its timeout.

    What the process has left counts from the moment at which this program goes on; nobody knows that it was stopped. A
    hanging one is found too, later by the stall and one pause between two rounds at most.
    """
    period, length = timeout * round_part, timeout * length_part
    awake_at = 1000.0
    stopped_at = awake_at + period * stopped_part
    beat_at = stopped_at - timeout * beat_part
    now = stopped_at + length
    life = Lifecycle(startup_timeout=1, heartbeat_timeout=timeout, grace_period=5, now=beat_at)
    life.feed(Input.READY, beat_at)
    life.extend_deadline(now - stood_still_since(awake_at + period, awake_at, now), now)
    assert life.deadline() >= now + timeout - (stopped_at - beat_at) - 1e-6
    assert life.deadline() <= beat_at + timeout + length + period + 1e-6


@given(timeout=st.sampled_from([1.0, 15.0]), lateness=st.lists(st.floats(0, 0.5), min_size=1, max_size=50))
def test_a_host_that_is_late_again_and_again_finds_a_hanging_process_after_twice_its_lateness_at_most(
    timeout: float, lateness: list[float]
) -> None:
    life = Lifecycle(startup_timeout=1, heartbeat_timeout=timeout, grace_period=5, now=0)
    life.feed(Input.READY, 0)
    awake_at = 0.0
    for late in lateness:
        planned_at = awake_at + timeout / 2
        now = planned_at + late
        life.extend_deadline(now - stood_still_since(planned_at, awake_at, now), now)
        awake_at = now
    assert life.deadline() <= timeout + 2 * sum(lateness) + 1e-6


def test_a_stall_after_the_end_moves_nothing() -> None:
    life = Lifecycle(startup_timeout=1, heartbeat_timeout=15, grace_period=5, now=0)
    life.feed(Input.EXIT, 0.5, text="gone")
    life.conclude(0.6)
    life.extend_deadline(10, 11)
    assert life.deadline() == math.inf
    assert life.due(100) is None
