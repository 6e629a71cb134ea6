"""The benchmarks run: they are no tests, and nobody would notice else that they have stopped working."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RUN = ROOT / "benchmarks" / "run.py"


COMPARE = ROOT / "benchmarks" / "compare.py"


def run(*arguments: str | Path, program: Path = RUN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, program, *arguments], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )


def test_the_help_lists_the_rows() -> None:
    shown = run("--help")
    assert shown.returncode == 0, shown.stderr
    assert "spawn-warm" in shown.stdout
    assert "cycles" in shown.stdout


def test_an_unknown_row_is_refused_in_one_line_that_lists_the_rows() -> None:
    shown = run("--quick", "spawn-lukewarm")
    assert shown.returncode == 2
    assert not shown.stdout
    (line,) = shown.stderr.splitlines()
    assert "'spawn-lukewarm'" in line
    assert "spawn-warm, spawn-forked" in line


def test_rows_are_measured_and_judged_whether_their_peers_are_installed_or_not(tmp_path: Path) -> None:
    """Two samples say nothing about speed, but that a row works with this version of the library."""
    figures = tmp_path / "figures.json"
    shown = run("--samples", "2", "--json", figures, "round-trip", "heartbeat")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "raw socket echo" in shown.stdout
    document = json.loads(figures.read_text(encoding="utf-8"))
    assert list(document["rows"]) == ["round-trip", "heartbeat"]
    for row in document["rows"].values():
        assert row["failure"] is None
        assert {series["samples"] for series in row["series"]} >= {2}
        assert row["rules"]
    peers = {"trio-parallel, warm call", "trio-parallel, warm call, on one core"}
    measured = {series["label"] for series in document["rows"]["round-trip"]["series"]}
    missing = document["rows"]["round-trip"]["missing"]
    assert peers <= measured or set(missing) == peers
    assert all("pip install trio-parallel" in why for why in missing.values())


@pytest.mark.quick(1)
@pytest.mark.parametrize("rows", [["call", "stream"], ["call-rate-waiting", "call-hung"]], ids=" ".join)
def test_the_rows_about_calls_run(tmp_path: Path, rows: list[str]) -> None:
    figures = tmp_path / "figures.json"
    shown = run("--samples", "1", "--json", figures, *rows)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    measured = json.loads(figures.read_text(encoding="utf-8"))["rows"]
    assert {name: row["failure"] for name, row in measured.items()} == dict.fromkeys(rows)


def test_two_checkouts_are_compared_sample_by_sample() -> None:
    shown = run("--samples", "2", ROOT, ROOT, "heartbeat", program=COMPARE)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "B / A" in shown.stdout
    assert "(2 pairs)" in shown.stdout


def test_an_unknown_revision_is_refused_in_gits_words() -> None:
    shown = run("no-such-revision", ROOT, "heartbeat", program=COMPARE)
    assert shown.returncode == 2
    assert "no-such-revision" in shown.stderr
