"""Which launcher runs the entries where the caller names none."""

from __future__ import annotations

import sys

from spindle_trio.abc import Launcher
from spindle_trio.launchers import ForkServerLauncher, PythonLauncher


def default_launcher() -> Launcher:
    """Make the launcher of a host that was opened without one: a fork server on Linux, fresh interpreters elsewhere."""
    return ForkServerLauncher() if sys.platform == "linux" else PythonLauncher()
