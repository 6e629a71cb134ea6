"""Systems that refuse a call: filters for a program and all that it starts, written through `ctypes` alone."""

from __future__ import annotations

import errno
import platform

NUMBERS = {
    "x86_64": {
        "close_range": 436,
        "memfd_create": 319,
        "mount": 165,
        "pidfd_open": 434,
        "pidfd_send_signal": 424,
        "unshare": 272,
        "waitid": 247,
    },
    "aarch64": {
        "close_range": 436,
        "memfd_create": 279,
        "mount": 40,
        "pidfd_open": 434,
        "pidfd_send_signal": 424,
        "unshare": 97,
        "waitid": 95,
    },
}

ERRORS = {"ENOSYS": errno.ENOSYS, "EPERM": errno.EPERM}
"""How a kernel answers that has no such call, and how many a filter does."""

_TYPES = """
class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint)]
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction))]
"""

_FILTER = """
instructions = (Instruction * 4)(
    Instruction(0x20, 0, 0, 0),               # load the number of the call
    Instruction(0x15, 0, 1, {number}),        # if it is that one,
    Instruction(0x06, 0, 0, 0x50000 | {error}),  # it fails with that error,
    Instruction(0x06, 0, 0, 0x7FFF0000),      # and else it is let through
)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Program(4, instructions)), 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
"""


def refusing(call: str, error: int) -> str:
    """Write what has every later use of a system call fail with an error; for `run_program(before=)`."""
    return _TYPES + _FILTER.format(number=NUMBERS[platform.machine()][call], error=error)


_CLONE_FILTER = """
instructions = (Instruction * 6)(
    Instruction(0x20, 0, 0, 0),               # load the number of the call
    Instruction(0x15, 0, 3, 56),              # if it is `clone`,
    Instruction(0x20, 0, 0, 16),              # load its flags;
    Instruction(0x45, 0, 1, 0x20000000),      # with a new PID namespace
    Instruction(0x06, 0, 0, 0x50000 | {error}),  # it fails with that error,
    Instruction(0x06, 0, 0, 0x7FFF0000),      # and else it is let through
)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Program(6, instructions)), 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
"""


def refusing_namespaces_of_clones() -> str:
    """As `refusing`, for a `clone` into a new PID namespace; for x86_64."""
    return _TYPES + _CLONE_FILTER.format(error=errno.EPERM)
