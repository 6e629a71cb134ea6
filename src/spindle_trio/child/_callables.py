"""Tells whether calling something gives a coroutine or a generator, without loading `inspect`."""

from __future__ import annotations

import sys

GENERATOR = 0x20  # `inspect.CO_GENERATOR`
COROUTINE = 0x80  # `inspect.CO_COROUTINE`
ASYNC_GENERATOR = 0x200  # `inspect.CO_ASYNC_GENERATOR`


def is_coroutine_function(function: object) -> bool:
    """Whether calling this gives a coroutine: as `inspect.iscoroutinefunction`, and through callable objects too.

    Importing `inspect` would take a blocking entry longer than all its other imports.
    """
    return bool(code_flags(function) & COROUTINE)


def code_flags(function: object) -> int:
    """Return the flags of the code that calling this runs, as in `inspect`: they tell what the call gives."""
    while True:
        if _is_marked(function):
            return COROUTINE
        inner = getattr(function, "func" if _is_partial(function) else "__func__", None)
        if inner is None:
            break
        function = inner
    code = getattr(function, "__code__", None)
    if code is None and not isinstance(function, type):
        code = getattr(getattr(type(function), "__call__", None), "__code__", None)  # noqa: B004  # its code is wanted
    flags: int = getattr(code, "co_flags", 0)
    return flags


def refuse_coroutine(value: object) -> None:
    """Refuse what a plain function has returned if nobody will await it.

    Raises:
        TypeError: the value would have to be awaited.
    """
    if hasattr(value, "__await__"):
        close = getattr(value, "close", None)
        if callable(close):
            close()  # nobody will await it, and that is said here, not by a warning
        raise TypeError("a plain function returned an awaitable; make it `async def`, or do not await in it")


def _is_marked(function: object) -> bool:
    """Whether `inspect.markcoroutinefunction` (Python 3.12) has been used on it."""
    inspect = sys.modules.get("inspect")
    is_marked = getattr(inspect, "_has_coroutine_mark", None)
    return is_marked is not None and bool(is_marked(function))


def _is_partial(function: object) -> bool:
    functools = sys.modules.get("functools")
    return functools is not None and isinstance(function, functools.partial)
