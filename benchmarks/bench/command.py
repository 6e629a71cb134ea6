"""The command line: which rows to measure, and where the figures go."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

import attrs
import trio

from bench import turns
from bench.measuring import NotHereError, Settings
from bench.report import Outcome, describe_machine, outcome_text, samples_to_json, table, to_json
from bench.rows import BY_NAME, PLOTTED, ROWS, Row


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return the exit status: 0 if everything could be measured, whatever the figures."""
    options = _parser().parse_args(arguments)
    unknown = [name for name in options.names if name not in BY_NAME]
    if unknown:
        print(f"run.py: there is no row {unknown[0]!r}; there are: {', '.join(BY_NAME)}", file=sys.stderr)
        return 2
    settings = Settings(quick=options.quick, samples=options.samples)
    if options.in_turns:
        turns.begin()
        options.json.write_text(samples_to_json(_measure(BY_NAME[options.names[0]], settings)), encoding="utf-8")
        return 0
    machine = describe_machine()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), end="\n\n", flush=True)
    outcomes = []
    for row in _selected(options.names, with_plots=options.plots is not None):
        outcomes.append(_measure(row, settings))
        print(outcome_text(outcomes[-1]), end="\n\n", flush=True)
    print(table(outcomes), flush=True)
    if options.json is not None:
        options.json.write_text(to_json(outcomes, machine, settings), encoding="utf-8")
    failed = any(outcome.failure is not None for outcome in outcomes)
    if options.plots is not None:
        failed |= not _draw(outcomes, options.plots)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, BY_NAME))
    names = "\n".join(f"  {row.name:{width}}  {row.what}{'' if row.by_default else ' (only by name)'}" for row in ROWS)
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Measure what spindle_trio costs, in turns with its peers and with the floors under it.",
        epilog=f"rows:\n{names}\n\nThe peers are installed by: pip install 'spindle-trio[bench]'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a row to measure; by default those of the table")
    parser.add_argument("--quick", action="store_true", help="fewer samples: the whole table in under five minutes")
    parser.add_argument("--samples", type=_positive, metavar="N", help="so many small samples: to see that a row works")
    parser.add_argument("--in-turns", action="store_true", help=argparse.SUPPRESS)  # only for compare.py
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write machine, versions and figures to FILE")
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="DIR",
        help="also draw PNG files into DIR; without a NAME the scaling rows are measured for them as well",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _selected(names: list[str], *, with_plots: bool) -> list[Row]:
    if names:
        return [BY_NAME[name] for name in names]
    return [row for row in ROWS if row.by_default or (with_plots and row.name in PLOTTED)]


def _measure(row: Row, settings: Settings) -> Outcome:
    """Measure one row in a Trio run of its own. Report errors, so that the other rows still run."""
    began = perf_counter()
    outcome = Outcome(row)
    try:
        outcome = attrs.evolve(outcome, measured=trio.run(row.measure, settings))
    except Exception as error:
        outcome = attrs.evolve(outcome, failure=_one_line(error))
    return attrs.evolve(outcome, seconds=perf_counter() - began)


def _one_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".replace("\n", " | ")


def _draw(outcomes: list[Outcome], folder: Path) -> bool:
    from bench.plots import draw

    try:
        drawn = draw(outcomes, folder)
    except NotHereError as error:
        print(f"run.py: no plots: matplotlib is {error}", file=sys.stderr)
        return False
    print("\n".join(f"drawn: {path}" for path in drawn) or "none of these rows is in a plot")
    return True
