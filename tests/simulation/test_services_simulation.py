"""Random services, processes of theirs, and people who interfere, in virtual time, against an oracle of their own.

As in `test_simulation` each number is one scenario. `services_drawing` draws it, `services_playing` plays it on a real
host, over a channel every now and then, and `services_oracle` says whether what happened is what services promise. This
replays one, line by line::

    PYTHONPATH=tests python -m simulation services 1234

The ordinary run plays 2 000 of them, and ``pytest -m soak tests/simulation`` 50 000.
"""

from __future__ import annotations

import pytest

from simulation.scenario import Act, Block, Moment, Part
from simulation.services_drawing import draw_services
from simulation.services_playing import Final, Told, play_services
from simulation.services_scenario import Ask, Life, ServicePlan, ServicesScenario
from simulation.stage import Log
from simulation.verdict import complaints_about_services, report_services


def check(seeds: range) -> None:
    for seed in seeds:
        shown = report_services(seed)
        assert shown is None, shown


@pytest.mark.quick(1)
@pytest.mark.parametrize("block", range(25))
def test_whatever_happens_a_service_does_as_its_policy_says(block: int) -> None:
    check(range(block * 80, (block + 1) * 80))


@pytest.mark.soak
@pytest.mark.parametrize("block", range(4, 100))
def test_whatever_happens_for_long_a_service_does_as_its_policy_says(block: int) -> None:
    check(range(block * 500, (block + 1) * 500))


def test_a_seed_of_services_gives_the_same_log_each_time() -> None:
    for seed in range(10):
        assert play_services(draw_services(seed), seed) == play_services(draw_services(seed), seed), f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(150, 270), pytest.param(range(600), marks=pytest.mark.slow)], ids=len)
def test_scenarios_of_services_have_something_of_everything(seeds: range) -> None:
    """Each kind of event, of end and of answer occurs among these numbers: otherwise nothing would test it."""
    seen: set[tuple[str, object]] = set()
    for seed in seeds:
        seen |= happenings(play_services(draw_services(seed), seed))
    kinds = ("started", "running", "ended", "restart_scheduled", "gave_up", "stopped")
    told = {("told", kind) for kind in kinds}
    blocks = ("returned", "Mishap", "cancelled", "ServiceGaveUpError", "ClosedResourceError", "DuplicateKeyError")
    starts = ("LaunchError", "PreparationError", "StartupCancelledError", "StartupFailedError", "StartupTimeoutError")
    left = {("left", name) for name in (*blocks, *starts)}
    reasons = ("stopped", "completed", "failed", "timed_out", "replaced", "backend_unloaded")
    ends = {("end", reason) for reason in reasons}
    over = ("ClosedResourceError", "ServiceGaveUpError")
    got = {("call", name) for name in (*over, "answered", "CallTimeoutError", "ProcessLostError")}
    got |= {(what, name) for what in ("restart", "wait") for name in over} | {("restart", "cancelled")}
    got |= {("restart", "returned"), ("wait", "got"), ("stop", "returned"), ("stop process", "returned")}
    got |= {("probe", "returned"), ("probe", "DuplicateKeyError"), ("replace", "returned"), ("die", "returned")}
    assert (told | left | ends | got) - seen == set()


def happenings(log: Log) -> set[tuple[str, object]]:
    asked = {line.number: str(line.detail) for line in log.entries if line.what == "asked"}
    seen: set[tuple[str, object]] = set()
    for line in log.entries:
        match line.what, line.detail:
            case "told", Told():
                seen.add(("told", line.detail.kind))
            case "left", Final():
                seen.add(("left", line.detail.outcome[0]))
            case "event", (_, reason):
                seen.add(("end", reason))
            case "outcome", (name, *_):
                seen.add((asked[line.number], name))
            case _:
                pass
    return seen


# ---- what was found


def test_a_block_waits_for_a_process_that_somebody_is_stopping_while_it_starts() -> None:
    """The process of a start that somebody had called off was left behind when the block was left meanwhile."""
    never_ready = Part(plan=(), at_stop=(Moment(0.75, (Act("exit"),)),))
    plan = ServicePlan(
        at=0.0, block=Block(2.0), lives=(Life(Part(plan=(READY, Moment(1.0, (Act("exit", 3),))))), Life(never_ready))
    )
    stop = Ask(at=1.75, what="stop process", service=0)
    scenario = ServicesScenario((plan,), (stop,))
    assert complaints_about_services(scenario, 1) == []
    lines = [line for line in play_services(scenario, 1).entries if line.what == "left"]
    assert [line.at for line in lines] == [2.5]


READY = Moment(0.0, (Act("ready"),))
