"""Which launcher runs the entries where the caller names none."""

from __future__ import annotations

from spindle_trio.abc import Launcher
from spindle_trio.launchers import PythonLauncher


def default_launcher() -> Launcher:
    """Make the launcher of a host that was opened without one: a fresh interpreter for each Python entry."""
    return PythonLauncher()
