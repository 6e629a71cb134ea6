"""The script that repeats tests: what it says of runs that pass and fail, and that a seed fixes the order of tasks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHOWS_ORDER = "tests/reliability/order_of_tasks.py"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_each_run_is_told_with_its_seed_which_fixes_the_order_of_tasks(tmp_path: Path) -> None:
    """The same in another interpreter, so that what a failure names can be had again; and not with another seed."""
    orders = tmp_path / "orders"
    passed = run("tests/reliability/repeat.py", "seeds", "1", "2", "--", SHOWS_ORDER, SPINDLE_ORDERS=str(orders))
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert sorted(re.findall(r"^seed \d: 1 passed", passed.stdout, re.MULTILINE)) == [
        "seed 1: 1 passed",
        "seed 2: 1 passed",
    ]
    assert passed.stdout.splitlines()[-1] == "2 of 2 runs passed"
    first, other = sorted(orders.read_text().splitlines())
    orders.unlink()
    options = ("-n0", "-q", "-p", "no:cacheprovider")
    again = run("-m", "pytest", *options, SHOWS_ORDER, SPINDLE_SCHEDULER_SEED="1", SPINDLE_ORDERS=str(orders))
    assert again.returncode == 0, again.stdout
    assert orders.read_text().splitlines() == [first]
    assert first.removeprefix("1: ") != other.removeprefix("2: ")


def test_a_run_that_fails_is_told() -> None:
    failed = run("tests/reliability/repeat.py", "suite", "1", "--", SHOWS_ORDER, "-k", "no_such_test")
    assert failed.returncode == 1
    assert "run 1: FAILED" in failed.stdout
    assert failed.stdout.splitlines()[-1] == "0 of 1 runs passed; run 1 failed"


@pytest.mark.soak
@pytest.mark.parametrize("arguments", [("seeds", "1", "200"), ("suite", "20")], ids=["seeds", "suite"])
def test_all_repeats_pass(arguments: tuple[str, ...]) -> None:
    script = Path(__file__).with_name("repeat.py")
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
