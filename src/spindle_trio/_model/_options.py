"""The options of spawning, listing and stopping processes. Each default is here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypedDict

import attrs

from spindle_trio._model._field_docs import show_fields
from spindle_trio._model._surroundings import PathLike, as_folder, checked_arguments, checked_environment
from spindle_trio._model._values import OMITTED, ProcessState, is_number

if TYPE_CHECKING:
    from spindle_trio._model._command import Command
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio._model._sandbox import Sandbox

DEFAULT_TIMEOUT: Final = 15.0
"""Default seconds for starting, and between two heartbeats (contract, spawn options)."""


def _check_startup_timeout(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not (is_number(value) and isinstance(value, int | float) and 0 < value < math.inf):
        raise ValueError(f"{attribute.name} must be a positive, finite number of seconds, not {value!r}")


def _check_heartbeat_timeout(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not (is_number(value) and isinstance(value, int | float) and value > 0):
        raise ValueError(
            f"{attribute.name} must be a positive number of seconds, or math.inf for no watchdog, not {value!r}"
        )


def check_grace(name: str, value: object) -> None:
    """Check a grace period.

    Raises:
        ValueError: it is not a finite number of seconds, 0 or more.
    """
    if not (is_number(value) and isinstance(value, int | float) and 0 <= value < math.inf):
        raise ValueError(f"{name} must be a finite number of seconds, 0 or more, not {value!r}")


def _check_optional_grace(_: object, attribute: attrs.Attribute[float | None], value: object) -> None:
    if value is not None:
        check_grace(attribute.name, value)


def _check_optional_text(_: object, attribute: attrs.Attribute[str | None], value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a str or None, not {type(value).__name__}")


def _as_state(value: str | None) -> ProcessState | None:
    if value is None:
        return None
    try:
        return ProcessState(value)
    except ValueError:
        raise ValueError(f"state must be None or one of {', '.join(ProcessState)}, not {value!r}") from None


def _check_flag(_: object, attribute: attrs.Attribute[bool], value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be a bool, not {type(value).__name__}")


def _check_keep_key(options: SpawnOptions, attribute: attrs.Attribute[bool], value: object) -> None:
    _check_flag(options, attribute, value)
    if value and not (options.key or "").strip():
        raise ValueError("keep_key needs a key: give the spawn one that is not blank")


def _check_sandbox(_: object, attribute: attrs.Attribute[Sandbox | None], value: object) -> None:
    if value is not None:
        from spindle_trio._model._sandbox import check_sandbox  # most programs have none

        check_sandbox(attribute.name, value)


def _check_successor_of(options: SpawnOptions, attribute: attrs.Attribute[str | None], value: object) -> None:
    _check_optional_text(options, attribute, value)
    if value is not None and not (options.key or "").strip():
        raise ValueError("successor_of needs the key that is kept: give the spawn the key of that process")


def check_resource_limits(name: str, value: object) -> None:
    """Check that a value is the limits on what a process uses, or `None`.

    Raises:
        TypeError: it is neither.
    """
    if value is not None:
        from spindle_trio._model._resource_limits import ResourceLimits  # most programs have none

        if not isinstance(value, ResourceLimits):
            raise TypeError(f"{name} must be ResourceLimits or None, as in ResourceLimits(memory=…), not {value!r}")


def _check_resource_limits(_: object, attribute: attrs.Attribute[ResourceLimits | None], value: object) -> None:
    if value is not None:
        check_resource_limits(attribute.name, value)


def _as_entry(value: str | PathLike | Command) -> str | Command:
    """Turn a path into its text; spawning refuses anything else but a command."""
    if isinstance(value, str):
        return value  # first, since a look at a protocol is slow
    return value.__fspath__() if isinstance(value, PathLike) else value


def _check_entry(options: SpawnOptions, _: attrs.Attribute[str | Command], value: object) -> None:
    if not isinstance(value, str):
        from spindle_trio._model._command import check_with_command  # only for those who use it

        check_with_command(value, options.payload, options.arguments)


def name_of_entry(entry: str | Command) -> str:
    """Return the text that names the processes of an entry; of what is none, how it shows itself."""
    if isinstance(entry, str):
        return entry
    from spindle_trio._model._command import Command, name_of_command

    return name_of_command(entry) if isinstance(entry, Command) else repr(entry)  # type: ignore[redundant-expr]


@show_fields
@attrs.frozen
class SpawnOptions:
    """What a worker asks for when it spawns a process (`BackendProcessSpawnOptionsDTO`).

    Raises:
        ValueError: a timeout or a grace period is out of its range, no program can be given a variable or argument,
            `keep_key` or `successor_of` is given without a key, or a `payload` or `arguments` with a `Command`.
        TypeError: `environment`, `folder`, `arguments`, `resource_limits` or `sandbox` is none, `kind`, `key`,
            `user_id` or `successor_of` is no string, or `replace_existing` or `keep_key` no bool.
    """

    entry: str | Command = attrs.field(converter=_as_entry, validator=_check_entry)
    """Path of the entry file, relative to the worker's root; a `pathlib.Path` is taken as its text. Or a `Command`."""
    kind: str | None = attrs.field(default=None, validator=_check_optional_text)
    """A label for filters and dedupe; trimmed; blank or `None` means the entry."""
    key: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Makes the process unique per user and kind; trimmed; blank or `None` means none."""
    payload: object = OMITTED
    """JSON-safe start-up value for the entry."""
    metadata: Mapping[str, object] | None = None
    """A JSON-safe object kept on every snapshot and shown to the entry."""
    user_id: str | None = attrs.field(default=None, validator=_check_optional_text)
    """The owner of the process; ignored in a user-scoped worker."""
    startup_timeout: float = attrs.field(default=DEFAULT_TIMEOUT, validator=_check_startup_timeout)
    """Seconds from `starting` until the entry must have called `ready()`."""
    heartbeat_timeout: float = attrs.field(default=DEFAULT_TIMEOUT, validator=_check_heartbeat_timeout)
    """Seconds that may pass between two heartbeats; `math.inf` for no watchdog."""
    replace_existing: bool = attrs.field(default=False, validator=_check_flag)
    """Whether to stop and replace a live process that has the same key."""
    grace_period: float | None = attrs.field(default=None, validator=_check_optional_grace)
    """Seconds between asking this process to stop and killing it; `None` for the host's. A host or worker that closes
    gives it no more than the host's."""
    replace_grace: float | None = attrs.field(default=None, validator=_check_optional_grace)
    """Seconds that the replaced process has to end; 0 kills it at once; `None` for the host's."""
    keep_key: bool = attrs.field(default=False, validator=_check_keep_key)
    """Whether the host keeps the key, and its slot, for a successor when this process ends by itself."""
    successor_of: str | None = attrs.field(default=None, validator=_check_successor_of)
    """The id of the ended process whose key is kept; this spawn takes it over, with its slot."""

    environment: Mapping[str, str] | None = attrs.field(default=None, converter=checked_environment)
    """Variables for this process; they add to and override the environment that the host gives all processes."""
    folder: str | None = attrs.field(default=None, converter=as_folder)
    """The working directory, relative to the worker's root and really below it; `None` for the root."""
    arguments: Sequence[str] = attrs.field(default=(), converter=checked_arguments)
    """The entry's arguments: its `sys.argv[1:]`, or `process.argv.slice(2)`."""
    resource_limits: ResourceLimits | None = attrs.field(default=None, validator=_check_resource_limits)
    """What it may use, with all that it starts; what they leave open is as the host has it."""
    sandbox: Sandbox | None = attrs.field(default=None, validator=_check_sandbox)
    """What it may reach, with all that it starts; `None` for the host's."""


