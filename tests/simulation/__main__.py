"""Replays scenarios by number: ``PYTHONPATH=tests python -m simulation 1234``, ``… services 1234``, ``… groups 1234``.

Shows what was drawn, what happened, line by line, and what the oracle says of it. The same number gives the same lines,
always: the scenario is drawn from it, time is virtual, and Trio's scheduler is seeded with it.
"""

from __future__ import annotations

import sys

from simulation.drawing import draw
from simulation.groups_drawing import draw_group
from simulation.groups_oracle import judge_group
from simulation.oracle import judge
from simulation.playing import play
from simulation.services_drawing import draw_services
from simulation.services_oracle import judge_services
from simulation.services_playing import play_services
from simulation.stage import Log
from simulation.verdict import written_log


def main(arguments: list[str]) -> int:
    """Replay these; returns how many break the contract."""
    kinds = {"services": replay_services, "groups": replay_group}
    play_again = kinds.get(arguments[0], replay) if arguments else replay
    broken = 0
    for seed in map(int, arguments[play_again is not replay :]):
        shown, log, complaints = play_again(seed)
        broken += bool(complaints)
        print(f"seed {seed}", shown, written_log(log), sep="\n")
        print(*(complaints or ["This is as the contract says."]), sep="\n")
    return broken


def replay(seed: int) -> tuple[str, Log, list[str]]:
    scenario = draw(seed)
    log = play(scenario, seed)
    return scenario.describe(), log, judge(scenario, log)


def replay_services(seed: int) -> tuple[str, Log, list[str]]:
    scenario = draw_services(seed)
    log = play_services(scenario, seed)
    return scenario.describe(), log, judge_services(scenario, log)


def replay_group(seed: int) -> tuple[str, Log, list[str]]:
    scenario = draw_group(seed)
    log = play_services(scenario, seed)
    return scenario.describe(), log, judge_group(scenario, log)


sys.exit(min(1, main(sys.argv[1:])))
