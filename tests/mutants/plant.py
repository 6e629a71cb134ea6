"""Plant each fault of `table.py` in a copy of the project, one at a time, and name the test that catches it.

    python tests/mutants/plant.py              # all of them: a few minutes
    python tests/mutants/plant.py overtakes    # those whose names contain this
    python tests/mutants/plant.py --list

First the tests of all rows have to pass on the copy as it is, since what fails anyway catches nothing. The exit status
is 1 if they do not, if a mutant survives, if its tests hang or cannot be run, or if its fragment is not there once.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
PACKAGE = Path("src", "spindle_trio")
PATIENCE_SECONDS = 120
"""How long the tests of one row may take. A test that a fault hangs tells nobody what is wrong."""

SOME_FAILED = 1
"""Pytest's exit status for that; others say that tests could not be run."""


def main(arguments: list[str]) -> int:
    """Plant what is asked for, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="plant.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="plant only what has one of these in its name or file")
    parser.add_argument("--list", action="store_true", help="show the faults, and plant none")
    options = parser.parse_args(arguments)
    chosen = [
        mutant
        for mutant in MUTANTS
        if not options.words or any(word in f"{mutant.file} {mutant.name}" for word in options.words)
    ]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.file}: {mutant.name}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_project(Path(folder))
        caught = [mutant for mutant in chosen if is_caught(mutant, copy)] if is_sound(chosen, copy) else []
    print(f"{len(caught)} of {len(chosen)} mutants were caught")
    return 0 if chosen and caught == chosen else 1


def copy_project(folder: Path) -> Path:
    """Copy what the tests need, and nothing that was built."""
    copy = folder / "project"
    skip = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "dist", "build")
    shutil.copytree(ROOT, copy, ignore=skip)
    return copy


def is_sound(mutants: Sequence[Mutant], copy: Path) -> bool:
    """Make sure that every row tells something: its fragment is there, and its tests pass without the fault."""
    is_sound = True
    for mutant in mutants:
        times = (copy / PACKAGE / mutant.file).read_text(encoding="utf-8").count(mutant.fragment)
        if times != 1:
            print(f"NOT ONCE   {mutant.name}: {mutant.file} has its fragment {times} times")
            is_sound = False
    status, seconds, text = run_tests(copy, sorted({test for mutant in mutants for test in mutant.tests}))
    if status != 0:
        print(f"NOT SOUND  without any fault:\n{text[-4_000:]}")
        return False
    print(f"sound      without any fault all tests pass, in {seconds:.1f} s", flush=True)
    return is_sound


def is_caught(mutant: Mutant, copy: Path) -> bool:
    """Plant one fault, run its tests, take the fault away again, and say how it went."""
    path = copy / PACKAGE / mutant.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(sound.replace(mutant.fragment, mutant.replacement), encoding="utf-8")
    try:
        status, seconds, text = run_tests(copy, mutant.tests)
    finally:
        path.write_text(sound, encoding="utf-8")
    culprit = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    if status == SOME_FAILED and culprit is not None:
        print(f"caught     {mutant.name} ({mutant.file}), in {seconds:.1f} s by\n           {culprit[1]}", flush=True)
        return True
    how = {0: "SURVIVED ", None: "HANGS    "}.get(status, "NOT RUN  ")
    print(f"{how}  {mutant.name} ({mutant.file}): {' '.join(mutant.tests)}\n{text[-2_000:]}", flush=True)
    return False


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int | None, float, str]:
    """Run tests of the copy until one fails; return the exit status (`None` if they hang), seconds, and the output."""
    arguments = [str(Path("tests", test)) for test in tests]
    options = ["-n0", "-q", "-x", "-rfE", "--tb=line", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    began = perf_counter()
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                command,
                cwd=copy,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
            status: int | None = done.returncode
        except subprocess.TimeoutExpired:
            status = None
        output.seek(0)
        return status, perf_counter() - began, output.read().decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
