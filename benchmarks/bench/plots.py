"""Draws what a table cannot show: the distribution of spawn latencies, and how costs grow with the number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bench import scaling
from bench.measuring import Role, Series
from bench.peers import installed
from bench.report import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPAWN_ROWS = ("spawn-warm", "spawn-forked", "spawn-exec")
LINES = {Role.OURS: "-", Role.PEER: "--", Role.FLOOR: ":"}


def draw(outcomes: Iterable[Outcome], folder: Path) -> list[Path]:
    """Draw the measurements of these rows, and return the files.

    Raises:
        NotHereError: matplotlib is not installed.
    """
    installed("matplotlib", "matplotlib").use("Agg")
    measured = {
        outcome.row.name: list(outcome.measured.series.values()) for outcome in outcomes if outcome.measured is not None
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    spawns = [series for row in SPAWN_ROWS for series in measured.get(row, [])]
    if spawns:
        drawn.append(_draw(folder / "spawn_latency.png", lambda axes: _distribution(axes, spawns)))
    if "scaling-real" in measured:
        real = measured["scaling-real"]
        drawn.append(_draw(folder / "scaling_real.png", lambda axes: _real_curves(axes, real)))
    if "scaling-memory" in measured:
        in_memory = measured["scaling-memory"]
        drawn.append(_draw(folder / "scaling_memory.png", lambda axes: _memory_curves(axes, in_memory)))
    return drawn


def _draw(path: Path, fill: Callable[[Axes], None]) -> Path:
    pyplot = installed("matplotlib.pyplot", "matplotlib")
    figure, axes = pyplot.subplots(figsize=(9, 6.5), layout="constrained")
    axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors[::2] + pyplot.get_cmap("tab20").colors[1::2])
    fill(axes)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.grid(visible=True, which="both", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    # Without metadata that differs between versions of matplotlib, so that the same figures give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _distribution(axes: Axes, spawns: list[Series]) -> None:
    """Draw which share of the samples took no longer than a given time."""
    seen = set()
    for series in spawns:
        if series.label in seen:
            continue  # a peer that two rows compare with
        seen.add(series.label)
        ordered = sorted(series.samples)
        shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
        axes.step(ordered, shares, LINES[series.role], where="post", label=f"{series.label} ({series.role})")
    axes.set_xscale("log", subs=[2, 3, 4, 5, 6, 7, 8, 9])
    axes.xaxis.set_major_locator(installed("matplotlib.ticker", "matplotlib").LogLocator(subs=(1, 2, 5)))
    axes.set_xlabel("ms from the call to a child that is ready")
    axes.set_ylabel("share of the samples")
    axes.set_title("Spawn latency")


def _real_curves(axes: Axes, measured: list[Series]) -> None:
    _curve(axes, measured, scaling.REAL_SPAWN, "spawn, one after another")
    _curve(axes, measured, scaling.REAL_KILL, "kill and reap, all at once")
    _label_curves(axes, "real processes", "ms for each of them")


def _memory_curves(axes: Axes, measured: list[Series]) -> None:
    _curve(axes, measured, scaling.MEMORY_OURS, "spawn in memory, one after another")
    _curve(axes, measured, scaling.MEMORY_FLOOR, "floor: nursery, 2 scopes, 2 channels")
    _label_curves(axes, "processes in memory", "µs for each of them")


def _curve(axes: Axes, measured: list[Series], prefix: str, label: str) -> None:
    points = [
        (int(series.label.removeprefix(prefix).replace(",", "")), series)
        for series in measured
        if series.label.startswith(prefix)
    ]
    counts = [count for count, _ in points]
    low, high = ([series.quantile(q) for _, series in points] for q in (0.1, 0.9))
    (line,) = axes.plot(counts, [series.median for _, series in points], "o-", label=label)
    axes.fill_between(counts, low, high, color=line.get_color(), alpha=0.15)


def _label_curves(axes: Axes, what: str, unit: str) -> None:
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"number of {what}")
    axes.set_ylabel(unit)
    axes.set_title(f"Scaling: {what}")
