"""Joins the resource limits of a spawn with its host's, and refuses what is above them or cannot be held.

Loaded by the first host or spawn with limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from spindle_trio._errors import ResourceLimitError
from spindle_trio._model._resource_limits import ResourceLimits

if TYPE_CHECKING:
    from spindle_trio.abc import Launcher

HELD_BY_A_GROUP: Final = ("memory", "pids", "cpus")
"""The limits that a control group can hold."""


def limits_of_spawn(asked: ResourceLimits | None, bound: ResourceLimits | None, launcher: Launcher) -> ResourceLimits:
    """Join the limits of a spawn with the host's, which fill in what it leaves open.

    Raises:
        ResourceLimitError: a limit is above the host's, or cannot be held here.
    """
    if asked is None or asked == bound:
        assert bound is not None, "there are limits to look at"
        return bound  # which were looked at when the host opened
    limits = asked
    if bound is not None:
        wanted = asked.given()
        for name, most in bound.given().items():
            if name not in wanted:
                limits = attrs.evolve(limits, **{name: most})  # type: ignore[arg-type]  # its own value
            elif wanted[name] > most:
                raise ResourceLimitError(
                    f"{name}={_shown(wanted[name])} is more than this host allows: {name}={_shown(most)} in the "
                    "resource_limits of open_host; spawn with no more than that, or leave it out"
                )
    if problem := what_cannot_be_held(limits, launcher):
        raise ResourceLimitError(f"{problem}; spawn without it")
    return limits


def what_cannot_be_held(limits: ResourceLimits, launcher: Launcher) -> str | None:
    """Name the first limit that a launcher cannot hold, and say why; `None` if it holds all."""
    wanted = limits.given().keys() - {"run_seconds"}  # the host holds that
    if not wanted:
        return None
    means, problems = launcher.limit_means, launcher.limit_problems
    for name, value in limits.given().items():
        if name in wanted and name not in means:
            why = problems.get(name) or f"{type(launcher).__name__} holds no such limit"
            return f"the limit {name}={_shown(value)} cannot be held here: {why}"
    return None


def what_is_weaker(launcher: Launcher, required: str) -> str | None:
    """Say which limits are not held by the means that a host requires, and why; `None` if all are."""
    means, problems = launcher.limit_means, launcher.limit_problems
    weaker = [
        f"{name}: {means.get(name, 'none')}" + (f" ({problems[name]})" if name in problems else "")
        for name in HELD_BY_A_GROUP
        if means.get(name) != required
    ]
    if not weaker:
        return None
    return (
        f"this host requires that limits are held by a {required}, and {type(launcher).__name__} holds "
        f"{'; '.join(weaker)}; require less, or see `spindle-trio doctor`"
    )


def _shown(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
