"""What a pool is opened with, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from spindle_trio._model import name_of_entry
from spindle_trio._model._values import is_number
from spindle_trio._services._restart import RestartPolicy, check_give_up_after

if TYPE_CHECKING:
    from spindle_trio._model import SpawnArguments
    from spindle_trio._model._command import Command
    from spindle_trio._model._resource_limits import ResourceLimits


def _check_size(_: object, attribute: attrs.Attribute[int], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{attribute.name} must be a number of processes, 1 or more, not {value!r}")


def _check_calls(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not (is_number(value) and isinstance(value, int | float) and value >= 1):
        raise ValueError(f"{attribute.name} must be a number of calls, 1 or more, or math.inf, not {value!r}")


def _check_seconds(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not (is_number(value) and isinstance(value, int | float) and value > 0):
        raise ValueError(f"{attribute.name} must be a positive number of seconds, or math.inf, not {value!r}")


@attrs.frozen
class PoolSettings:
    """What a pool is opened with.

    Raises:
        ValueError: one is out of range.
    """

    entry: str | Command
    spawn: SpawnArguments
    size: int = attrs.field(validator=_check_size)
    prestart: bool
    max_calls: float = attrs.field(validator=_check_calls)
    max_idle: float = attrs.field(validator=_check_seconds)
    max_lifetime: float = attrs.field(validator=_check_seconds)
    give_up_after: int | None = attrs.field(validator=check_give_up_after)
    serves: str | None = None
    """What its errors call that which it is a pool of, if not its entry."""
    restart_above: ResourceLimits | None = None
    """Above which a process is stopped and replaced, once it has no call."""

    @property
    def entry_name(self) -> str:
        """The text that names its processes."""
        return name_of_entry(self.entry)

    @property
    def name(self) -> str:
        """Of the pool, in errors."""
        return f"the pool of {self.serves or self.entry_name}"

    @property
    def restart(self) -> RestartPolicy:
        """The delays between an end and the next start."""
        return RestartPolicy(give_up_after=self.give_up_after)
