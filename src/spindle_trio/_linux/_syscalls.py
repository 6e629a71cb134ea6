"""Calls to the C library that Python lacks, or lacks in some supported version.

`ctypes` would take three milliseconds to import, and stay in the memory of every process that is forked off a server.
This is the part of it that makes a call.
"""

from __future__ import annotations

import _ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
"""New namespaces, of mounts and of pids."""


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # which it does not take at run time
    _type_ = "i"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


_found: dict[str, _Function] = {}  # a fork server fills it once for all its processes


def call(name: str, *arguments: int | bytes) -> None:
    """Call a function of the C library that returns 0, or -1 for an error.

    Args:
        name: the function's.
        arguments: each an `int` of C, or the address of some bytes.

    Raises:
        OSError: it has failed, or there is no such function here.
    """
    function = _found.get(name)
    if function is None:
        function = _found[name] = _Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), name))  # type: ignore[arg-type]
    if function(*arguments) != 0:
        number = _ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # as above
    _type_ = "l"


class _LongFunction(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Long


_found_long: dict[str, _LongFunction] = {}


def system_call(number: int, *arguments: int | bytes) -> int:
    """Make a system call for which the C library has no function, and return what it returns.

    Args:
        number: the call's.
        arguments: each an `int`, or the address of some bytes.

    Raises:
        OSError: it has failed.
    """
    function = _found_long.get("syscall")
    if function is None:
        address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "syscall")  # type: ignore[arg-type]  # as above
        function = _found_long["syscall"] = _LongFunction(address)
    values = [_Long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = function(_Long(number), *values)
    if result < 0:
        error = _ctypes.get_errno()
        raise OSError(error, f"system call {number}: {os.strerror(error)}")
    return int(result)


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]  # as above
    _type_ = "B"


_kinds: dict[int, type] = {}  # to make one takes as long as several calls


def copy_in_memory(data: bytes) -> tuple[int, memoryview]:
    """Copy some bytes to where a system call finds and changes them.

    Returns:
        The address, and the copy, which has to live until then.
    """
    kind = _kinds.get(len(data))
    if kind is None:
        kind = _kinds[len(data)] = type("_Buffer", (_ctypes.Array,), {"_type_": _Byte, "_length_": len(data)})
    copy = kind.from_buffer_copy(data)  # type: ignore[attr-defined]  # a class made here
    return _ctypes.addressof(copy), memoryview(copy)
