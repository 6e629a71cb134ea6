"""The rights of root that a process in a sandbox keeps: those that matter to its own files and children."""

from __future__ import annotations

import os

from spindle_trio._linux._syscalls import system_call

_CAPSET = {"x86_64": 126, "aarch64": 91}
_VERSION = 0x20080522

_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _KILL, _SETGID, _SETUID, _NET_BIND_SERVICE = 0, 1, 3, 4, 5, 6, 7, 10
_KEPT = (_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _KILL, _SETGID, _SETUID, _NET_BIND_SERVICE)


def drop_capabilities() -> None:
    """Give up all rights of root but a few. Where `forbid_new_privileges` holds, no program brings them back.

    Raises:
        OSError: the kernel refuses.
    """
    with open("/proc/self/status", "rb") as file:
        (held,) = (int(line.split()[1], 16) for line in file if line.startswith(b"CapPrm:"))
    kept = held & sum(1 << number for number in _KEPT)
    if kept == held:
        return  # an ordinary user has none
    header = _VERSION.to_bytes(4, "little") + bytes(4)
    low = kept.to_bytes(4, "little")  # all that are kept are in the lower half
    system_call(_CAPSET[os.uname().machine], header, low + low + bytes(4) + bytes(12))
