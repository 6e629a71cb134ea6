"""The command `spindle-trio`: a client of the public API, and of nothing else."""

from __future__ import annotations

from spindle_trio.cli._main import main

__all__ = ["main"]
