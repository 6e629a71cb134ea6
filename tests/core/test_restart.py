"""When a process that has ended is started again, and which policies contradict themselves."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio import RestartPolicy
from spindle_trio._services._restart import TABLE, Ending, GiveUp, Leave, RestartAt, Rule, When, decide

POLICY = RestartPolicy()

policies = st.builds(
    lambda when, delay, factor, more, jitter, stable_after, give_up_after, life: RestartPolicy(
        when,
        delay=delay,
        factor=factor,
        max_delay=delay if factor == 1 else delay + more,
        jitter=jitter,
        stable_after=stable_after,
        give_up_after=give_up_after,
        max_lifetime=math.inf if when == "never" else stable_after + life,
    ),
    st.sampled_from(get_args(When)),
    st.floats(0.001, 100),
    st.floats(1, 10),
    st.floats(0, 1000),
    st.floats(0, 1),
    st.floats(0.1, 1000),
    st.none() | st.integers(1, 10),
    st.floats(1, 1000) | st.just(math.inf),
)


def delays(
    policy: RestartPolicy, failures: int, *, lived: float | None = None, roll: float = 0.0
) -> list[float | None]:
    """The delay after each of some failures in a row; `None` for giving up."""
    in_a_row, found = 0, []
    for number in range(failures):
        now = 100.0 * number
        ready_at = None if lived is None else now - lived
        in_a_row, decision = decide(policy, in_a_row, Ending.FAILED, ready_at=ready_at, now=now, roll=roll)
        found.append(decision.at - now if isinstance(decision, RestartAt) else None)
    return found


# ---- the delays


def test_the_delays_grow_to_their_bound_and_then_it_gives_up() -> None:
    assert delays(POLICY, 8) == [0.5, 1, 2, 4, 8, 16, 30, None]


def test_a_short_life_proves_nothing() -> None:
    assert delays(POLICY, 8, lived=29.9)[-1] is None


def test_a_process_that_was_stable_begins_a_new_row_at_its_end() -> None:
    assert delays(POLICY, 20, lived=30.0) == [0.5] * 20


def test_without_a_bound_it_never_gives_up_however_large_the_numbers_become() -> None:
    assert delays(RestartPolicy(give_up_after=None, factor=1e200), 2_000)[-1] == 30


def test_one_failure_may_be_the_last() -> None:
    assert delays(RestartPolicy(give_up_after=1), 1) == [None]


@given(st.integers(1, 7), st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_chance_takes_no_more_than_its_share_and_adds_nothing(failures: int, roll: float, jitter: float) -> None:
    whole = delays(POLICY, failures)[-1]
    taken = delays(RestartPolicy(jitter=jitter), failures, roll=roll)[-1]
    assert whole is not None
    assert taken is not None
    assert whole * (1 - jitter) <= taken + 1e-9
    assert taken <= whole + 1e-9


# ---- the table


def test_every_end_has_a_rule_under_every_policy() -> None:
    assert set(TABLE) == {(ending, when) for ending in Ending for when in get_args(When)}


@pytest.mark.parametrize("when", get_args(When))
@pytest.mark.parametrize("ending", [Ending.STOPPED, Ending.REPLACED, Ending.UNLOADED])
def test_what_somebody_has_ended_is_left_whatever_the_policy_says(ending: Ending, when: When) -> None:
    assert TABLE[ending, when] is Rule.LEAVE


@pytest.mark.parametrize("when", get_args(When))
def test_what_is_recycled_starts_again_at_once_and_counts_nothing(when: When) -> None:
    policy = RestartPolicy(when)
    assert decide(policy, 5, Ending.RECYCLED, ready_at=0, now=1.0, roll=0.5) == (5, RestartAt(1.0))


def test_what_is_recycled_after_it_has_proved_itself_ends_the_row_of_failures() -> None:
    assert decide(RestartPolicy(), 5, Ending.RECYCLED, ready_at=0, now=30.0, roll=0.5) == (0, RestartAt(30.0))


@pytest.mark.parametrize(
    ("when", "ending", "is_started"),
    [
        ("never", Ending.COMPLETED, False),
        ("never", Ending.FAILED, False),
        ("on_failure", Ending.COMPLETED, False),
        ("on_failure", Ending.FAILED, True),
        ("always", Ending.COMPLETED, True),
        ("always", Ending.FAILED, True),
    ],
)
def test_the_policy_says_after_which_ends_it_is_started_again(when: When, ending: Ending, is_started: bool) -> None:
    failures, decision = decide(RestartPolicy(when, jitter=0), 0, ending, ready_at=0, now=7.0, roll=0)
    assert (failures, decision) == ((1, RestartAt(7.5)) if is_started else (0, Leave()))


@given(policies, st.lists(st.tuples(st.sampled_from(Ending), st.none() | st.floats(0, 2000), st.floats(0, 0.99))))
def test_it_gives_up_exactly_after_so_many_failures_in_a_row(
    policy: RestartPolicy, lives: list[tuple[Ending, float | None, float]]
) -> None:
    now, failures, in_a_row = 0.0, 0, 0
    for ending, lived, roll in lives:
        ready_at = None if lived is None else now
        now += lived or 0.0
        failures, decision = decide(policy, failures, ending, ready_at=ready_at, now=now, roll=roll)
        rule = TABLE[ending, policy.when]
        if rule is not Rule.LEAVE:
            is_proved = ready_at is not None and now - ready_at >= policy.stable_after
            in_a_row = (0 if is_proved else in_a_row) + (rule is Rule.COUNT)
        assert failures == in_a_row
        assert isinstance(decision, Leave) == (rule is Rule.LEAVE)
        assert isinstance(decision, GiveUp) == (
            rule is Rule.COUNT and policy.give_up_after is not None and in_a_row >= policy.give_up_after
        )
        if not isinstance(decision, RestartAt):
            return
        assert now <= decision.at <= now + policy.max_delay
        assert (decision.at == now) == (rule is Rule.AT_ONCE) or policy.jitter == 1
        now = decision.at


@given(policies, st.floats(0, 0.99))
def test_no_row_of_failures_is_faster_than_its_delays(policy: RestartPolicy, roll: float) -> None:
    found = delays(policy, 12, roll=roll)
    for number, delay in enumerate(found):
        if delay is not None:
            least = min(policy.max_delay, policy.delay * policy.factor**number) * (1 - policy.jitter)
            assert delay >= least - 1e-9 * max(1, 100.0 * number)


# ---- what is refused


@pytest.mark.parametrize("field", ["when", "delay", "factor", "max_delay", "jitter", "stable_after", "give_up_after"])
def test_the_defaults_are_those_of_services(field: str) -> None:
    wanted = {
        "when": "on_failure",
        "delay": 0.5,
        "factor": 2,
        "max_delay": 30,
        "jitter": 0.2,
        "stable_after": 30,
        "give_up_after": 8,
    }
    assert getattr(POLICY, field) == wanted[field]
    assert POLICY.max_lifetime == math.inf


@pytest.mark.parametrize(
    "options",
    [
        {"when": "sometimes"},
        {"when": None},
        {"delay": 0},
        {"delay": -1},
        {"delay": math.inf},
        {"delay": "1"},
        {"delay": True},
        {"factor": 0.5},
        {"factor": math.nan},
        {"max_delay": 0},
        {"max_delay": math.inf},
        {"jitter": 1.1},
        {"jitter": -0.1},
        {"stable_after": 0},
        {"stable_after": math.inf},
        {"give_up_after": 0},
        {"give_up_after": 1.5},
        {"give_up_after": True},
        {"max_lifetime": 0},
        {"max_lifetime": math.nan},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(options))} must be"):
        RestartPolicy(**options)


@pytest.mark.parametrize(
    ("options", "names", "advice"),
    [
        ({"delay": 2, "max_delay": 1}, ("delay=2", "max_delay=1"), "lower delay"),
        ({"delay": 31}, ("delay=31", "max_delay=30"), "raise max_delay"),
        ({"factor": 1, "max_delay": 5}, ("factor=1", "max_delay=5"), "leave out max_delay"),
        ({"when": "never", "max_lifetime": 60}, ("when='never'", "max_lifetime=60"), "leave out max_lifetime"),
        ({"max_lifetime": 30}, ("max_lifetime=30", "stable_after=30"), "lower stable_after"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused_by_both_names(
    options: dict[str, Any], names: tuple[str, str], advice: str
) -> None:
    with pytest.raises(ValueError, match=advice) as caught:
        RestartPolicy(**options)
    assert all(name in str(caught.value) for name in names)


def test_a_delay_that_never_grows_needs_no_cap_of_its_own() -> None:
    assert delays(RestartPolicy(factor=1, delay=5, max_delay=5), 3) == delays(RestartPolicy(factor=1, delay=5), 3)


def test_a_policy_shows_what_is_not_the_default() -> None:
    assert repr(POLICY) == "RestartPolicy()"
    assert repr(RestartPolicy("always", delay=1)) == "RestartPolicy(when='always', delay=1)"
