"""This program's descriptors: a limit raised for it and not for its children, and a few held back for kills.

A process takes some descriptors in its host, and the usual soft limit of 1 024 is used up by fewer than 170 of them.
So a launcher of real processes raises it to the hard limit when a host opens. Children get the program's original limit
back: the soft limit is low for the sake of programs that use `select(2)`, which overruns its table for a descriptor
    with
a larger number.

The limit is the program's, not a host's, and stays when hosts close. To lower it would take descriptors away from
hosts that are still open, from processes that were abandoned, and from whatever else the program has opened meanwhile.
A program that sets its limit itself between two hosts finds it raised by the second one, whose children get what the
program had set. What it starts by other means, as with `subprocess`, inherits the raised limit.

Killing a tree takes a descriptor or two if its processes have to be looked for, and so does asking for stacks. A
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
"""How many are held back. A walk over a tree has two open at a time, and a dump holds one for each descendant."""


@attrs.define
class _SoftLimit:
    """What is known of this program's soft limit. The hosts of all its threads share it, as they do the limit."""

    own: int | None = None
    """What it was before it was raised; `None` as long as it has not been."""
    raised: int | None = None
    """What it was raised to."""


_soft_limit: Final = _SoftLimit()


def raise_limit() -> None:
    """Raise this program's soft limit on descriptors to the hard one, if the system lets it; again changes nothing."""
    import resource  # not everywhere, and a launcher says in its `start` where it cannot run

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return  # the hard limit is above what the kernel has come to allow: then the soft one has to do
    if soft != _soft_limit.raised:  # else somebody has raised the hard one alone
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
        pass  # it has ended, or a sandbox forbids it: a limit that is too high is no reason to refuse a process


class _Reserve:
    """Descriptors that are held back. The hosts of all threads share them, as they do the limit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._held: list[int] = []

    def open(self) -> None:
        """Hold them for one more host, as far as there are any left."""
        with self._lock:
            self._users += 1
            with suppress(OSError):
                self._fill()

    def close(self) -> None:
        """Let them go, unless another host needs them."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._empty()

    def refill(self) -> None:
        """Make sure that they are there.

        Raises:
            OSError: this program has none left.
        """
        if len(self._held) < RESERVED:
            with self._lock:
                self._fill()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let them go for a block that is about to open some. It must not wait."""
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
"""The one of this program."""
