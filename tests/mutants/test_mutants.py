"""The table of mutants: it speaks of the code as it is, and every fault in it is caught."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_each_fault_can_be_planted_and_its_tests_exist(mutant: Mutant) -> None:
    source = (ROOT / "src" / "spindle_trio" / mutant.file).read_text(encoding="utf-8")
    assert source.count(mutant.fragment) == 1
    compile(source.replace(mutant.fragment, mutant.replacement), mutant.file, "exec")
    for test in mutant.tests:
        file, _, name = test.partition("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {name.partition('[')[0]}(" in text if name else text


def test_no_two_faults_have_the_same_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 24


@pytest.mark.slow
def test_the_script_plants_a_fault_and_names_the_test_that_catches_it() -> None:
    script = Path(__file__).with_name("plant.py")
    done = subprocess.run(
        [sys.executable, script, "the replacement that came last"],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_replacements_take_over_in_the_order_in_which_they_came" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 of 1 mutants were caught"


@pytest.mark.soak
def test_every_mutant_is_caught() -> None:
    script = Path(__file__).with_name("plant.py")
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
