"""Replays scenarios by their numbers: ``PYTHONPATH=tests python -m simulation 1234``.

Shows what was drawn, what happened, line by line, and what the oracle says of it. The same number gives the same lines,
always: the scenario is drawn from it, time is virtual, and Trio's scheduler is seeded with it.
"""

from __future__ import annotations

import sys

from simulation.drawing import draw
from simulation.oracle import judge
from simulation.playing import play
from simulation.verdict import written_log


def main(seeds: list[str]) -> int:
    """Replay these; returns how many break the contract."""
    broken = 0
    for seed in map(int, seeds):
        scenario = draw(seed)
        log = play(scenario, seed)
        complaints = judge(scenario, log)
        broken += bool(complaints)
        print(f"seed {seed}", scenario.describe(), written_log(log), sep="\n")
        print(*(complaints or ["This is as the contract says."]), sep="\n")
    return broken


sys.exit(min(1, main(sys.argv[1:])))
