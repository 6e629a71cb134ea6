"""Run the tests again and again: in memory under many orders of Trio's scheduler, or the whole suite.

    python tests/reliability/repeat.py seeds 1 200             # the in-memory tests, once under each seed
    python tests/reliability/repeat.py suite 20                # all ordinary tests, so many times
    python tests/reliability/repeat.py seeds 1 500 -- tests/collaboration/test_scripted.py  # others: anything
                                                               # that pytest takes
    SPINDLE_SCHEDULER_SEED=17 pytest tests/collaboration       # what a failure has named, again

Prints a line for each run and one for all of them; the exit status is 1 if a run has failed. Two runs in memory go on
at once, unless `--jobs` says otherwise, and one of the whole suite, since its deadlines are real.

The in-memory tests are those of `tests/collaboration` and the memory half of `tests/contract`. Three files are left
out, to whose tests the scheduler means nothing: one measures how costs grow, two start programs of their own.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import trio

ROOT = Path(__file__).parents[2]

IN_MEMORY = [
    "-n0",
    *("tests/collaboration", "tests/contract", "-k", "memory or collaboration"),
    *("--ignore=tests/collaboration/test_many_processes.py", "--ignore=tests/collaboration/test_pytest_plugin.py"),
    "--ignore=tests/contract/test_ctrl_c.py",
]
PATIENCE_SECONDS = 1_800
"""How long one run may take: it is of hangs that this speaks, not of slow machines."""


@attrs.frozen
class Run:
    """One run of pytest."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = attrs.Factory(dict)


def main(arguments: list[str]) -> int:
    """Run what is asked for, and return the exit status."""
    others: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, others = arguments[:cut], arguments[cut + 1 :]
    parser = argparse.ArgumentParser(
        prog="repeat.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    seeds = kinds.add_parser("seeds", help="the in-memory tests under each seed from FIRST to LAST")
    seeds.add_argument("first", type=int, metavar="FIRST")
    seeds.add_argument("last", type=int, metavar="LAST")
    seeds.add_argument("--jobs", type=int, default=2, metavar="N", help="how many runs at once (%(default)s)")
    suite = kinds.add_parser("suite", help="all ordinary tests, COUNT times")
    suite.add_argument("count", type=int, metavar="COUNT")
    suite.add_argument("--jobs", type=int, default=1, metavar="N", help="how many runs at once (%(default)s)")
    options = parser.parse_args(arguments)
    if options.kind == "seeds":
        runs = [
            Run(f"seed {seed}", others or IN_MEMORY, {"SPINDLE_SCHEDULER_SEED": str(seed)})
            for seed in range(options.first, options.last + 1)
        ]
    else:
        runs = [Run(f"run {number}", others) for number in range(1, options.count + 1)]
    failed = trio.run(carry_out, runs, options.jobs)
    print(f"{len(runs) - len(failed)} of {len(runs)} runs passed" + "".join(f"; {name} failed" for name in failed))
    return 1 if failed or not runs else 0


async def carry_out(runs: Sequence[Run], jobs: int) -> list[str]:
    """Carry out all runs, some at a time, and return the names of those that have failed."""
    failed: list[str] = []
    limiter = trio.CapacityLimiter(jobs)

    async def one(run: Run) -> None:
        async with limiter:
            if not await passes(run):
                failed.append(run.name)

    async with trio.open_nursery() as nursery:
        for run in runs:
            nursery.start_soon(one, run)
    return failed


async def passes(run: Run) -> bool:
    """Carry out one run, and print how it went."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rfE", "--tb=short", *run.arguments]
    began = trio.current_time()
    text, status = "", None
    with trio.move_on_after(PATIENCE_SECONDS):
        done = await trio.run_process(
            command,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=ROOT,
            env={**os.environ, **run.environment},
        )
        text, status = done.stdout.decode(errors="replace"), done.returncode
    if status is None:
        print(f"{run.name}: HANGS, for {PATIENCE_SECONDS} s", flush=True)
        return False
    took = f"{trio.current_time() - began:.0f} s"
    if status == 0:
        print(f"{run.name}: {re.sub(r' in .*', '', text.splitlines()[-1])} in {took}", flush=True)
        return True
    culprits = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE) or [f"exit status {status}"]
    again = " ".join(f"{name}={value}" for name, value in run.environment.items())
    print(f"{run.name}: FAILED in {took} ({again or 'no seed'}): {', '.join(culprits)}", flush=True)
    print(text[-4_000:], flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
