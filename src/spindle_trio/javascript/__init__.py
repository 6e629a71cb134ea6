"""The runtime of JavaScript entries: data that the host only knows the path of."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["OLDEST_NODE", "RUNTIME", "TYPES"]

OLDEST_NODE: Final = (20, 19)
"""The oldest version of Node that runs entries. The runtime refuses to run them under an older one."""

RUNTIME: Final = Path(__file__).with_name("main.mjs")
"""The program inside a JavaScript process."""

TYPES: Final = Path(__file__).with_name("spindle-trio.d.ts")
"""What an entry may call, for editors and type checkers."""
