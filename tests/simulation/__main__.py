"""Replays scenarios by their numbers: ``PYTHONPATH=tests python -m simulation 1234``, or ``… services 1234``.

Shows what was drawn, what happened, line by line, and what the oracle says of it. The same number gives the same lines,
always: the scenario is drawn from it, time is virtual, and Trio's scheduler is seeded with it.
"""

from __future__ import annotations

import sys

from simulation.drawing import draw
from simulation.oracle import judge
from simulation.playing import play
from simulation.services_drawing import draw_services
from simulation.services_oracle import judge_services
from simulation.services_playing import play_services
from simulation.stage import Log
from simulation.verdict import written_log


def main(arguments: list[str]) -> int:
    """Replay these; returns how many break the contract."""
    is_of_services = arguments[:1] == ["services"]
    broken = 0
    for seed in map(int, arguments[is_of_services:]):
        shown, log, complaints = replay_services(seed) if is_of_services else replay(seed)
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


sys.exit(min(1, main(sys.argv[1:])))
