"""What a process in memory says that it uses, and which limit that is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import attrs

from spindle_trio._model._resource_limits import limit_text
from spindle_trio._model._usage import Usage

if TYPE_CHECKING:
    from spindle_trio._model._resource_limits import ResourceLimits


_Number = TypeVar("_Number", int, float)


@attrs.define(eq=False)
class Meter:
    """The figures of one process."""

    usage: Usage = Usage()
    """The present ones."""
    peaks: Usage = Usage()
    """The highest so far."""
    limit_hit: str | None = None
    """The first limit that it went over."""

    def read(
        self, limits: ResourceLimits | None, memory: int | None, pids: int | None, processor_seconds: float | None
    ) -> bool:
        """Take in new figures, `None` for those that are as before; say whether they are over a limit."""
        now = self.usage
        self.usage = now = Usage(
            now.memory if memory is None else memory,
            now.pids if pids is None else pids,
            now.processor_seconds if processor_seconds is None else processor_seconds,
        )
        peaks = self.peaks
        self.peaks = Usage(
            _higher(peaks.memory, now.memory),
            _higher(peaks.pids, now.pids),
            _higher(peaks.processor_seconds, now.processor_seconds),
        )
        if limits is None or self.limit_hit is not None:
            return False
        figures: tuple[tuple[str, float | None, float | None], ...] = (
            ("memory", now.memory, limits.memory),
            ("pids", now.pids, limits.pids),
            ("cpu_seconds", now.processor_seconds, limits.cpu_seconds),
        )
        for name, used, bound in figures:
            if used is not None and bound is not None and used > bound:
                self.limit_hit = limit_text(name, used, bound)
                return True
        return False


def _higher(one: _Number | None, other: _Number | None) -> _Number | None:
    return other if one is None else one if other is None else max(one, other)
