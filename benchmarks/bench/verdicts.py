"""Rules: the targets for figures, and whether they are met."""

from __future__ import annotations

from typing import Literal

import attrs

from bench.measuring import Measurement, Series

Statistic = Literal["median", "p99", "max"]

MET, NEARLY, MISSED, UNKNOWN = "met", "within 1.5x", "missed", "not measured"
"""Verdicts, from best to worst; "not measured" counts last."""
VERDICTS = (MET, NEARLY, MISSED, UNKNOWN)


@attrs.frozen
class Judgement:
    """The outcome of one rule."""

    subject: str
    """The label of the figures."""
    figure: str
    """The figure with its unit."""
    text: str
    """The comparison with another's figure; empty for a bare bound."""
    asked: str
    """The target."""
    verdict: str


@attrs.frozen
class Rule:
    """One bound on one contender's figures: a number, or a multiple of another contender's median."""

    label: str
    factor: float
    other: str | None = None
    at_least: bool = False
    inverse_word: str | None = None
    """The last word of a target like "at least 3 times faster". The bound is then `other / factor`."""
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
    """Demand that a figure is no higher than a number."""
    return Rule(label, bound, statistic=statistic)


def at_least(label: str, bound: float) -> Rule:
    """Demand that a median is no lower than a number."""
    return Rule(label, bound, at_least=True)


def at_most_times(label: str, factor: float, other: str) -> Rule:
    """Demand that a median is at most a multiple of another's."""
    return Rule(label, factor, other)


def at_least_times(label: str, factor: float, other: str) -> Rule:
    """Demand that a median is at least a multiple of another's."""
    return Rule(label, factor, other, at_least=True)


def times_faster(label: str, factor: float, other: str) -> Rule:
    """Demand that a median time is shorter than another's by a factor."""
    return Rule(label, factor, other, inverse_word="faster")


def times_smaller(label: str, factor: float, other: str) -> Rule:
    """Demand that a median size is smaller than another's by a factor."""
    return Rule(label, factor, other, inverse_word="smaller")


def worst(verdicts: list[str]) -> str:
    """Return the verdict of a row from those of its rules. Rules with a missing peer decide only if all are such."""
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
    """Write a number with a sensible count of digits."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
