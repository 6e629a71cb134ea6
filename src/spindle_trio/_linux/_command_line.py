"""Sets the command line that `ps` shows for this process.

A forked process has its parent's command line. The kernel shows the memory that holds the program's arguments, so this
module overwrites that memory. Unlike a new place for them (`PR_SET_MM`), this takes no privilege and no system call.
The old place limits the length.
"""

from __future__ import annotations

import _ctypes
import os

TYPE_CHECKING = False

_START, _END = 45, 46
"""The fields of `/proc/PID/stat` with its bounds, counted after the program's name."""


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]  # as in `_syscalls`
    _type_ = "c"


_found: list[memoryview[int]] = []  # a fork server finds it once for all its processes


def find_command_line() -> None:
    """Find the memory, for this program and all that it forks. Does nothing if there is none."""
    try:
        fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            words = os.read(fd, 4096).rpartition(b")")[2].split()
        finally:
            os.close(fd)
        start, end = int(words[_START]), int(words[_END])
    except (OSError, ValueError, IndexError):
        return
    if not 0 < start < end:
        return

    class Area(_ctypes.Array[_Byte] if TYPE_CHECKING else _ctypes.Array):  # type: ignore[misc]
        _type_ = _Byte
        _length_ = end - start

    _found[:] = [memoryview(Area.from_address(start)).cast("B")]


def show_command_line(entry: str, process_id: str) -> None:
    """Show this command line, if the memory was found. An entry that is too long loses its beginning.

    Args:
        entry: what this process runs.
        process_id: the host's id for it.
    """
    for area in _found:
        last = f" {process_id}".encode(errors="replace")
        room = len(area) - 1 - len(last)  # without a zero at the end, the kernel reads on
        first = entry.encode(errors="replace")
        text = (first if len(first) <= room else first[len(first) - max(0, room) :]) + last
        area[:] = text[: len(area) - 1].ljust(len(area), b"\0")
