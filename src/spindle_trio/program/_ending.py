"""What the end of a program means for its process, in words."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from spindle_trio.abc import ExitStatus


class Ending(NamedTuple):
    """What the shim says last. `error` is `None` unless it is a failure."""

    word: str
    """``completed``, ``failed`` or ``stopped``."""
    error: str | None = None
    code: int = 0
    """The exit code of the shim: the program's, or as shells have it 128 and more for a signal."""


def judge(status: int, *, is_ready: bool, stopped_by: int | None, error_number: int | None) -> Ending:
    """Say what an end means.

    Args:
        status: from `os.waitpid`.
        is_ready: whether the program was ready by then.
        stopped_by: the signal that has told it to stop; `None` if it was not told.
        error_number: the `ERRNO` that it has sent last.
    """
    signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = None if signal is not None else os.WEXITSTATUS(status)
    if code == 0:
        if is_ready or stopped_by is not None:
            return Ending("completed" if is_ready else "stopped")
        return Ending(
            "failed",
            "exited with code 0 before it was ready; if it has left a daemon behind, start it with its option to stay "
            "in the foreground",
            code=1,
        )
    shell_code = 128 + signal if signal is not None else code or 1
    if stopped_by is not None and shell_code == 128 + stopped_by:
        return Ending("stopped")
    error = str(ExitStatus(code=code, signal=signal))
    if error_number is not None:
        error += f" (ERRNO={error_number}: {name_of_errno(error_number)})"
    return Ending("failed", error, code=shell_code)


def name_of_errno(number: int) -> str:
    """Describe an error number as the system does, with its name."""
    name = errno.errorcode.get(number)
    return os.strerror(number) if name is None else f"{name}, {os.strerror(number)}"
