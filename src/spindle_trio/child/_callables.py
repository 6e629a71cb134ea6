"""Tells whether calling something gives a coroutine, without loading `inspect`."""

from __future__ import annotations

import sys


def is_coroutine_function(function: object) -> bool:
    """Whether calling this gives a coroutine: as `inspect.iscoroutinefunction`, and through callable objects too.

    Importing `inspect` would take a blocking entry longer than all its other imports.
    """
    while True:
        if _is_marked(function):
            return True
        inner = getattr(function, "func" if _is_partial(function) else "__func__", None)
        if inner is None:
            break
        function = inner
    code = getattr(function, "__code__", None)
    if code is None and not isinstance(function, type):
        code = getattr(getattr(type(function), "__call__", None), "__code__", None)  # noqa: B004  # its code is wanted
    return bool(getattr(code, "co_flags", 0) & _CO_COROUTINE)


_CO_COROUTINE = 0x80  # `inspect.CO_COROUTINE`


def _is_marked(function: object) -> bool:
    """Whether `inspect.markcoroutinefunction` (Python 3.12) has been used on it."""
    inspect = sys.modules.get("inspect")
    is_marked = getattr(inspect, "_has_coroutine_mark", None)
    return is_marked is not None and bool(is_marked(function))


def _is_partial(function: object) -> bool:
    functools = sys.modules.get("functools")
    return functools is not None and isinstance(function, functools.partial)
