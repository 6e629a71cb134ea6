"""The quick suite shows each promise; slow tests only repeat one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def collected(*arguments: str) -> set[str]:
    """Name the test functions that a selection has."""
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", *arguments, "tests"],
        capture_output=True, text=True, check=True, timeout=100, cwd=ROOT,
    )  # fmt: skip
    return set(re.findall(r"::(test_\w+)", shown.stdout))


def test_each_test_that_the_page_of_reliability_names_is_in_the_quick_suite(request: pytest.FixtureRequest) -> None:
    page = (ROOT / "notes" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 100
    is_quick = request.config.option.markexpr == request.config.getini("addopts")[-1]
    here = {item.name.partition("[")[0] for item in request.session.items} if is_quick else set()
    if not named <= here:  # this is a run of some tests, or of more than the quick suite has
        assert named - collected() == set()


@pytest.mark.slow
def test_no_test_is_left_out_at_every_level_launcher_and_seed() -> None:
    """A slow test is a repetition: another one of the same function is in the quick suite, or its neighbours are."""
    assert collected("-m", "slow") - collected() == {
        "test_no_test_is_left_out_at_every_level_launcher_and_seed",
        # Random pools; tests/contract/test_pools.py shows each of their rules quickly.
        "test_whatever_happens_each_call_ends_once_and_no_process_has_two",
    }
