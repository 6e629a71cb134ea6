"""What a host is opened with, in the form in which its workers use it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import attrs
import trio

from spindle_trio._model import Limits
from spindle_trio.abc import Launcher

PASSED_ON: Final = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "TZ",
        "TMPDIR",
        "TERM",
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "PYTHONHASHSEED",
    ]
)
"""The host's environment variables that a process gets; and `LC_*`. What is not named is not leaked (contract)."""


def passed_on_environment() -> dict[str, str]:
    """Take from this program's environment what its processes get where nothing else was asked for."""
    return {name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("LC_")}


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


def wall_time_from(reading: datetime) -> Callable[[float], datetime]:
    """Make what turns times on Trio's clock into wall time: one reading, and monotonic differences from then on."""
    origin = trio.current_time()

    def wall_time(at: float) -> datetime:
        return reading + timedelta(seconds=at - origin)

    return wall_time
