"""Who may run which command. Loaded at the first spawn of one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from spindle_trio._errors import EntryError
from spindle_trio._model._command import Command

if TYPE_CHECKING:
    from spindle_trio._host._settings import CommandRule, HostSettings
    from spindle_trio._model import SpawnOptions
    from spindle_trio.abc import ResolvedEntry


def resolve_command(
    options: SpawnOptions, settings: HostSettings, root: Path, *, distant: bool
) -> tuple[Command, ResolvedEntry]:
    """Check whether a worker may run a command, and have the launcher find its program.

    What is not allowed is not looked for either, so a refusal does not tell which files there are.

    Args:
        options: those of the spawn.
        settings: the host's.
        root: the worker's.
        distant: whether the worker is at the far end of a channel.

    Raises:
        EntryError: the entry is no command, or the command may not or cannot be run.
    """
    command = options.entry
    if not isinstance(command, Command):
        raise EntryError(f"entry must be a str or a path, relative to the worker's root, or a Command, not {command!r}")
    rule = settings.commands
    _check_allowed(command, rule, root, distant=distant)
    environment = {**settings.environment, **(options.environment or {}), **(command.environment or {})}
    resolved = settings.launcher.resolve_command(command, root, environment)
    if isinstance(rule, frozenset) and command.argv[0] not in rule and str(resolved.program) not in rule:
        raise _not_among(command, rule)
    return command, resolved


def _check_allowed(command: Command, rule: CommandRule, root: Path, *, distant: bool) -> None:
    """Refuse what certainly is not allowed. Of a name, only its program may tell."""
    program = command.argv[0]
    if rule is None:
        if distant:
            raise EntryError(
                f"this host lets a connected worker run no commands, and {program!r} is one; to allow it, open the "
                f"host with commands={{{program!r}}}"
            )
    elif not isinstance(rule, frozenset):
        try:
            answer: object = rule(command)
        except Exception as error:
            raise EntryError(
                f"the command {program!r} is refused: the host's commands function raised {error!r}"
            ) from error
        if answer is not True:
            said = "" if answer is False else f" (it returned {answer!r}, and only True allows a command)"
            raise EntryError(
                f"this host does not allow the command {program!r}: its commands function refuses it{said}"
            )
    elif program not in rule:
        paths = [str(root / program)] if "/" in program else [path for path in rule if path.endswith(f"/{program}")]
        if rule.isdisjoint(paths):
            raise _not_among(command, rule)


def _not_among(command: Command, allowed: Collection[str]) -> EntryError:
    known = ", ".join(map(repr, sorted(allowed))) or "none"
    return EntryError(
        f"this host does not allow the command {command.argv[0]!r}; it allows: {known}; to allow another one, open the "
        "host with its name, or its absolute path, in commands={…}"
    )
