"""Decides whether a receiver looks for an answer a few times more before it sleeps.

Putting a program to sleep and waking it takes longer than a quick answer does. So a receiver *spins*: if it has just
sent something, and the last answer came within `QUICK_SECONDS`, it looks again for up to `SPIN_SECONDS`. A program that
only listens never spins. After a vain spin it sleeps for the next `FIRST_REST` answers, after another one for twice as
many, up to `LONGEST_REST`: on a busy machine, and between two programs on one core, spins are rare.
"""

from __future__ import annotations

import os

SPIN_SECONDS = 100e-6
"""How long a receiver looks again. Two programs that are awake exchange 100 bytes in about 60 µs."""

QUICK_SECONDS = 200e-6
"""A receiver whose last answer took longer sleeps at once."""

FIRST_REST = 16
"""How many answers a receiver sleeps for after its first vain spin."""

LONGEST_REST = 64
"""How many answers a receiver at most sleeps for between two vain spins."""


_HAS_CORES = len(os.sched_getaffinity(0)) > 1
"""As this program was started: one that pins itself later to a core of its own still spins."""


class Spinning:
    """What one receiver knows about its answers. Times are in seconds."""

    __slots__ = ("_has_sent", "_is_answer", "_is_quick", "_next_rest", "_rest", "_spin")

    def __init__(self) -> None:
        """Sleep for the first answer."""
        self._has_sent = False
        self._is_answer = False  # what is waited for now
        self._is_quick = False  # the last answer was
        self._spin = 0.0
        self._rest = 0
        self._next_rest = FIRST_REST

    def note_sent(self) -> None:
        """Note that something was sent, so that what comes next may be the answer."""
        self._has_sent = True

    def begin(self) -> float:
        """Begin to wait, and return for how many seconds to look again: 0 to sleep at once."""
        self._spin = 0.0
        self._is_answer, self._has_sent = self._has_sent, False
        if self._is_answer and self._is_quick and _HAS_CORES:
            if self._rest:
                self._rest -= 1
            else:
                self._spin = SPIN_SECONDS
        return self._spin

    def end(self, waited: float) -> None:
        """Note how long the wait has taken that has just brought something."""
        if not self._is_answer:
            return
        self._is_quick = waited < QUICK_SECONDS
        if waited < self._spin:
            self._next_rest = FIRST_REST
        elif self._spin:
            self._rest = self._next_rest
            self._next_rest = min(2 * self._rest, LONGEST_REST)
