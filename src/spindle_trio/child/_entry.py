"""Loads an entry file and finds the function in it that is to be called."""

from __future__ import annotations

import sys

# What `importlib.machinery` passes on, from where every interpreter has it loaded: half a millisecond less.
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_NAMES = ("default", "run")


class EntryFileError(Exception):
    """The file could be loaded, and has nothing in it to call."""


def load_entry(path: str) -> Callable[[object], object]:
    """Run an entry file as a module, named by the file's stem, and return its `default` if callable, else its `run`.

    Args:
        path: an absolute path of a ``.py`` file.

    Raises:
        EntryFileError: neither name is callable.
        BaseException: whatever reading, compiling or running the file raises.
    """
    name = path.rpartition("/")[2].removesuffix(".py")
    loader = SourceFileLoader(name, path)
    spec = ModuleSpec(name, loader, origin=path)
    spec.has_location = True
    module = _new_module(name, path, spec)
    # As for any module, so that what the entry defines can be pickled. A module that is loaded already keeps its name,
    # and so does any of the standard library: an entry called `types.py` must not take that away.
    if name in sys.stdlib_module_names and name not in sys.modules:
        _load_standard_module(name, hidden_by=path.rpartition("/")[0])
    sys.modules.setdefault(name, module)
    loader.exec_module(module)
    for candidate in _NAMES:
        function: object = getattr(module, candidate, None)
        if callable(function):
            return function
    raise EntryFileError(f"{path} defines neither a callable 'run' nor a callable 'default'; write: def run(process)")


def _load_standard_module(name: str, *, hidden_by: str) -> None:
    """Load a module of the standard library although there is another one of that name, in a folder on `sys.path`."""
    folders = sys.path[:]
    sys.path[:] = [folder for folder in folders if folder != hidden_by]
    try:
        __import__(name)
    except ImportError:
        pass  # not on every platform
    finally:
        sys.path[:] = folders


def _new_module(name: str, path: str, spec: ModuleSpec) -> ModuleType:
    module: ModuleType = type(sys)(name)
    module.__file__ = path
    module.__spec__ = spec
    module.__loader__ = spec.loader
    module.__package__ = ""
    return module
