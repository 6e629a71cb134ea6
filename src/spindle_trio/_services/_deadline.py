"""The time of a call that waits for a process first."""

from __future__ import annotations

import math

import trio

from spindle_trio._model._values import is_number

_LEAST_SECONDS = 1e-6


def deadline_from(timeout: float) -> float:
    """Turn a timeout into a point in Trio's time.

    Raises:
        ValueError: it is no number of seconds, more than 0.
    """
    if not (is_number(timeout) and timeout > 0):
        raise ValueError(f"timeout must be a number of seconds, more than 0, or math.inf, not {timeout!r}")
    return math.inf if timeout == math.inf else trio.current_time() + timeout


def seconds_left(deadline: float) -> float:
    """The seconds until a point in Trio's time; always some, since there were some a moment ago."""
    return math.inf if deadline == math.inf else max(_LEAST_SECONDS, deadline - trio.current_time())
