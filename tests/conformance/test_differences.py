"""The table of differences itself: each has its reason, and is needed."""

from __future__ import annotations

import itertools

import pytest

from conformance.comparing import MismatchError, compare, with_times
from conformance.differences import DIFFERENCES, Difference, expected
from conformance.recording import scenarios
from conformance.settings import OWN_CHANNEL, OWN_STEPS

MANY = 30
"""How many outputs of a scenario are spoilt, one after the other."""

BY_SCENARIO = [(difference, name) for difference in DIFFERENCES for name in difference.changes]


def named(values: object) -> str | None:
    return values if isinstance(values, str) else getattr(values, "name", None)


def test_all_that_was_recorded_is_there() -> None:
    assert len(scenarios()) == 110


@pytest.mark.parametrize("difference", DIFFERENCES, ids=named)
def test_a_difference_has_a_reason_that_cites_the_contract(difference: Difference) -> None:
    assert difference.changes
    assert difference.reason.endswith(".")
    assert "(contract, " in difference.reason or difference.name == "nobody waits for what cannot come"


def test_no_name_is_used_twice() -> None:
    assert len({difference.name for difference in DIFFERENCES}) == len(DIFFERENCES)


@pytest.mark.parametrize(("difference", "name"), BY_SCENARIO, ids=named)
def test_a_difference_is_needed(difference: Difference, name: str) -> None:
    """What is expected with it would not pass without it."""
    scenario = scenarios()[name]
    with_it = with_times(expected(scenario, DIFFERENCES))
    compare(expected(scenario, DIFFERENCES), with_it)
    with pytest.raises(MismatchError):
        compare(expected(scenario, [other for other in DIFFERENCES if other is not difference]), with_it)


@pytest.mark.parametrize("name", OWN_CHANNEL)
def test_an_entry_is_rewritten_where_it_uses_what_is_not_there(name: str) -> None:
    there, _ = OWN_CHANNEL[name]
    assert there in scenarios()[name].entry_files["dist/entry.js"]
    assert there.startswith(("globalThis.process.send(", "globalThis.process.disconnect("))


@pytest.mark.parametrize("name", OWN_STEPS)
def test_own_steps_ask_for_the_same_in_the_same_order(name: str) -> None:
    """They differ in how long is waited, and for what."""
    recorded, own = (
        [step for step in steps if not {"wait", "sleep"} & set(step)]
        for steps in (scenarios()[name].steps, OWN_STEPS[name])
    )
    assert recorded == own


@pytest.mark.slow
@pytest.mark.parametrize("name", scenarios())
def test_a_recording_that_is_spoilt_is_noticed(name: str) -> None:
    """The comparison sees each output that is missing, and each that comes twice."""
    outputs = expected(scenarios()[name], DIFFERENCES)[:MANY]
    for index in range(len(outputs)):
        for spoilt in (outputs[:index] + outputs[index + 1 :], [*outputs[: index + 1], *outputs[index:]]):
            with pytest.raises(MismatchError):
                compare(outputs, with_times(spoilt))
    for index, (first, second) in enumerate(itertools.pairwise(outputs)):
        if first["type"] == second["type"] == "response":
            swapped = [*outputs[:index], second, first, *outputs[index + 2 :]]
            with pytest.raises(MismatchError):
                compare(outputs, with_times(swapped))
