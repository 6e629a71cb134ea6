"""Dying with the parent: the kernel is asked to kill this process when the thread that started it ends.

The signal is asked for by the child itself, after its `exec`. Should the parent have died before that, nothing would
come any more; so afterwards the child looks whether its parent is still the one that it was told of.
"""

from __future__ import annotations

import os
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_SIGKILL = 9


def die_with_parent(parent: int) -> None:
    """Make sure that this process ends when its parent does; if that has ended already, end at once.

    Args:
        parent: the process id of the program that has started this one.

    Raises:
        OSError: the kernel refused.
    """
    if sys.platform == "linux" and _prctl(_PR_SET_PDEATHSIG, _SIGKILL) != 0:
        raise OSError("the kernel refuses to set a parent-death signal (prctl)")
    if os.getppid() != parent:
        os._exit(1)


def name_process(name: str) -> None:
    """Give this process a name for lists of processes, of which the kernel keeps 15 bytes; a fork has its parent's."""
    if sys.platform == "linux":
        _prctl(_PR_SET_NAME, name.encode(errors="replace") + b"\0")


def _prctl(option: int, argument: int | bytes) -> int:
    # `ctypes` would cost three milliseconds of imports for one call; this is the part of it that makes the call.
    import _ctypes

    global _address  # noqa: PLW0603  # a fork server finds it once for all its processes
    if _address is None:
        program = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # `None` is the program itself, as for dlopen(3)
        _address = _ctypes.dlsym(program, "prctl")
    return int(_ctypes.call_function(_address, (option, argument, 0, 0, 0)))


_address: int | None = None
