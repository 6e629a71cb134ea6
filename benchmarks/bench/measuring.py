"""Measures contenders in turns.

The other programs on a machine, the temperature of its processor and the state of its caches change from second to
second. So contenders are measured in the same run and in turns: one sample of ours, one of each peer, one of each
floor, and again, each turn in another order. The comparison is of medians; `p10` and `p90` show how reliable they are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from enum import StrEnum
from types import TracebackType
from typing import Self, TypeVar

import attrs
import trio

from bench import turns

_T = TypeVar("_T")


class Role(StrEnum):
    """The role of a contender."""

    OURS = "ours"
    PEER = "peer"
    """What a user would pick instead."""
    FLOOR = "floor"
    """The least that the operating system, the interpreter or Trio demands."""


class NotHereError(Exception):
    """Something cannot be measured on this machine; says what is missing, in one line."""


@attrs.frozen
class Settings:
    """How much to measure."""

    quick: bool = False
    """Whether all rows together must take at most five minutes."""
    samples: int | None = None
    """How many samples to take instead of a row's own number. One or two show that a row works."""

    def rounds(self, full: int, quick: int) -> int:
        """Return how many samples a row takes of each contender."""
        return self.samples or (quick if self.quick else full)

    def amount(self, full: int, tiny: int) -> int:
        """Return the size of one sample (messages, processes, calls); tiny if only a few samples are wanted."""
        return full if self.samples is None else tiny


@attrs.frozen
class Series:
    """The samples of one contender."""

    label: str
    role: Role
    unit: str
    samples: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def quantile(self, q: float) -> float:
        """Return the value below which the share `q` of the samples lies."""
        return quantile(self.samples, q)


def quantile(samples: list[float], q: float) -> float:
    """Return the value below which the share `q` of the samples lies."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


@attrs.define
class Measurement:
    """The results of measuring a row."""

    series: dict[str, Series] = attrs.field(factory=dict)
    """By label."""
    missing: dict[str, str] = attrs.field(factory=dict)
    """Which contenders could not be measured, by label, and why."""
    notes: list[str] = attrs.field(factory=list)
    """Further notes for a reader."""

    def add(self, label: str, role: Role, unit: str, samples: list[float]) -> None:
        """Add the samples of one contender."""
        self.series[label] = Series(label, role, unit, samples)

    def add_better(self, label: str, *of: str) -> None:
        """Add the contender with the highest median of those already added, under a label of its own."""
        best = max((self.series[name] for name in of), key=lambda series: series.median)
        self.series[label] = attrs.evolve(best, label=label)


Sampler = Callable[[], Awaitable[float]]
"""Takes one sample."""
Opening = Callable[[], AbstractAsyncContextManager[Sampler]]
"""Opens what a sampler needs; raises `NotHereError` if that is not installed."""


class Race:
    """Contenders that are measured in turns; to be used as a block, which keeps their set-ups open.

    async with Race("ms", rounds=40) as race:
        race.add(Role.OURS, "spawn", spawn)
        await race.enter(Role.PEER, "multiprocessing", peers.multiprocessing_spawn)
        return await race.run()
    """

    def __init__(self, unit: str, rounds: int, *, warm_up: int = 2) -> None:
        """Prepare.

        Args:
            unit: of all samples.
            rounds: how many samples to take of each.
            warm_up: how many samples to take of each before that, and to drop; no more than `rounds`.
        """
        self._unit = unit
        self._rounds = rounds
        self._warm_up = min(warm_up, rounds)
        self._contenders: dict[str, tuple[Role, Sampler]] = {}
        self._stack = AsyncExitStack()
        self.measurement = Measurement()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    def add(self, role: Role, label: str, sample: Sampler) -> None:
        """Add one that needs no set-up."""
        if turns.are_taken() and role is Role.PEER:
            return
        self._contenders[label] = (role, sample)

    async def enter(self, role: Role, label: str, opening: Opening) -> None:
        """Add one and set it up; one that is not installed is noted as missing. Two revisions have no peers."""
        if turns.are_taken() and role is Role.PEER:
            return
        try:
            self.add(role, label, await self._stack.enter_async_context(opening()))
        except NotHereError as error:
            self.measurement.missing[label] = str(error)

    async def open(self, block: AbstractAsyncContextManager[_T]) -> _T:
        """Enter a block that contenders need, and leave it with the race."""
        return await self._stack.enter_async_context(block)

    def open_sync(self, block: AbstractContextManager[_T]) -> _T:
        """Enter a block that is not `async`, and leave it with the race."""
        return self._stack.enter_context(block)

    async def run(self) -> Measurement:
        """Let them take turns."""
        names = list(self._contenders)
        samples: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(-self._warm_up, self._rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                # Leftovers of the previous one (an end, a refill) get a moment to finish.
                await trio.sleep(0.001)
                await turns.wait()
                figure = await self._contenders[name][1]()
                if turn >= 0:
                    samples[name].append(figure)
        for name, (role, _) in self._contenders.items():
            self.measurement.add(name, role, self._unit, samples[name])
        return self.measurement
