"""Rules: what a target asks of the figures, and whether it is met."""

from __future__ import annotations

from typing import Literal

import attrs

from bench.measuring import Measurement, Series

Statistic = Literal["median", "p99", "max"]

MET, NEARLY, MISSED, UNKNOWN = "met", "within 1.5x", "missed", "not measured"
"""Verdicts, from best to worst; what was not measured counts last."""
VERDICTS = (MET, NEARLY, MISSED, UNKNOWN)


@attrs.frozen
class Judgement:
    """What became of one rule."""

    subject: str
    """Whose figures, and which: a label."""
    figure: str
    """The figure with its unit."""
    text: str
    """How it compares with another's; empty for a bare bound."""
    asked: str
    """What the target asks for."""
    verdict: str


@attrs.frozen
class Rule:
    """One bound on one contender's figures: a number, or a multiple of another contender's median."""

    label: str
    factor: float
    other: str | None = None
    at_least: bool = False
    inverse_word: str | None = None
    """Where the target reads "at least 3 times faster than": that word. The bound is then `other / factor`."""
    statistic: Statistic = "median"

    def judge(self, measured: Measurement) -> Judgement:
        """Compare."""
        asked = f"{'at least' if self.at_least or self.inverse_word else 'at most'} {number(self.factor)}"
        subject = self.label if self.statistic == "median" else f"{self.label}, {self.statistic}"
        ours, theirs = measured.series.get(self.label), measured.series.get(self.other or self.label)
        if ours is None:
            return Judgement(subject, UNKNOWN, "", asked, UNKNOWN)
        figure = _figure(ours, self.statistic)
        shown = f"{number(figure)} {ours.unit}"
        if theirs is None:
            return Judgement(subject, shown, f"not compared with {self.other}", asked, UNKNOWN)
        other = theirs.median
        bound, text = self.factor, ""
        if self.inverse_word is not None:
            bound = other / self.factor
            text = f"{number(other / figure)} x {self.inverse_word} than {self.other}"
        elif self.other is not None:
            bound = other * self.factor
            text = f"{number(figure / other)} x {self.other}"
        return Judgement(subject, shown, text, asked, _verdict(figure, bound, self.at_least))


def at_most(label: str, bound: float, *, statistic: Statistic = "median") -> Rule:
    """Ask that a figure is no higher than a number."""
    return Rule(label, bound, statistic=statistic)


def at_least(label: str, bound: float) -> Rule:
    """Ask that a median is no lower than a number."""
    return Rule(label, bound, at_least=True)


def at_most_times(label: str, factor: float, other: str) -> Rule:
    """Ask that a median is no higher than so many times another's."""
    return Rule(label, factor, other)


def at_least_times(label: str, factor: float, other: str) -> Rule:
    """Ask that a median is no lower than so many times another's."""
    return Rule(label, factor, other, at_least=True)


def times_faster(label: str, factor: float, other: str) -> Rule:
    """Ask that a median time is so many times shorter than another's."""
    return Rule(label, factor, other, inverse_word="faster")


def times_smaller(label: str, factor: float, other: str) -> Rule:
    """Ask that a median size is so many times smaller than another's."""
    return Rule(label, factor, other, inverse_word="smaller")


def worst(verdicts: list[str]) -> str:
    """Give the verdict of a row from those of its rules; a rule whose peer is missing decides only if all are so."""
    measured = [verdict for verdict in verdicts if verdict != UNKNOWN]
    return max(measured, key=VERDICTS.index, default=UNKNOWN)


def _figure(series: Series, statistic: Statistic) -> float:
    if statistic == "max":
        return max(series.samples)
    return series.median if statistic == "median" else series.quantile(0.99)


def _verdict(figure: float, bound: float, at_least: bool) -> str:
    if at_least:
        return MET if figure >= bound else NEARLY if figure * 1.5 >= bound else MISSED
    return MET if figure <= bound else NEARLY if figure <= bound * 1.5 else MISSED


def number(value: float) -> str:
    """Write a number with as many digits as it is worth."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
