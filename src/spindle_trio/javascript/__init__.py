"""The runtime of JavaScript entries, and `connectWorker` for other programs: data that Python only has the paths of."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["OLDEST_NODE", "RUNTIME", "TYPES", "WORKER"]

OLDEST_NODE: Final = (20, 19)
"""The oldest version of Node that runs entries. The runtime refuses to run them under an older one."""

RUNTIME: Final = Path(__file__).with_name("main.mjs")
"""The program inside a JavaScript process."""

TYPES: Final = Path(__file__).with_name("spindle-trio.d.ts")
"""What an entry may call, for editors and type checkers."""

WORKER: Final = Path(__file__).with_name("worker.mjs")
"""`connectWorker`, for the backend of an extension in Node or Bun. Its folder is an npm package, ``spindle-trio``."""
