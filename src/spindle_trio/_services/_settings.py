"""What the processes of a service are started with, checked."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import attrs

from spindle_trio._model import SpawnArguments, name_of_entry
from spindle_trio._model._spawn_arguments import SET_BY_SERVICES, options_from

if TYPE_CHECKING:
    from spindle_trio._model._command import Command
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio._process_handle import ProcessHandle
    from spindle_trio._services._restart import RestartPolicy


@attrs.frozen
class UnitSettings:
    """What every generation is started with."""

    entry: str | Command
    spawn: SpawnArguments
    key: str | None
    """Trimmed; `None` for none."""
    on_start: Callable[[ProcessHandle], Awaitable[object]] | None
    restart_above: ResourceLimits | None = None
    """Above which it is stopped gracefully and started again."""

    @property
    def entry_name(self) -> str:
        """The text that names its processes."""
        return name_of_entry(self.entry)

    @property
    def name(self) -> str:
        """Of the service, in errors."""
        return f"the service {self.entry_name}" + ("" if self.key is None else f" (key {self.key!r})")


def settings_from(
    call: str,
    entry: str | os.PathLike[str] | Command,
    on_start: Callable[[ProcessHandle], Awaitable[object]] | None,
    options: SpawnArguments,
    restart_above: ResourceLimits | None = None,
) -> UnitSettings:
    """Take the arguments of a call, and check them, since no caller sees the later spawns.

    Args:
        call: its name.
        entry: its first argument.
        on_start: called with each process when it is ready.
        options: of each spawn.
        restart_above: above which it is stopped gracefully and started again.

    Raises:
        TypeError: there is no such option, or it has the wrong type.
        ValueError: one is out of range, or contradicts another.
    """
    for name in SET_BY_SERVICES:
        if name in options:
            raise TypeError(f"{call}() sees to {name} itself; leave it out")
    if on_start is not None and not callable(on_start):  # pyright: ignore[reportUnnecessaryComparison]
        raise TypeError(f"on_start must be an async function, not {on_start!r}")
    checked = options_from(call, entry, options)
    if restart_above is not None:
        from spindle_trio._services._excess import check_restart_above  # most services have none

        check_restart_above(restart_above, checked.resource_limits)
    return UnitSettings(checked.entry, options, (checked.key or "").strip() or None, on_start, restart_above)


def check_recycling(settings: UnitSettings, policy: RestartPolicy) -> None:
    """Refuse to have a process recycled that is not to be started again.

    Raises:
        ValueError: the policy says "never".
    """
    if settings.restart_above is not None and policy.when == "never":
        raise ValueError(
            "restart_above and a policy with when='never' contradict each other: what is recycled is started again; "
            "leave out restart_above, or choose another when"
        )
