"""A spare reads the code of entries that were launched lately, before it knows which one it will run.

Nothing of it is run but the library's own. A launch still opens the file, and uses the code only if the opened
file is the one that was read (`child/_entry.py`). A file that has just been written is not read ahead: the clock that
stamps files advances in steps of some milliseconds, and within one step two versions look alike.
"""

from __future__ import annotations

import os
import warnings
from time import time_ns

from spindle_trio.child._entry import AHEAD, identity_of, read_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType

SETTLED_NS = 100_000_000
"""Nanoseconds for which a file must have been left alone: several steps of the clock that stamps files."""

SETTLED_COARSELY_NS = 2_000_000_000
"""The same on a file system that may keep whole seconds only, or every other one."""

MOST_SOURCE = 16 * 1024
"""Bytes of a source that a spare compiles ahead: it may get an order for another entry meanwhile, which has to wait.

A compiled file is read ahead at any length, since that is quick.
"""

_SHIM = os.path.realpath(f"{os.path.dirname(__file__)}/../program/entry.py")
"""The entry of every command, which is the library's own: a spare loads all that it needs."""

_NAMES = ("default", "run")
_CO_COROUTINE = 0x80  # `inspect.CO_COROUTINE`


def read_ahead(paths: Iterable[str]) -> None:
    """Read the code of entries, as far as that works; a launch reports what does not.

    Args:
        paths: of their files, as in orders.
    """
    for path in paths:
        if path == _SHIM:
            import spindle_trio.program.entry  # noqa: F401  # for what it loads
        began_at = time_ns()
        try:
            with warnings.catch_warnings():  # else they would appear among the output of whatever this process runs
                warnings.simplefilter("error")
                status, code = read_code(path, most_source=MOST_SOURCE)
        except Exception:  # noqa: S112  # the launch says what is wrong
            continue
        changed_at = max(status.st_mtime_ns, status.st_ctime_ns)
        if changed_at + (SETTLED_NS if changed_at % 1_000_000_000 else SETTLED_COARSELY_NS) < began_at:
            AHEAD[path] = identity_of(status), code


def expects_trio(path: str | None) -> bool:
    """Whether a spare should have Trio running for this entry: unless its code was read, and shows a plain function."""
    ahead = None if path is None else AHEAD.get(path)
    return ahead is None or _looks_async(ahead[1])


def _looks_async(code: CodeType) -> bool:
    return any(
        isinstance(constant, type(code)) and constant.co_name in _NAMES and constant.co_flags & _CO_COROUTINE
        for constant in code.co_consts
    )
