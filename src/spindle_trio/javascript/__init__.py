"""The runtime of JavaScript entries, and where it lies. It is data: the host loads nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["RUNTIME", "TYPES"]

RUNTIME: Final = Path(__file__).with_name("main.mjs")
"""The program inside a JavaScript process."""

TYPES: Final = Path(__file__).with_name("spindle-trio.d.ts")
"""What an entry may call, for editors and type checkers."""
