"""When a process that has ended is started anew: a pure decision."""

from __future__ import annotations

import attrs


@attrs.frozen
class RestartPolicy:
    """How long to wait between an end and the next start, and when to give up."""

    delay: float = 0.5
    """Seconds after the first failure."""
    factor: float = 2.0
    """By how much the delay grows with each further failure in a row."""
    max_delay: float = 30.0
    """Seconds that it grows to at most."""
    jitter: float = 0.2
    """The share of a delay that chance may take off it."""
    stable_after: float = 30.0
    """Seconds since `ready` after which an end is the first failure in a row."""
    give_up_after: int | None = 8
    """How many failures in a row are the last; `None` for any number."""


@attrs.frozen
class Past:
    """What counts of the past."""

    failures: int = 0
    """In a row; 0 as well once a process has proved itself."""
    ready_at: float | None = None
    """When the process that failed last had become ready; `None` if it never did."""
    ended_at: float = 0.0
    """When it ended."""


def after_failure(policy: RestartPolicy, past: Past, ready_at: float | None, now: float) -> Past:
    """Count one more failure.

    Args:
        policy: says how long a process has to live to prove itself.
        past: what was before.
        ready_at: when the process had become ready; `None` if it never did.
        now: when it ended.
    """
    was_stable = ready_at is not None and now - ready_at >= policy.stable_after
    return Past(1 if was_stable else past.failures + 1, ready_at, now)


def next_start(policy: RestartPolicy, past: Past, *, roll: float) -> float | None:
    """Decide when the next start may begin.

    Args:
        policy: the rules.
        past: with the failure that has just been counted.
        roll: 0 or more and less than 1: what chance takes off the delay, as a share of the jitter.

    Returns:
        The time; `None` to give up.
    """
    if policy.give_up_after is not None and past.failures >= policy.give_up_after:
        return None
    if past.failures == 0:
        return past.ended_at
    try:
        delay = policy.delay * policy.factor ** (past.failures - 1)
    except OverflowError:
        delay = policy.max_delay
    return past.ended_at + min(delay, policy.max_delay) * (1 - policy.jitter * roll)