class SpawnArguments(TypedDict, total=False):
    """The keyword arguments of `spawn` and `open`, for type checkers: the fields of `SpawnOptions` but `entry`."""

    kind: str | None
    key: str | None
    payload: object
    metadata: Mapping[str, object] | None
    user_id: str | None
    startup_timeout: float
    heartbeat_timeout: float
    replace_existing: bool
    grace_period: float | None
    replace_grace: float | None
    keep_key: bool
    successor_of: str | None
    environment: Mapping[str, str] | None
    folder: str | None
    arguments: Sequence[str]
    resource_limits: ResourceLimits | None
    sandbox: Sandbox | None


SURROUNDINGS: Final = frozenset({"environment", "folder", "arguments"})
"""Options of a spawn that a worker at the far end of a channel may use only where its host allows it."""


@show_fields
@attrs.frozen
class ProcessFilter:
    """Which processes `list` shows: those that match every field given (`BackendProcessListOptionsDTO`)."""

    user_id: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Compared as given; ignored in a user-scoped worker."""
    kind: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Compared as given, untrimmed."""
    key: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Compared as given, untrimmed."""
    state: ProcessState | None = attrs.field(default=None, converter=_as_state)
    """One of the states; a terminal one matches nothing, since only live processes are listed."""


@show_fields
@attrs.frozen
class StopOptions:
    """How a process is asked to stop (`BackendProcessStopOptionsDTO`)."""

    user_id: str | None = attrs.field(default=None, validator=_check_optional_text)
    """The expected owner of the process; trimmed; ignored in a user-scoped worker."""
    reason: str | None = attrs.field(default=None, validator=_check_optional_text)
    """Shown to the entry's stop handler; empty means none."""
    grace: float | None = attrs.field(default=None, validator=_check_optional_grace)
    """Seconds until it is killed; 0 kills it at once, without asking; `None` for the process's own grace period."""
    keep_key: bool = attrs.field(default=False, validator=_check_flag)
    """Whether its key is kept for a successor all the same, if its spawn has asked for that by `keep_key`."""
