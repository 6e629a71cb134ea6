"""Tools for tests of code on spindle_trio: hosts, workers and entries in virtual time, and launchers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spindle_trio.testing._check_launcher import check_launcher
from spindle_trio.testing._memory_entry import MemoryEntry
from spindle_trio.testing._memory_lane import MemoryLane, memory_lane_pair
from spindle_trio.testing._memory_launcher import MemoryLauncher
from spindle_trio.testing._recorder import EventRecorder
from spindle_trio.testing._scripted import ScriptedChild
from spindle_trio.testing.entries.check_entry import run as check_entry

if TYPE_CHECKING:
    from spindle_trio.testing._scripted_program import CommandScript, ScriptedProgram

__all__ = [
    "CommandScript",
    "EventRecorder",
    "MemoryEntry",
    "MemoryLane",
    "MemoryLauncher",
    "ScriptedChild",
    "ScriptedProgram",
    "check_entry",
    "check_launcher",
    "memory_lane_pair",
]


def __getattr__(name: str) -> object:
    """Load what plays programs when it is first asked for: it needs a part of what a shim is made of."""
    if name in {"CommandScript", "ScriptedProgram"}:
        from spindle_trio.testing import _scripted_program

        return getattr(_scripted_program, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
