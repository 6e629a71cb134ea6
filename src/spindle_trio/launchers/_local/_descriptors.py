"""This program's descriptors: a limit raised for it and not for its children, and a reserve for kills.

Each process takes some descriptors in its host; fewer than 170 processes use up the usual soft limit of 1 024. So a
launcher of real processes raises it to the hard limit when a host opens. Children get the program's original limit
back: the soft limit is low for programs that use `select(2)`, which overruns its table at larger numbers.

The limit is the program's, not a host's, and stays when hosts close. Lowering it would take descriptors away from
hosts that are still open, from abandoned processes, and from whatever else the program has opened meanwhile. If a
program sets its limit between two hosts, the second host raises it, and its children get what the program had set.
What the program starts by other means, such as `subprocess`, inherits the raised limit.

A kill that has to look for the processes of a tree takes a descriptor or two, and so does a request for stacks. A
program out of descriptors would leave processes behind. So while it has a host of real processes, it keeps a few
descriptors in reserve, and frees them for the moment of a kill.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import attrs

__all__ = ["RESERVE", "RESERVED", "give_back_limit", "raise_limit"]

RESERVED: Final = 4
"""The size of the reserve. A walk over a tree has two open at a time; a dump holds one for each descendant."""


@attrs.define
class _SoftLimit:
    """This program's soft limit. The hosts of all its threads share it."""

    own: int | None = None
    """The limit before it was raised; `None` if it was not."""
    raised: int | None = None
    """The limit that it was raised to."""


_soft_limit: Final = _SoftLimit()


def raise_limit() -> None:
    """Raise this program's soft limit on descriptors to the hard one, if the system allows it. May be called again."""
    import resource  # not everywhere, and a launcher says in its `start` where it cannot run

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return  # the hard limit is above what the kernel now allows: keep the soft one
    if soft != _soft_limit.raised:  # otherwise somebody has raised only the hard one
        _soft_limit.own = soft
    _soft_limit.raised = hard


def give_back_limit(pid: int) -> None:
    """Set the soft limit of a process to what this program's was before `raise_limit`. Never raises.

    Args:
        pid: a child of this program that nobody has reaped. What it starts from now on inherits the limit.
    """
    if _soft_limit.own is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (_soft_limit.own, hard))
    except (OSError, ValueError):
        pass  # it has ended, or a sandbox forbids this: too high a limit is no reason to refuse a process


class _Reserve:
    """Descriptors in reserve. The hosts of all threads share them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._held: list[int] = []

    def open(self) -> None:
        """Keep the reserve for one more host, as far as descriptors are left."""
        with self._lock:
            self._users += 1
            with suppress(OSError):
                self._fill()

    def close(self) -> None:
        """Release the reserve, unless another host needs it."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._empty()

    def refill(self) -> None:
        """Make sure that the reserve is full.

        Raises:
            OSError: this program has none left.
        """
        if len(self._held) < RESERVED:
            with self._lock:
                self._fill()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Free the reserve for a block that is about to open descriptors. The block must not wait."""
        with self._lock:
            self._empty()
        try:
            yield
        finally:
            with self._lock, suppress(OSError):
                self._fill()

    def _fill(self) -> None:
        while self._users and len(self._held) < RESERVED:
            self._held.append(os.dup(self._held[0]) if self._held else os.open(os.devnull, os.O_RDONLY))

    def _empty(self) -> None:
        while self._held:
            os.close(self._held.pop())


RESERVE: Final = _Reserve()
"""This program's reserve."""
