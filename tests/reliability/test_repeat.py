"""The script that repeats tests: what it says of runs that pass and fail, and that a seed fixes the order of tasks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

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


def order_of_tasks(seed: str) -> str:
    shown = run("-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", SHOWS_ORDER, SPINDLE_SCHEDULER_SEED=seed)
    assert shown.returncode == 0, shown.stdout
    (order,) = re.findall(r"order: .*", shown.stdout)
    return str(order)


def test_a_seed_fixes_the_order_of_tasks_and_another_one_changes_it() -> None:
    with ThreadPoolExecutor() as pool:
        first, again, other = pool.map(order_of_tasks, "112")
    assert first == again != other


def test_runs_that_pass_and_runs_that_fail_are_told_with_their_seeds() -> None:
    passed = run("tests/reliability/repeat.py", "seeds", "3", "4", "--", SHOWS_ORDER)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert sorted(re.findall(r"^seed \d: 1 passed", passed.stdout, re.MULTILINE)) == [
        "seed 3: 1 passed",
        "seed 4: 1 passed",
    ]
    assert passed.stdout.splitlines()[-1] == "2 of 2 runs passed"
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
