"""Random workers, children, faults and commands in virtual time, against the oracle of the contract.

Each number is one scenario: `drawing` draws it, `playing` plays it with a real host over a launcher whose processes
misbehave as drawn, and `oracle` says whether what happened is what the contract says. A failure names its number; this
replays it, line by line, and nothing else::

    PYTHONPATH=tests python -m simulation 1234

The ordinary run plays 2 000 of them, and ``pytest -m soak tests/simulation`` 200 000.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.drawing import draw
from simulation.playing import play
from simulation.stage import Log
from simulation.verdict import complaints_about, report

TESTS = Path(__file__).parents[1]


def check(seeds: range) -> None:
    for seed in seeds:
        shown = report(seed)
        assert shown is None, shown


@pytest.mark.quick(2)
@pytest.mark.parametrize("block", range(25))
def test_whatever_happens_the_host_keeps_its_contract(block: int) -> None:
    check(range(block * 80, (block + 1) * 80))


@pytest.mark.soak
@pytest.mark.parametrize("block", range(4, 400))
def test_whatever_happens_for_long_the_host_keeps_its_contract(block: int) -> None:
    check(range(block * 500, (block + 1) * 500))


def test_orders_that_differ_in_what_an_ended_process_was_like_are_told_apart() -> None:
    """Here a heartbeat and a stop come at one instant, and a later question about the process shows which was first."""
    assert not complaints_about(draw(56_240, extras=False), 56_240)


def test_a_seed_gives_the_same_log_each_time() -> None:
    for seed in range(20):
        scenario = draw(seed)
        first, second = play(scenario, seed), play(draw(seed), seed)
        assert first == second, f"seed {seed}"


@pytest.mark.slow
def test_a_replay_in_another_interpreter_gives_the_same_lines() -> None:
    """Addresses of objects and hashes of texts must not matter, or a failure could not be replayed."""
    shown = set()
    for hash_seed in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
            "PYTHONHASHSEED": hash_seed,
        }
        command = [sys.executable, "-m", "simulation", *map(str, range(12))]
        replay = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=100)
        shown.add(replay.stdout)
    assert len(shown) == 1
    assert shown.pop().count("This is as the contract says.") == 12


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(60, 160), pytest.param(range(300), marks=pytest.mark.slow)], ids=len)
def test_scenarios_have_something_of_everything(seeds: range) -> None:
    """Each answer and each end occurs among a hundred seeds: otherwise nothing would test it."""
    seen: set[tuple[str, object]] = set()
    for seed in seeds:
        scenario = draw(seed)
        log = play(scenario, seed)  # judged by `test_whatever_happens_the_host_keeps_its_contract`
        seen |= happenings(log, [type(command).__name__ for command in scenario.commands])
    closed = {(what, "ClosedResourceError") for what in ("Spawn", "Stop", "Send", "List", "Get")}
    cancelled = {(what, "cancelled") for what in ("Spawn", "Stop", "Send", "Get", "Wait")}
    access = {("Stop", "ProcessAccessError"), ("Send", "ProcessAccessError"), ("Send", "BrokenResourceError")}
    returned = {("Spawn", "returned"), ("Stop", "returned"), ("Send", "returned"), ("Get", "got"), ("List", "listed")}
    refused = {
        ("Spawn", name)
        for name in (
            "DuplicateKeyError",
            "EntryError",
            "KeyLostError",
            "LaunchError",
            "ProcessLimitError",
            "SpawnRefusedError",
            "StartupCancelledError",
            "StartupFailedError",
            "StartupTimeoutError",
            "UserRequiredError",
        )
    }
    errors = ("BrokenResourceError", "CallFailedError", "CallTimeoutError", "ClosedResourceError", "UnknownMethodError")
    calls = {("Call", name) for name in (*errors, "ProcessLostError", "answered", "cancelled")}
    calls |= {("Stream", name) for name in (*errors, "ProcessLostError", "ended", "left", "cancelled")}
    calls |= {("lost", True), ("lost", False), ("end", "went on for"), ("end", "broke the protocol")}
    reasons = ("stopped", "completed", "failed", "timed_out", "replaced", "backend_unloaded")
    ends = {("end", reason) for reason in reasons} | {("end", "abandoned")}
    calls |= {("WaitIdle", name) for name in ("idle", "no handle")}
    calls |= {("ReleaseKey", "returned")}
    missing = (closed | cancelled | access | returned | refused | calls | ends) - seen
    assert not missing


def happenings(log: Log, commands: list[str]) -> set[tuple[str, object]]:
    outcomes = {
        (commands[entry.number], entry.detail[0])
        for entry in log.entries
        if entry.what == "outcome" and isinstance(entry.detail, tuple)
    }
    ends = [entry.detail for entry in log.entries if entry.what == "event" and entry.detail.exit_reason is not None]
    texts = ("abandoned", "went on for", "broke the protocol")
    shown = {("end", text) for seen in ends for text in texts if text in (seen.error or "")}
    lost = {
        ("lost", entry.detail[1])
        for entry in log.entries
        if entry.what == "outcome" and isinstance(entry.detail, tuple) and entry.detail[0] == "ProcessLostError"
    }
    return outcomes | {("end", str(seen.exit_reason)) for seen in ends} | shown | lost
