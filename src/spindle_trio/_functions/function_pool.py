"""The entry of a pool of functions: imports functions by name, and calls them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, cast

from spindle_trio._functions._pickled import find_function, from_pickle, pickled_error, to_pickle
from spindle_trio.child._exit_frames import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio._model import JsonValue
    from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    """Find modules as the caller does, and serve calls."""
    surroundings = cast("dict[str, list[str]]", process.payload)
    sys.path[:] = surroundings["path"]
    try:
        os.chdir(surroundings["folder"][0])
    except OSError:
        pass  # it is gone, or forbidden: a function that needs it will say so
    process.on_call("spindle_trio.run_sync", _call)
    process.ready()


def _call(payload: dict[str, JsonValue]) -> object:
    # `FunctionPool.run_sync` has written it, and looked that this is a function.
    function = cast("Callable[[object], object]", find_function(str(payload["module"]), str(payload["name"])))
    args, kwargs = cast("tuple[tuple[object], dict[str, object]]", from_pickle(payload))
    del payload
    try:
        value = function(*args, **kwargs)
    except Exception as error:
        pickled = pickled_error(error)
        if pickled is None:
            raise
        return {"error": pickled, "traceback": describe_error(error)}
    del args, kwargs
    try:
        return to_pickle(value)
    except Exception as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"the result, of type {kind}, cannot be pickled: {error}") from error
