"""When a process that has ended is started again: a table, and the delays. No I/O; the time is an argument."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Final, Literal, TypeAlias, get_args

import attrs

from spindle_trio._model._field_docs import show_fields
from spindle_trio._model._values import is_number

When: TypeAlias = Literal["never", "on_failure", "always"]
"""Which ends are followed by another start."""

_DEFAULT_MAX_DELAY: Final = 30.0
_DEFAULT_GIVE_UP_AFTER: int | None = 8


def _check_when(_: object, attribute: attrs.Attribute[When], value: object) -> None:
    if value not in get_args(When):
        raise ValueError(f"when must be one of {', '.join(get_args(When))}, not {value!r}")


def _check_seconds(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not (is_number(value) and isinstance(value, int | float) and 0 < value < math.inf):
        raise ValueError(f"{attribute.name} must be a positive, finite number of seconds, not {value!r}")


def _check_factor(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not (is_number(value) and isinstance(value, int | float) and 1 <= value < math.inf):
        raise ValueError(f"factor must be a finite number, 1 or more, not {value!r}")


def _check_jitter(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not (is_number(value) and isinstance(value, int | float) and 0 <= value <= 1):
        raise ValueError(f"jitter must be a share of the delay, from 0 to 1, not {value!r}")


def _check_max_lifetime(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not (is_number(value) and isinstance(value, int | float) and value > 0):
        raise ValueError(f"max_lifetime must be a positive number of seconds, or math.inf, not {value!r}")


def check_give_up_after(_: object, attribute: attrs.Attribute[int | None], value: object) -> None:
    """Refuse what is no number of failures.

    Raises:
        ValueError: it is no whole number, 1 or more, and not `None`.
    """
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{attribute.name} must be a number of failures, 1 or more, or None, not {value!r}")


@show_fields
@attrs.frozen
class RestartPolicy:
    """When a service is started again after an end, how long it waits before that, and when it gives up.

    As in ``RestartPolicy("always", delay=1, give_up_after=None)``. Failures are counted in a row: the nth is followed
    by a wait of `delay` · `factor` ^ (n - 1) seconds, `max_delay` at most. A process that has been ready for
    `stable_after` seconds has proved itself, and its end begins a new row. A stop by anybody is no failure,
    and is followed by no start.

    Raises:
        ValueError: an option is out of range, or contradicts another.
    """

    when: When = attrs.field(default="on_failure", validator=_check_when)
    """After which ends: ``"never"``; ``"on_failure"``: it failed, missed a deadline or never became ready;
    ``"always"``: also after it completed, which then counts as a failure."""
    delay: float = attrs.field(default=0.5, kw_only=True, validator=_check_seconds)
    """Seconds between the first failure and the next start."""
    factor: float = attrs.field(default=2.0, kw_only=True, validator=_check_factor)
    """By how much the delay grows with each further failure in a row; 1 for always the same."""
    max_delay: float = attrs.field(default=_DEFAULT_MAX_DELAY, kw_only=True, validator=_check_seconds)
    """Seconds that it grows to at most."""
    jitter: float = attrs.field(default=0.2, kw_only=True, validator=_check_jitter)
    """The share of a delay that chance may take off it, so that many services do not start at once; from 0 to 1."""
    stable_after: float = attrs.field(default=30.0, kw_only=True, validator=_check_seconds)
    """Seconds since `ready` after which a process has proved itself."""
    give_up_after: int | None = attrs.field(default=_DEFAULT_GIVE_UP_AFTER, kw_only=True, validator=check_give_up_after)
    """How many failures in a row are the last; `None` for any number."""
    max_lifetime: float = attrs.field(default=math.inf, kw_only=True, validator=_check_max_lifetime)
    """Seconds since `ready` after which a process is stopped gracefully, and the next one started at once."""

    def __repr__(self) -> str:
        fields = attrs.fields(RestartPolicy)
        changed = {
            field.name: getattr(self, field.name) for field in fields if getattr(self, field.name) != field.default
        }
        return f"RestartPolicy({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def __attrs_post_init__(self) -> None:
        if self.delay > self.max_delay:
            raise ValueError(
                f"delay={self.delay} is more than max_delay={self.max_delay}: no delay could be both; lower delay, or "
                "raise max_delay"
            )
        if self.factor == 1 and self.max_delay not in {_DEFAULT_MAX_DELAY, self.delay}:
            raise ValueError(
                f"factor=1 and max_delay={self.max_delay} contradict each other: the delay never grows, so it has no "
                "cap; leave out max_delay, or give a factor above 1"
            )
        if self.when == "never" and self.max_lifetime < math.inf:
            raise ValueError(
                f"when='never' and max_lifetime={self.max_lifetime} contradict each other: what is recycled is started "
                "again; leave out max_lifetime, or choose another when"
            )
        if self.max_lifetime <= self.stable_after:
            raise ValueError(
                f"max_lifetime={self.max_lifetime} is not more than stable_after={self.stable_after}: no process could "
                "ever prove itself; raise max_lifetime, or lower stable_after"
            )


def check_policy(policy: object) -> None:
    """Refuse what is no policy.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(policy, RestartPolicy):
        raise TypeError(f"restart must be a RestartPolicy, not {policy!r}; type: restart=RestartPolicy('always')")


