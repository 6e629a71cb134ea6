"""The recorded scenarios with Python entries in the place of the JavaScript ones."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import trio.testing

from conformance import async_entries
from conformance.comparing import MismatchError, compare, with_times
from conformance.differences import DIFFERENCES, expected
from conformance.player import play
from conformance.printing import check_printed
from conformance.recording import scenarios
from conformance.settings import GRACE_PERIOD, GRACE_PERIODS, MEASURED, WAITED_FOR
from conformance.translations import (
    PYTHON_DIFFERENCES,
    TRANSLATIONS,
    UNTRANSLATED,
    expected_in_python,
    in_python,
)
from spindle_trio.launchers import DefaultLauncher
from spindle_trio.testing import MemoryLauncher

PYTHONS_OWN: Final = [
    (difference, name)
    for difference in PYTHON_DIFFERENCES
    if difference not in DIFFERENCES
    for name in difference.changes
]


@pytest.mark.quick(4)
@pytest.mark.usefixtures("_surroundings")
@pytest.mark.parametrize("name", [name for name in TRANSLATIONS if name != WAITED_FOR])
async def test_scenario_in_python(name: str, tmp_path: Path) -> None:
    scenario = in_python(scenarios()[name])
    grace_period = GRACE_PERIODS.get(name, GRACE_PERIOD)
    played = await play(scenario, tmp_path, DefaultLauncher(spares=0), grace_period=grace_period)
    compare(expected_in_python(scenarios()[name]), played.outputs, measured=name in MEASURED)
    check_printed(scenario, played.outputs, played.printed)


async def test_the_default_heartbeat_timeout_is_waited_for_in_virtual_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    scenario = in_python(scenarios()[WAITED_FOR])
    before = trio.current_time()
    launcher = MemoryLauncher({"dist/entry.py": async_entries.idle})
    played = await play(scenario, tmp_path, launcher, grace_period=GRACE_PERIOD)
    compare(expected_in_python(scenarios()[WAITED_FOR]), played.outputs)
    assert trio.current_time() - before == pytest.approx(15.0, abs=0.1)


def test_each_scenario_is_translated_or_says_why_not() -> None:
    assert TRANSLATIONS.keys() | UNTRANSLATED.keys() == scenarios().keys()
    assert not TRANSLATIONS.keys() & UNTRANSLATED.keys()


@pytest.mark.parametrize(("difference", "name"), PYTHONS_OWN, ids=lambda value: getattr(value, "name", value))
def test_a_difference_of_python_is_needed(difference: object, name: str) -> None:
    scenario = scenarios()[name]
    with_it = with_times(expected(scenario, PYTHON_DIFFERENCES))
    with pytest.raises(MismatchError):
        compare(expected(scenario, [other for other in PYTHON_DIFFERENCES if other is not difference]), with_it)
