"""Every recorded scenario, with its JavaScript entries as they are, through the worker protocol."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import attrs
import pytest

from conformance.comparing import compare
from conformance.differences import DIFFERENCES, expected
from conformance.player import Play, play
from conformance.printing import check_printed
from conformance.recording import Scenario, scenarios
from conformance.settings import (
    CHANNEL,
    GRACE_PERIOD,
    GRACE_PERIODS,
    MEASURED,
    OWN_CHANNEL,
    OWN_STEPS,
    SHORTER,
    SLEEP_LONG,
    TOLD_BY_NODE,
    WAITED_FOR,
)
from spindle_trio.launchers import DefaultLauncher
from support.javascript import needs_node

pytestmark = [needs_node, pytest.mark.usefixtures("_surroundings")]


def as_played(scenario: Scenario) -> Scenario:
    """Give a scenario that goes around the context our lanes to do so, and the steps that go with them."""
    if scenario.name not in OWN_CHANNEL:
        return scenario
    there, here = OWN_CHANNEL[scenario.name]
    sources = {name: CHANNEL + source.replace(there, here) for name, source in scenario.entry_files.items()}
    return attrs.evolve(scenario, entry_files=sources, steps=OWN_STEPS.get(scenario.name, scenario.steps))


def shorter(scenario: Scenario) -> Scenario:
    """Have a scenario wait for less long than the recorded one."""
    written = json.dumps([scenario.entry_files, scenario.steps])
    for there, here in SHORTER[scenario.name]:
        assert there in written, f"{scenario.name} has no {there}"
        written = written.replace(there, here)
    entry_files, steps = json.loads(written)
    return attrs.evolve(scenario, entry_files=entry_files, steps=steps)


async def play_in_node(scenario: Scenario, folder: Path) -> Play:
    """Play a scenario on the default launcher, with a program that a scenario can take away."""
    program, root = folder / "node", folder / "root"
    program.symlink_to(str(shutil.which("node")))
    root.mkdir()
    grace_period = GRACE_PERIODS.get(scenario.name, GRACE_PERIOD)
    return await play(
        scenario, root, DefaultLauncher(node=str(program), preload=()), grace_period=grace_period, program=program
    )


CASES = [
    *[
        pytest.param(
            name,
            name in SHORTER,
            id=name,
            marks=[pytest.mark.soak] if name == WAITED_FOR else [pytest.mark.slow] if name in SLEEP_LONG else [],
        )
        for name in scenarios()
    ],
    *[pytest.param(name, False, id=f"{name}, as recorded", marks=pytest.mark.slow) for name in SHORTER],
]


@pytest.mark.quick(15)
@pytest.mark.parametrize(("name", "is_shorter"), CASES)
async def test_scenario(name: str, is_shorter: bool, tmp_path: Path) -> None:
    scenario = as_played(scenarios()[name])
    if is_shorter:
        scenario = shorter(scenario)
    played = await play_in_node(scenario, tmp_path)
    compare(expected(scenario, DIFFERENCES), played.outputs, measured=name in MEASURED)
    check_printed(scenario, played.outputs, played.printed, told_by_node=TOLD_BY_NODE.get(name))
    assert (played.refusal is not None) == (scenario.user_id == "")


async def test_the_default_heartbeat_timeout_is_15_seconds(tmp_path: Path) -> None:
    scenario = scenarios()[WAITED_FOR]
    played = await play_in_node(attrs.evolve(scenario, steps=scenario.steps[:-1]), tmp_path)
    compare(scenario.outputs[:-1], played.outputs)
    assert played.heartbeat_timeouts == [15.0]
