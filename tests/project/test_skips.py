"""A skipped test says why."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
SKIPS_IN_A_NURSERY = """
import pytest, trio

@pytest.fixture
async def shelf():
    async with trio.open_nursery():
        pytest.skip("there is no shelf here")
        yield

async def test_in_the_test():
    async with trio.open_nursery():
        pytest.skip("there are no books here")

async def test_in_a_fixture(shelf):
    pass
"""


def test_a_skip_inside_a_nursery_keeps_its_reason(tmp_path: Path) -> None:
    (tmp_path / "test_library.py").write_text(SKIPS_IN_A_NURSERY, encoding="utf-8")
    options = ["-n0", "-rs", "-o", "trio_mode=true", "-p", "support.skips", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_library.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "2 skipped" in done.stdout, done.stdout
    assert "there are no books here" in done.stdout
    assert "there is no shelf here" in done.stdout


def calls_of_skip(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "pytest.skip",
            "pytest.mark.skip",
            "pytest.mark.skipif",
            "pytest.importorskip",
        }:
            yield node


def test_each_skip_gives_a_reason() -> None:
    for path in sorted(TESTS.rglob("*.py")):
        for call in calls_of_skip(ast.parse(path.read_text(encoding="utf-8"))):
            reasons = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
            if ast.unparse(call.func) == "pytest.skip":
                reasons += call.args[:1]
            assert reasons, f"{path.name}:{call.lineno} skips without a reason"
            assert not (isinstance(reasons[0], ast.Constant) and not reasons[0].value), f"{path.name}:{call.lineno}"
