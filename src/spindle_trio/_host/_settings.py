"""The settings of a host, as its workers use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import attrs
import trio

from spindle_trio._model import Containment, Limits
from spindle_trio.abc import Launcher


@attrs.frozen
class HostSettings:
    """What a host was opened with."""

    launcher: Launcher
    grace_period: float
    max_processes: int
    limits: Limits
    environment: Mapping[str, str]
    new_process_id: Callable[[], str]
    wall_time: Callable[[float], datetime]
    require_containment: Containment | None = None
    replace_grace: float | None = None
    """Seconds that a process which is replaced has to end; `None` for its own grace period."""
    allow: frozenset[str] = frozenset()
    """Which surroundings of its processes a worker at the far end of a channel may set."""


def wall_time_from(reading: datetime) -> Callable[[float], datetime]:
    """Make what turns times on Trio's clock into wall time: one reading, and monotonic differences from then on."""
    origin = trio.current_time()

    def wall_time(at: float) -> datetime:
        return reading + timedelta(seconds=at - origin)

    return wall_time
