"""When a process that has ended is started anew."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio._pools._restarts import Past, RestartPolicy, after_failure, next_start

POLICY = RestartPolicy()


def delays(
    policy: RestartPolicy, failures: int, *, lived: float | None = None, roll: float = 0.0
) -> list[float | None]:
    """The delay after each of some failures in a row."""
    past, found = Past(), []
    for number in range(failures):
        now = 100.0 * number
        past = after_failure(policy, past, None if lived is None else now - lived, now)
        at = next_start(policy, past, roll=roll)
        found.append(None if at is None else at - now)
    return found


def test_the_delays_grow_to_their_bound_and_then_it_gives_up() -> None:
    assert delays(POLICY, 8) == [0.5, 1, 2, 4, 8, 16, 30, None]


def test_a_short_life_proves_nothing() -> None:
    assert delays(POLICY, 8, lived=29.9)[-1] is None


def test_a_process_that_was_stable_begins_a_new_row_at_its_end() -> None:
    assert delays(POLICY, 20, lived=30.0) == [0.5] * 20


def test_nothing_has_failed_and_so_nothing_waits() -> None:
    assert next_start(POLICY, Past(ended_at=7.0), roll=0.0) == 7.0


def test_without_a_bound_it_never_gives_up_however_large_the_numbers_become() -> None:
    policy = RestartPolicy(give_up_after=None, factor=1e200)
    assert delays(policy, 2_000)[-1] == 30


@given(st.integers(1, 7), st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_chance_takes_no_more_than_its_share_and_adds_nothing(failures: int, roll: float, jitter: float) -> None:
    whole = delays(POLICY, failures)[-1]
    taken = delays(RestartPolicy(jitter=jitter), failures, roll=roll)[-1]
    assert whole is not None
    assert taken is not None
    assert whole * (1 - jitter) <= taken + 1e-9
    assert taken <= whole + 1e-9


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=40),
    st.one_of(st.none(), st.integers(1, 10)),
    st.floats(0, 1, exclude_max=True),
)
def test_it_gives_up_exactly_after_so_many_failures_in_a_row(
    lives: list[float | None], give_up_after: int | None, roll: float
) -> None:
    policy = RestartPolicy(give_up_after=give_up_after)
    past, now, in_a_row = Past(), 0.0, 0
    for lived in lives:
        ready_at = None if lived is None else now
        now += lived or 0.0
        past = after_failure(policy, past, ready_at, now)
        in_a_row = 1 if lived is not None and now - (ready_at or 0.0) >= 30 else in_a_row + 1
        at = next_start(policy, past, roll=roll)
        assert past.failures == in_a_row
        assert (at is None) == (in_a_row >= (give_up_after or math.inf))
        if at is None:
            return
        assert now < at <= now + 30
        now = at


@pytest.mark.parametrize("field", ["delay", "factor", "max_delay", "jitter", "stable_after", "give_up_after"])
def test_the_defaults_are_those_of_services(field: str) -> None:
    wanted = {"delay": 0.5, "factor": 2, "max_delay": 30, "jitter": 0.2, "stable_after": 30, "give_up_after": 8}
    assert getattr(POLICY, field) == wanted[field]
