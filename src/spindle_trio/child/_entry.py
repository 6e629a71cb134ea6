"""Loads an entry file and finds the function in it to call.

The host has checked where the file is. Before it is loaded, a folder above it may become a link to somewhere else. So
this module opens the file once, asks the system where the opened file is, and reads it from the descriptor. It checks
the compiled file in `__pycache__` in the same way.
"""

from __future__ import annotations

import os
import sys

# The same as in `importlib.machinery`, from a module that every interpreter has loaded: saves half a millisecond.
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import SourceFileLoader
from time import time_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType

    from _typeshed import ReadableBuffer

    Identity = tuple[int, int, int, int, int]

AHEAD: dict[str, tuple[Identity, CodeType]] = {}
"""By path, the code of entries that a spare has read ahead, and which version of the file it is."""

_NAMES = ("default", "run")

_ATTEMPTS = 3
"""How often to open a file that is elsewhere: one that is being replaced counts as deleted for a moment."""

_KIND, _REGULAR = 0o170000, 0o100000  # avoids loading `stat` for their names

_READ_BYTES = 64 * 1024

_SETTLED_NS = 2_000_000_000
"""Nanoseconds that a compiled file must be younger than the last change of its source."""


class EntryFileError(Exception):
    """The file is not where it was when it was checked, or has nothing in it to call."""


def load_entry(path: str, code: CodeType) -> Callable[[object], object]:
    """Run an entry file as a module, named by the file's stem, and return its `default` if callable, else its `run`.

    A module with neither may have `calls` instead, a mapping of names to functions.

    Args:
        path: an absolute path of a ``.py`` file, without links in it.
        code: the file's, by `read_code`.

    Raises:
        EntryFileError: neither name is callable, and `calls` is not there or no such mapping.
        BaseException: whatever running the file raises.
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
    exec(code, module.__dict__)  # noqa: S102  # what every loader does
    for candidate in _NAMES:
        function: object = getattr(module, candidate, None)
        if callable(function):
            if _takes_nothing(function):
                raise EntryFileError(
                    f"{path}: an entry's {candidate} takes the process's context; write: def {candidate}(process)"
                )
            return function
    calls: object = getattr(module, "calls", None)
    if calls is not None:
        from spindle_trio.child._calls import entry_of

        try:
            return entry_of(calls, path)  # type: ignore[return-value]  # it is called with a context, as any entry
        except ValueError as error:
            raise EntryFileError(str(error)) from None
    raise EntryFileError(
        f"{path} defines neither a callable 'run' nor a callable 'default'; "
        'write: def run(process), or: calls = {"name": function}'
    )


def _takes_nothing(function: object) -> bool:
    """Whether a plain function has no place for an argument."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_argcount == 0 and not code.co_flags & _CO_VARARGS


_CO_VARARGS = 0x04  # `inspect.CO_VARARGS`


class _CheckedLoader(SourceFileLoader):
    """Reads an open file, and the compiled file that belongs to it."""

    def __init__(self, name: str, path: str, fd: int, status: os.stat_result, most_source: int | None) -> None:
        super().__init__(name, path)
        self._fd = fd
        self._status = status
        self._most_source = most_source
        self._is_settled = status.st_ctime_ns + _SETTLED_NS < time_ns()

    def path_stats(self, path: str) -> dict[str, float]:
        """Return the data that shows whether the compiled file belongs to the source."""
        return {"mtime": self._status.st_mtime, "size": self._status.st_size}

    def get_data(self, path: str) -> bytes:
        """Read one of the two.

        Raises:
            OSError: there is no compiled file, or it is elsewhere. Then the source is compiled.
            EntryFileError: the source is too long for that.
        """
        if path == self.path:
            if self._most_source is not None and self._status.st_size > self._most_source:
                raise EntryFileError(f"{path} is not compiled yet, and long")
            return _read(self._fd)
        # A prefix is a folder that the user has chosen, wherever it is.
        fd = _open_checked(path) if sys.pycache_prefix is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_mtime_ns < self._status.st_ctime_ns + _SETTLED_NS:
                raise OSError(
                    "the source may have changed since: a compiled file notes its time in seconds, and its size"
                )
            return _read(fd)
        finally:
            os.close(fd)

    def set_data(self, path: str, data: ReadableBuffer, *, _mode: int = 0o666) -> None:
        """Write the compiled file, unless the source may change again within the second that the compiled file notes.

        This process may stand still before it writes. Then the compiled file of an older source would look young.
        """
        if self._is_settled:
            super().set_data(path, data, _mode=_mode)


def read_code(path: str, *, most_source: int | None = None) -> tuple[os.stat_result, CodeType]:
    """Read the code of an entry, or take what was read ahead; returns it with the status of the file.

    Args:
        path: as for `load_entry`.
        most_source: how many bytes of source to compile at most; `None` for any number.

    Raises:
        EntryFileError: the path has links in it by now, or there is more to compile.
        BaseException: whatever reading or compiling the file raises.
    """
    fd = -1
    try:
        fd = _open_checked(path)
        status = os.fstat(fd)
        ahead = AHEAD.get(path)
        if ahead is not None and ahead[0] == identity_of(status):
            return status, ahead[1]
        name = path.rpartition("/")[2].removesuffix(".py")
        code = _CheckedLoader(name, path, fd, status, most_source).get_code(name)
        assert code is not None, "a source file has code"
        return status, code
    except _MovedError as moved:
        raise EntryFileError(f"{path} was replaced by {moved} after it was checked") from None
    finally:
        if fd >= 0:
            os.close(fd)


def identity_of(status: os.stat_result) -> Identity:
    """Return what tells a file, and this version of it, from all others."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class _MovedError(OSError):
    """A file was replaced by something else; says by what."""


def _open_checked(path: str) -> int:
    """Open a file if it really lies there, and not behind a link."""
    for _ in range(_ATTEMPTS):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a pipe would wait for ever
        try:
            if os.fstat(fd).st_mode & _KIND != _REGULAR:
                raise _MovedError("what is no regular file")
            if os.readlink(f"/proc/self/fd/{fd}") == path:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise _MovedError("a link to elsewhere")


def _read(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, _READ_BYTES):
        parts.append(part)
    return b"".join(parts)


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
