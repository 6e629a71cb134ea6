"""Finds out which parts of a sandbox this system has, and why others are missing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from spindle_trio._linux import _landlock, _seccomp
from spindle_trio._model import Containment
from spindle_trio._model._sandbox import SandboxPart

__all__ = ["find_parts"]

_KERNELS: Final[Mapping[int, str]] = {1: "5.13", 2: "5.19", 3: "6.2", 4: "6.7", 5: "6.10", 6: "6.12"}
"""The kernel that brought each version of Landlock."""

Parts = tuple[Mapping[SandboxPart, str], Mapping[SandboxPart, str]]
"""By which means each part is held, and why each other one is missing."""


@lru_cache(maxsize=4)
def find_parts(containment: Containment | None) -> Parts:
    """Find out once for all, by asking the kernel; changes nothing.

    Args:
        containment: the level of the processes: a PID namespace keeps signals in, too.
    """
    means: dict[SandboxPart, str] = {}
    problems: dict[SandboxPart, str] = {}
    landlock, without_landlock = _landlock_here()
    filters, without_filters = _filters_here()

    def by_landlock(part: SandboxPart, version: int) -> bool:
        if landlock >= version:
            means[part] = f"Landlock {landlock}"
        else:
            why = without_landlock or f"Landlock here is version {landlock}, and this needs version {version}"
            problems[part] = f"{why} (Linux {_KERNELS[version]})"
        return part in means

    def by_filter(part: SandboxPart) -> None:
        if filters:
            means[part] = "seccomp"
            problems.pop(part, None)
        else:
            problems[part] = without_filters

    by_landlock(SandboxPart.FILES, 1)
    if not by_landlock(SandboxPart.TRUNCATE, 3):
        by_filter(SandboxPart.TRUNCATE)
    by_filter(SandboxPart.SYSTEM_CALLS)
    by_filter(SandboxPart.NETWORK)
    by_landlock(SandboxPart.ABSTRACT_SOCKETS, 6)
    if not by_landlock(SandboxPart.SIGNALS, 6) and containment is Containment.PIDNS:
        means[SandboxPart.SIGNALS] = "PID namespace"
        del problems[SandboxPart.SIGNALS]
    by_landlock(SandboxPart.DEVICES, 5)
    problems[SandboxPart.NAMESPACES] = "this release uses none for sandboxes"
    return means, problems


def _landlock_here() -> tuple[int, str]:
    """Return the version of Landlock, or 0 and why there is none."""
    try:
        return _landlock.version(), ""
    except OSError as error:
        return 0, f"there is no Landlock: {error.strerror}"


def _filters_here() -> tuple[bool, str]:
    """Return whether system calls can be filtered, and if not, why."""
    if not _seccomp.is_known_architecture():
        return False, "the numbers of system calls are known for x86_64 and aarch64 only"
    try:
        _seccomp.require()
    except OSError as error:
        return False, f"there are no filters of system calls (seccomp, Linux 3.5): {error.strerror}"
    return True, ""
