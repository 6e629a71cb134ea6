"""Compares two revisions: takes turns between them, and evaluates the pairs of samples."""

from __future__ import annotations

import argparse
import compileall
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs

from bench import turns
from bench.measuring import Role, quantile
from bench.rows import BY_NAME

RUN = Path(__file__).resolve().parents[1] / "run.py"
ROOT = RUN.parents[1]


@attrs.frozen
class Pairs:
    """The samples of one label at two revisions, in the order of measurement."""

    label: str
    unit: str
    a: list[float]
    b: list[float]

    @property
    def ratios(self) -> list[float]:
        """B's sample over A's, pair by pair; a sample of 0 has no ratio."""
        return [b / a for a, b in zip(self.a, self.b, strict=False) if a]

    def __str__(self) -> str:
        ratios = self.ratios
        figures = f"{statistics.median(self.a):10.4g} {statistics.median(self.b):10.4g} {self.unit:10}"
        if not ratios:
            return f"{figures} {'':24} {self.label}"
        shown = f"{statistics.median(ratios):6.3f}  {quantile(ratios, 0.1):6.3f}…{quantile(ratios, 0.9):6.3f}"
        return f"{figures} {shown:24} {self.label} ({len(ratios)} pairs)"


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, and return the exit status: 0 if all rows could be measured at both revisions."""
    parser = argparse.ArgumentParser(
        prog="compare.py",
        description="Compare two revisions, sample by sample, in one run: medians, and B over A with p10 and p90.",
        epilog=f"rows: {', '.join(BY_NAME)}",
    )
    parser.add_argument("a", metavar="REV_A", help="what is compared with: a revision, or a folder with a checkout")
    parser.add_argument("b", metavar="REV_B", help="what is compared")
    parser.add_argument("rows", nargs="+", metavar="ROW", choices=list(BY_NAME), help="what is measured")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--samples", type=int, metavar="N", help="so many small samples: to see that a row works")
    options = parser.parse_args(arguments)
    how = ["--quick"] * options.quick + (["--samples", str(options.samples)] if options.samples else [])
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        try:
            sources = [
                checkout(revision, Path(folder, side)) for revision, side in ((options.a, "a"), (options.b, "b"))
            ]
        except subprocess.CalledProcessError as error:
            print(f"compare.py: {error.stderr.decode().strip()}", file=sys.stderr)
            return 2
        print(f"A: {options.a}   B: {options.b}   PYTHONDONTWRITEBYTECODE={os.environ.get('PYTHONDONTWRITEBYTECODE')}")
        print(f"{'A':>10} {'B':>10} {'':10} {'B / A    p10 … p90':24}")
        for row in options.rows:
            print(row, flush=True)
            for line in compare(row, sources, how, Path(folder)):
                failed |= not isinstance(line, Pairs)
                print(line, flush=True)
    return 1 if failed else 0


def checkout(revision: str, folder: Path) -> Path:
    """Lay out the package as of a revision, compiled, and return the folder to import it from."""
    if Path(revision, "src", "spindle_trio").is_dir():
        return Path(revision, "src").resolve()
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", "--format=tar", revision, "src"], capture_output=True, check=True
    )
    folder.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    compileall.compile_dir(folder, quiet=2)
    return folder / "src"


def compare(row: str, sources: list[Path], how: list[str], folder: Path) -> Iterator[Pairs | str]:
    """Measure one row at both revisions, in turns; return text if one of them could not be measured."""
    results = [folder / f"{side}.json" for side in "ab"]
    with measured(row, sources[0], how, results[0]) as a, measured(row, sources[1], how, results[1]) as b:
        take_turns(a, b)
    series = []
    for side, result in zip("AB", results, strict=True):
        if not result.exists():
            yield f"{side}: ended without a result; type: PYTHONPATH=… python benchmarks/run.py {row}"
            return
        outcome = json.loads(result.read_text(encoding="utf-8"))
        result.unlink()
        if outcome["failure"]:
            yield f"{side}: {outcome['failure']}"
        series.append({s["label"]: s for s in outcome["series"] if s["role"] == Role.OURS})
    for label, of_a in series[0].items():
        if label in series[1]:
            yield Pairs(label, of_a["unit"], of_a["samples"], series[1][label]["samples"])


@contextmanager
def measured(row: str, source: Path, how: list[str], result: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that measures one row of the package in a folder, and takes turns."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, str(RUN), "--in-turns", *how, "--json", str(result), row]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def take_turns(a: subprocess.Popen[bytes], b: subprocess.Popen[bytes]) -> None:
    """Let each run while the other waits, until both have ended. The first one changes from turn to turn."""
    going = [process for process in (a, b) if _waits(process)]
    while going:
        going = [process for process in reversed(going) if _goes_on(process)]


def _goes_on(process: subprocess.Popen[bytes]) -> bool:
    _pipe(process.stdin).write(turns.GO)
    _pipe(process.stdin).flush()
    return _waits(process)


def _waits(process: subprocess.Popen[bytes]) -> bool:
    """Wait until a process waits for its turn; return false if it has ended instead."""
    if _pipe(process.stdout).read(1) == turns.WAITING:
        return True
    process.wait()
    return False


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "both pipes were asked for"
    return pipe
