"""The rights of root that a process in a sandbox keeps: those that matter to its own files and children."""

from __future__ import annotations

import os

from spindle_trio._linux._syscalls import copy_in_memory, system_call

_CALLS = {"x86_64": (125, 126), "aarch64": (90, 91)}
"""`capget` and `capset`. Each takes three sets (effective, permitted, inheritable), in a lower and an upper half."""
_HEADER = (0x20080522).to_bytes(4, "little") + bytes(4)
"""The version of the interface, and this process."""

_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _KILL, _SETGID, _SETUID, _NET_BIND_SERVICE = 0, 1, 3, 4, 5, 6, 7, 10
_KEPT = sum(1 << kept for kept in (_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _KILL, _SETGID, _SETUID, _NET_BIND_SERVICE))
"""All of them are in the lower half."""


def drop_capabilities() -> None:
    """Give up all rights of root but a few. Where `forbid_new_privileges` holds, no program brings them back.

    Raises:
        OSError: the kernel refuses.
    """
    low, high = held_capabilities()
    kept = (int.from_bytes(low, "little") & _KEPT).to_bytes(4, "little")
    if kept == low and not any(high):
        return  # an ordinary user has none
    system_call(_CALLS[os.uname().machine][1], _HEADER, kept + kept + bytes(4) + bytes(12))


def held_capabilities() -> tuple[bytes, bytes]:
    """Return the rights that this process may use: a lower and an upper half.

    Raises:
        OSError: the kernel refuses.
    """
    address, held = copy_in_memory(bytes(24))
    system_call(_CALLS[os.uname().machine][0], _HEADER, address)
    return bytes(held[4:8]), bytes(held[16:20])
