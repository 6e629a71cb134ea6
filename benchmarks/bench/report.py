"""Figures for people and for programs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

import attrs

import spindle_trio
from bench.measuring import Measurement, Series, Settings
from bench.rows import Row
from bench.verdicts import UNKNOWN, Judgement, number, worst

PACKAGES = (
    "spindle-trio",
    "trio",
    "msgspec",
    "attrs",
    "cattrs",
    "trio-parallel",
    "pebble",
    "loky",
    "anyio",
    "matplotlib",
)


@attrs.frozen
class Outcome:
    """The outcome of one row."""

    row: Row
    measured: Measurement | None = None
    failure: str | None = None
    seconds: float = 0.0

    @property
    def judgements(self) -> list[Judgement]:
        """The outcomes of its rules; none if it was not measured."""
        return [] if self.measured is None else [rule.judge(self.measured) for rule in self.row.rules]

    @property
    def verdict(self) -> str:
        """The worst verdict of its rules, in a word or two."""
        verdicts = [judgement.verdict for judgement in self.judgements]
        if self.failure is not None:
            return "failed"
        if not verdicts:
            return "no target"
        verdict = worst(verdicts)
        return f"{verdict}, as far as measured" if UNKNOWN in verdicts and verdict != UNKNOWN else verdict


def outcome_text(outcome: Outcome) -> str:
    """Write one row out: every contender's figures, and every rule."""
    row = outcome.row
    lines = [f"{row.name}: {row.what}", f"  target: {row.target}"]
    if outcome.measured is None:
        return "\n".join([*lines, f"  failed: {outcome.failure}"])
    measured = outcome.measured
    width = max(map(len, [*measured.series, *measured.missing]), default=0)
    lines.append(f"  {'':{width + 7}}{'median':>12}{'p10':>12}{'p90':>12}   {'unit':<18} samples")
    lines += [f"  {_series_text(series, width)}" for series in measured.series.values()]
    lines += [f"  peer   {label:{width}}  {why}" for label, why in measured.missing.items()]
    lines += [f"  note: {note}" for note in measured.notes]
    lines += [f"  {judgement.verdict:<13} {_judged([judgement])}" for judgement in outcome.judgements]
    lines.append(f"  {outcome.verdict.upper()} ({outcome.seconds:.1f} s)")
    return "\n".join(lines)


def table(outcomes: list[Outcome]) -> str:
    """Write all rows as a table in Markdown, for notes/performance.md."""
    lines = ["| row | what | target | measured | verdict |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        row = outcome.row
        measured = _judged(outcome.judgements) if outcome.failure is None else outcome.failure
        lines.append(f"| {row.name} | {row.what} | {row.target} | {measured} | **{outcome.verdict}** |")
    return "\n".join(lines)


def _judged(judgements: list[Judgement]) -> str:
    """Write the outcomes of rules in a line, each subject and its figure once."""
    by_subject: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        by_subject.setdefault(judgement.subject, []).append(judgement)
    texts = []
    for subject, group in by_subject.items():
        compared = [f", {each.text} ({each.asked})" if each.text else f" ({each.asked})" for each in group]
        texts.append(f"{subject}: {group[0].figure}{''.join(compared)}")
    return "; ".join(texts)


def to_json(outcomes: list[Outcome], machine: dict[str, str], settings: Settings) -> str:
    """Write everything down: the machine, the versions, and a summary of each contender's samples."""
    document = {
        "machine": machine,
        "versions": versions(),
        "quick": settings.quick,
        "samples": settings.samples,
        "rows": {outcome.row.name: _row_object(outcome) for outcome in outcomes},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def samples_to_json(outcome: Outcome) -> str:
    """Write down every sample of one row, for a comparison of revisions."""
    series = [] if outcome.measured is None else [attrs.asdict(one) for one in outcome.measured.series.values()]
    return json.dumps({"failure": outcome.failure, "series": series})


def describe_machine() -> dict[str, str]:
    """Describe where the figures come from."""
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return {
        "measured at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores for this program",
        "load": f"{os.getloadavg()[0]:.2f} in the minute before",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, "
        f"{'with' if optimised else 'without'} profile-guided optimisation",
        "packages": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "bytecode": _bytecode(),
    }


def _bytecode() -> str:
    """Say whether a process finds compiled what it loads; else spawns compile it, which takes several times as long."""
    package = Path(spindle_trio.__file__).parent
    missing = [path for path in package.rglob("*.py") if not Path(importlib.util.cache_from_source(str(path))).exists()]
    if not missing:
        return "compiled"
    return f"missing for {len(missing)} modules, which makes spawns slow; first type: python -m compileall {package}"


def versions() -> dict[str, str]:
    """List the versions of the compared packages that are installed."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    node = shutil.which("node")
    if node is not None:
        shown = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
        found["node"] = shown.stdout.strip().lstrip("v")
    return found


def _series_text(series: Series, width: int) -> str:
    figures = [series.median, series.quantile(0.1), series.quantile(0.9)]
    shown = "".join(f"{number(figure):>12}" for figure in figures)
    return f"{series.role:<6} {series.label:{width}}{shown}   {series.unit:<18} {len(series.samples)}"


def _row_object(outcome: Outcome) -> dict[str, object]:
    measured = outcome.measured or Measurement()
    return {
        "what": outcome.row.what,
        "target": outcome.row.target,
        "verdict": outcome.verdict,
        "failure": outcome.failure,
        "seconds": round(outcome.seconds, 1),
        "rules": [attrs.asdict(judgement) for judgement in outcome.judgements],
        "series": [
            {
                "label": series.label,
                "role": series.role.value,
                "unit": series.unit,
                "samples": len(series.samples),
                "median": series.median,
                "p10": series.quantile(0.1),
                "p90": series.quantile(0.9),
                "p99": series.quantile(0.99),
                "min": min(series.samples),
                "max": max(series.samples),
            }
            for series in measured.series.values()
        ],
        "missing": measured.missing,
        "notes": measured.notes,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
