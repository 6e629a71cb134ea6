"""Tools for testing what is built on spindle_trio: hosts, workers and entries in virtual time, and launchers."""

from __future__ import annotations

from spindle_trio.testing._memory_lane import MemoryLane, memory_lane_pair
from spindle_trio.testing._memory_launcher import MemoryEntry, MemoryLauncher
from spindle_trio.testing._recorder import EventRecorder
from spindle_trio.testing._scripted import ScriptedChild

__all__ = ["EventRecorder", "MemoryEntry", "MemoryLane", "MemoryLauncher", "ScriptedChild", "memory_lane_pair"]
