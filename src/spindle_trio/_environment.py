"""The default environment of real processes: a short list of this program's variables."""

from __future__ import annotations

import os
from typing import Final

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
    """Take the default environment of processes from this program's environment."""
    return {name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("LC_")}
