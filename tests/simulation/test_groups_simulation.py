"""Random groups of services, as `test_services_simulation` has single ones; `groups_oracle` judges them.

PYTHONPATH=tests python -m simulation groups 1234
"""

from __future__ import annotations

import pytest

from simulation.groups_drawing import draw_group
from simulation.groups_oracle import judge_group
from simulation.scenario import Act, Block, Moment, Part
from simulation.services_playing import play_services
from simulation.services_scenario import Ask, GroupPlan, Life, Policy, ServicePlan, ServicesScenario

READY = Moment(0.0, (Act("ready"),))


@pytest.mark.quick(1)
@pytest.mark.parametrize("block", range(8))
def test_whatever_happens_a_group_does_as_its_strategy_says(block: int) -> None:
    for seed in range(block * 40, (block + 1) * 40):
        scenario = draw_group(seed)
        complaints = judge_group(scenario, play_services(scenario, seed))
        assert not complaints, "\n".join([f"seed {seed}", *complaints, scenario.describe()])


def test_a_restart_hurries_one_start_before_it_and_not_a_whole_crash_loop() -> None:
    """A restart was asked of a service, and one before it failed at each start: again and again without a delay."""
    crashes = Life(Part(plan=(READY, Moment(1.0, (Act("exit", 3),)))))
    never_starts = Life(Part(plan=(Moment(0.0, (Act("exit", 3),)),)))
    steady = ServicePlan(at=0.0, block=Block(0.0))
    failing = ServicePlan(at=0.0, block=Block(0.0), lives=(crashes, never_starts))
    policy = Policy(delay=1.0, factor=1.0, give_up_after=None)
    scenario = ServicesScenario(
        (failing, steady),
        (Ask(at=1.5, what="restart", service=1),),
        group=GroupPlan(0.0, Block(4.0), "rest_for_one", policy),
    )
    starts = [
        line.at for line in play_services(scenario, 1).entries if line.what == "launching" and line.number < 1_000
    ]
    assert starts == [0.0, 1.5, 2.5, 3.5]
