"""The settings of a host for its workers, and the checks of the arguments of `open_host`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from spindle_trio._model import SURROUNDINGS, Containment, Limits, check_grace
from spindle_trio.abc import Launcher

if TYPE_CHECKING:
    from spindle_trio._model._command import Command
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio._model._sandbox import Sandbox, SandboxPart

CommandRule: TypeAlias = "frozenset[str] | Callable[[Command], bool] | None"
"""Names and absolute paths of programs, or what decides, or `None`; see `open_host`."""


@attrs.frozen
class HostSettings:
    """The settings of an open host."""

    launcher: Launcher
    grace_period: float
    max_processes: int
    limits: Limits
    environment: Mapping[str, str]
    new_process_id: Callable[[], str]
    wall_time: Callable[[float], datetime]
    require_containment: Containment | None = None
    replace_grace: float | None = None
    """Seconds that a replaced process has to end; `None` for its own grace period."""
    allow: frozenset[str] = frozenset()
    """Which surroundings of its processes a worker at the far end of a channel may set."""
    commands: CommandRule = None
    """Which commands its workers may run; `None` for any, but none for those at the far end of a channel."""
    cancel_grace: float = 1.0
    """Seconds that a handler has to end after its call was cancelled, where its process is killed otherwise."""
    resource_limits: ResourceLimits | None = None
    """What each process may use at most, and may use if its spawn says nothing."""
    require_limits: str | None = None
    """The means by which limits on memory, pids and cpus have to be held; `None` for the strongest that works."""
    sandbox: Sandbox | None = None
    """What each process may reach whose spawn says nothing; the most for workers at the far end of a channel."""
    require_sandbox: frozenset[SandboxPart] = frozenset()
    """Parts of sandboxes without which the host does not open."""


def wall_time_from(reading: datetime) -> Callable[[float], datetime]:
    """Make a function that turns Trio's times into wall time: one reading, then monotonic differences."""
    origin = trio.current_time()

    def wall_time(at: float) -> datetime:
        return reading + timedelta(seconds=at - origin)

    return wall_time


def check_kinds(launcher: object, limits: object) -> None:
    """Check launcher and limits.

    Raises:
        TypeError: one of them has the wrong type.
    """
    if isinstance(launcher, type) and issubclass(launcher, Launcher):
        name = launcher.__name__
        raise TypeError(f"launcher is the class {name}, not an instance of it; type: open_host({name}())")
    if launcher is not None and not isinstance(launcher, Launcher):
        raise TypeError(
            f"launcher must be a launcher, such as DefaultLauncher() or PythonLauncher(), not {launcher!r}; "
            "for the default, type: open_host()"
        )
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be of the type Limits, not {limits!r}; type: Limits(frame_bytes=…), for example")


def check_bounds(grace_period: object, replace_grace: object, max_processes: object, cancel_grace: object) -> None:
    """Refuse numbers that are out of range.

    Raises:
        ValueError: a number is out of range.
    """
    check_grace("grace_period", grace_period)
    if replace_grace is not None:
        check_grace("replace_grace", replace_grace)
    check_grace("cancel_grace", cancel_grace)
    if type(max_processes) is not int or max_processes < 1:
        raise ValueError(f"max_processes must be a positive integer, not {max_processes!r}")


def check_require_limits(required: object) -> None:
    """Check the means that limits have to be held by.

    Raises:
        ValueError: it is no means that can be required.
    """
    if required not in (None, "cgroup"):
        raise ValueError(f"require_limits must be 'cgroup' or None, not {required!r}")


def checked_allow(allow: Iterable[str]) -> frozenset[str]:
    """Return the surroundings that are allowed.

    Raises:
        TypeError: the argument is a str.
        ValueError: a name is not that of a surrounding.
    """
    if isinstance(allow, str):
        raise TypeError(f"allow must be a collection of names, as in allow={{{allow!r}}}, not one text")
    names = frozenset(allow)
    if unknown := names - SURROUNDINGS:
        known = ", ".join(map(repr, sorted(SURROUNDINGS)))
        raise ValueError(f"allow takes {known}, not {', '.join(sorted(map(repr, unknown)))}")
    return names


def checked_commands(commands: Collection[str] | Callable[[Command], bool] | None) -> CommandRule:
    """Return which commands are allowed.

    Raises:
        TypeError: the argument is a str, neither a collection of str nor a plain function.
        ValueError: one of the texts is neither the name of a program nor an absolute path.
    """
    if commands is None:
        return None
    if callable(commands):
        if iscoroutinefunction(commands):
            raise TypeError("commands is called without waiting: give open_host a plain function")
        return commands
    if isinstance(commands, str) or not isinstance(commands, Collection):
        raise TypeError(f"commands must be programs, as in commands={{'git'}}, a function or None, not {commands!r}")
    for name in commands:
        if not isinstance(name, str):
            raise TypeError(f"commands must be a collection of str; {name!r} is not a str")
        if not name or ("/" in name and not name.startswith("/")):
            raise ValueError(f"commands takes names of programs on the PATH and absolute paths, not {name!r}")
    return frozenset(commands)


def check_environment(environment: object) -> None:
    """Check an environment.

    Raises:
        TypeError: it is not a mapping of str to str.
    """
    if environment is None:
        return
    if not isinstance(environment, Mapping):
        raise TypeError(f"environment must be a mapping of str to str, such as os.environ, not {environment!r}")
    pairs: Iterable[tuple[object, object]] = environment.items()
    for name, value in pairs:
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError(f"environment must map str to str, not {name!r} to {value!r}")
