"""The quick suite shows each promise, and something of each file about the library."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def collected(*arguments: str) -> str:
    """List the tests that a selection has, a line each."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", *arguments, "tests"],
        capture_output=True, text=True, check=True, timeout=100, cwd=ROOT,
    ).stdout  # fmt: skip


def files_of(*arguments: str) -> set[str]:
    """Name the files whose tests a selection has."""
    return set(re.findall(r"^(tests/\S+\.py)::", collected(*arguments), re.MULTILINE))


def test_each_test_that_the_page_of_reliability_names_is_in_the_quick_suite(request: pytest.FixtureRequest) -> None:
    page = (ROOT / "notes" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 100
    is_quick = request.config.option.markexpr == request.config.getini("addopts")[-1]
    here = {item.name.partition("[")[0] for item in request.session.items} if is_quick else set()
    if not named <= here:  # this is a run of some tests, or of more than the quick suite has
        assert named - set(re.findall(r"::(test_\w+)", collected())) == set()


@pytest.mark.slow
def test_each_file_about_the_library_has_quick_tests() -> None:
    """Files that are slow as a whole check pages, examples and the tests' own tools, and not the library.

    But for random pools: tests/contract/test_pools.py shows each of their rules quickly.
    """
    quick, slow = (files_of(*arguments) for arguments in ([], ["-m", "slow"]))
    assert slow - quick == {
        "tests/collaboration/test_pools_at_random.py",
        "tests/examples/test_examples.py",
        "tests/project/test_benchmarks.py",
        "tests/project/test_entries_page.py",
        "tests/project/test_skips.py",
        "tests/project/test_snippets.py",
        "tests/reliability/test_repeat.py",
    }
