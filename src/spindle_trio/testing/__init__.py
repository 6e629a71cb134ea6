"""Tools for tests of code on spindle_trio: hosts, workers and entries in virtual time, and launchers."""

from __future__ import annotations

from spindle_trio.testing._check_launcher import check_launcher
from spindle_trio.testing._memory_entry import MemoryEntry
from spindle_trio.testing._memory_lane import MemoryLane, memory_lane_pair
from spindle_trio.testing._memory_launcher import MemoryLauncher
from spindle_trio.testing._recorder import EventRecorder
from spindle_trio.testing._scripted import ScriptedChild
from spindle_trio.testing.entries.check_entry import run as check_entry

__all__ = [
    "EventRecorder",
    "MemoryEntry",
    "MemoryLane",
    "MemoryLauncher",
    "ScriptedChild",
    "check_entry",
    "check_launcher",
    "memory_lane_pair",
]
