"""Plays one number and judges it; the whole of both engines in a few functions."""

from __future__ import annotations

from simulation.drawing import draw
from simulation.oracle import judge
from simulation.playing import play
from simulation.scenario import Scenario
from simulation.services_drawing import draw_services
from simulation.services_oracle import judge_services
from simulation.services_playing import play_services
from simulation.services_scenario import ServicesScenario
from simulation.stage import Entry, Log


def complaints_about(scenario: Scenario, seed: int) -> list[str]:
    """Play a scenario under this seed of Trio's scheduler, and list what is against the contract."""
    try:
        return judge(scenario, play(scenario, seed))
    except Exception as error:
        return [f"raised {_shown(error)}"]


def complaints_about_services(scenario: ServicesScenario, seed: int) -> list[str]:
    """Do the same with a scenario of services."""
    try:
        return judge_services(scenario, play_services(scenario, seed))
    except Exception as error:
        return [f"raised {_shown(error)}"]


def report(seed: int) -> str | None:
    """Play the scenario of this number; `None` if it keeps the contract, and else all there is to know."""
    scenario = draw(seed)
    complaints = complaints_about(scenario, seed)
    if not complaints:
        return None
    return "\n".join(
        [
            f"seed {seed} breaks the contract; replay it with: PYTHONPATH=tests python -m simulation {seed}",
            *complaints,
            scenario.describe(),
        ]
    )


def report_services(seed: int) -> str | None:
    """Do the same with the services of this number."""
    scenario = draw_services(seed)
    complaints = complaints_about_services(scenario, seed)
    if not complaints:
        return None
    replay = f"PYTHONPATH=tests python -m simulation services {seed}"
    lines = [f"seed {seed} breaks the rules of services; replay it with: {replay}", *complaints, scenario.describe()]
    return "\n".join(lines)


def written_log(log: Log) -> str:
    """Write a log down, a line for each entry."""
    return "\n".join(map(_written, log.entries))


def _written(entry: Entry) -> str:
    detail = "" if entry.detail is None else f" {entry.detail}"
    return f"{entry.at:10.6f}  worker {entry.worker}  {entry.what} {entry.number}{detail}"


def _shown(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_shown, error.exceptions))
    return f"{type(error).__name__}: {error}"