class Ending(Enum):
    """How a process has ended, as far as it matters for the next start."""

    COMPLETED = "completes"
    FAILED = "fails, misses a deadline, or never becomes ready"
    STOPPED = "is stopped by somebody"
    REPLACED = "is replaced"
    UNLOADED = "is unloaded"
    RECYCLED = "is recycled"


class Rule(Enum):
    """What follows an end."""

    COUNT = "count a failure, and wait"
    AT_ONCE = "start again at once"
    LEAVE = "leave it"


TABLE: Final[Mapping[tuple[Ending, When], Rule]] = {
    (Ending.COMPLETED, "never"): Rule.LEAVE,
    (Ending.COMPLETED, "on_failure"): Rule.LEAVE,
    (Ending.COMPLETED, "always"): Rule.COUNT,
    (Ending.FAILED, "never"): Rule.LEAVE,
    (Ending.FAILED, "on_failure"): Rule.COUNT,
    (Ending.FAILED, "always"): Rule.COUNT,
    (Ending.STOPPED, "never"): Rule.LEAVE,
    (Ending.STOPPED, "on_failure"): Rule.LEAVE,
    (Ending.STOPPED, "always"): Rule.LEAVE,
    (Ending.REPLACED, "never"): Rule.LEAVE,
    (Ending.REPLACED, "on_failure"): Rule.LEAVE,
    (Ending.REPLACED, "always"): Rule.LEAVE,
    (Ending.UNLOADED, "never"): Rule.LEAVE,
    (Ending.UNLOADED, "on_failure"): Rule.LEAVE,
    (Ending.UNLOADED, "always"): Rule.LEAVE,
    (Ending.RECYCLED, "never"): Rule.AT_ONCE,
    (Ending.RECYCLED, "on_failure"): Rule.AT_ONCE,
    (Ending.RECYCLED, "always"): Rule.AT_ONCE,
}
"""What follows each end, under each policy."""


@attrs.frozen
class RestartAt:
    """Start again."""

    at: float
    """When."""


@attrs.frozen
class GiveUp:
    """Start no more: that was the last failure in a row."""


@attrs.frozen
class Leave:
    """Start no more: nobody wants it."""


Decision: TypeAlias = RestartAt | GiveUp | Leave


def decide(
    policy: RestartPolicy, failures: int, ending: Ending, *, ready_at: float | None, now: float, roll: float
) -> tuple[int, Decision]:
    """Decide what follows an end.

    Args:
        policy: the rules.
        failures: how many were counted in a row before.
        ending: how it has ended.
        ready_at: when it had become ready; `None` if it never did.
        now: when it ended.
        roll: 0 or more and less than 1: what chance takes off the delay, as a share of the jitter.

    Returns:
        How many failures there are in a row now, and what to do.
    """
    rule = TABLE[ending, policy.when]
    if rule is Rule.LEAVE:
        return failures, Leave()
    is_proved = ready_at is not None and now - ready_at >= policy.stable_after
    if rule is Rule.AT_ONCE:
        return 0 if is_proved else failures, RestartAt(now)
    failures = 1 if is_proved else failures + 1
    if policy.give_up_after is not None and failures >= policy.give_up_after:
        return failures, GiveUp()
    return failures, RestartAt(now + _delay(policy, failures) * (1 - policy.jitter * roll))


def _delay(policy: RestartPolicy, failures: int) -> float:
    try:
        return min(policy.max_delay, policy.delay * policy.factor ** (failures - 1))
    except OverflowError:
        return policy.max_delay
