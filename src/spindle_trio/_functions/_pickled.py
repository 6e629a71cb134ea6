"""Values as pickles of protocol 5 whose buffers are apart, and functions as their names; for both ends."""

from __future__ import annotations

import pickle
import sys
from importlib import import_module
from types import MethodType
from typing import TYPE_CHECKING, cast

from spindle_trio._protocol._payload import LentBytes
from spindle_trio.child._callables import ASYNC_GENERATOR, COROUTINE, code_flags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spindle_trio._model import JsonValue


def to_pickle(value: object) -> dict[str, object]:
    """Pickle a value: the payload has the pickle as bytes, and the buffers of arrays and such beside it.

    The buffers are not copied: their owner leaves them alone until the payload has been sent.

    Raises:
        Exception: whatever pickling raises.
    """
    pickled, buffers = _dump(value)
    return {"pickle": pickled, "buffers": buffers}


def _dump(value: object) -> tuple[bytes, list[LentBytes]]:
    buffers: list[LentBytes] = []

    def take_apart(buffer: pickle.PickleBuffer) -> bool:
        try:
            buffers.append(LentBytes(buffer.raw()))
        except BufferError:
            return True  # it is not in one piece, and goes into the pickle
        return False

    return pickle.dumps(value, protocol=5, buffer_callback=take_apart), buffers


def from_pickle(payload: JsonValue) -> object:
    """Undo `to_pickle`; arrays share the memory of the buffers, which cannot be written to.

    Raises:
        Exception: whatever unpickling raises.
    """
    assert isinstance(payload, dict), "both ends are of this package"
    pickled, buffers = cast("bytes", payload["pickle"]), cast("list[bytes]", payload["buffers"])
    return pickle.loads(pickled, buffers=buffers)  # noqa: S301  # each end trusts the other


def name_function(function: object) -> tuple[str, str]:
    """Return the module and the qualified name of a function.

    Raises:
        TypeError: it cannot be found by these in another process; says what to do.
    """
    module: object = getattr(function, "__module__", None)
    name: object = getattr(function, "__qualname__", None)
    is_method = isinstance(function, MethodType) and not isinstance(function.__self__, type)
    if not callable(function) or not isinstance(module, str) or not isinstance(name, str):
        raise TypeError(
            f"run_sync() takes a function that a process can import by its name, and {function!r} has none; pass the "
            "function itself, and its arguments after it"
        )
    if module == "__main__":
        raise TypeError(
            f"{name!r} is defined in the main program, which no process imports; move it to a module of its own, and "
            "import it from there"
        )
    if "<" in name:
        what = "a lambda" if name.endswith("<lambda>") else "defined inside another function"
        raise TypeError(f"{name!r} is {what}, and no process can find it; define it by def at the top of its module")
    if code_flags(function) & (COROUTINE | ASYNC_GENERATOR):
        raise TypeError(
            f"{module}.{name} is async, and run_sync runs plain functions; define a plain one that runs it by trio.run"
        )
    if is_method:
        raise TypeError(f"{module}.{name} is a method of an object; pass a function, and the object as its argument")
    try:
        found = find_function(module, name)
    except Exception:  # whatever importing raises
        found = None
    if found != function:
        raise TypeError(
            f"{module}.{name} is not this function, or not there; define it by def at the top of its module"
        )
    return module, name


def find_function(module: str, name: str) -> object:
    """Import a function.

    Raises:
        Exception: it is not there, or whatever importing its module raises.
    """
    found: object = sys.modules.get(module) or import_module(module)
    for step in name.split("."):
        found = getattr(found, step)
    return found


def pickled_error(error: Exception) -> Mapping[str, object] | None:
    """Pickle an exception; `None` if it does not come back from that as one of its kind."""
    try:
        pickled, buffers = _dump(error)
        copy = pickle.loads(pickled, buffers=buffers)  # noqa: S301  # made right here
    except Exception:
        return None
    return {"pickle": pickled, "buffers": []} if type(copy) is type(error) and not buffers else None
