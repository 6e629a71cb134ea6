"""Which sandbox a spawn gets, and what a host without a part of one says. Loaded by hosts that have sandboxes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import attrs

from spindle_trio._errors import SandboxError
from spindle_trio._model import ResolvedEntry
from spindle_trio._model._command import Command, Http, Tcp
from spindle_trio._model._sandbox import NETWORKS, Sandbox, SandboxPart, check_sandbox, is_inside
from spindle_trio.abc import Launcher, SandboxRules

__all__ = ["check_host_sandbox", "missing_parts", "rules_of_spawn"]


def _checked_parts(required: object) -> frozenset[SandboxPart]:
    """Return the parts that a host requires.

    Args:
        required: names of parts, or `True` for all that any sandbox needs.

    Raises:
        TypeError: it is neither.
        ValueError: there is no part of that name.
    """
    if isinstance(required, bool):
        return frozenset(Sandbox().needs() if required else ())
    if isinstance(required, str) or not isinstance(required, Collection):
        raise TypeError(f"require_sandbox must be True or a collection of parts, as in ['files'], not {required!r}")
    try:
        return frozenset(map(SandboxPart, required))
    except ValueError:
        known = ", ".join(map(repr, map(str, SandboxPart)))
        raise ValueError(f"require_sandbox takes {known}, not {sorted(map(str, required))}") from None


def check_host_sandbox(sandbox: object, required: object) -> frozenset[SandboxPart]:
    """Check the arguments of `open_host`, and return the parts that it requires.

    Raises:
        TypeError: one of them has the wrong type.
        ValueError: there is no part of that name.
    """
    if sandbox is not None:
        check_sandbox("sandbox", sandbox)
    return _checked_parts(required)


def missing_parts(parts: Iterable[SandboxPart], launcher: Launcher) -> str | None:
    """Say which parts a launcher does not have, and why; `None` if it has them all."""
    means, problems, name = launcher.sandbox_means, launcher.sandbox_problems, type(launcher).__name__
    missing = [
        f"{part}: {problems.get(part, f'{name} has no sandboxes')}"
        for part in sorted(parts, key=list(SandboxPart).index)
        if part not in means
    ]
    return "; ".join(missing) or None


def rules_of_spawn(
    wanted: Sandbox | None,
    default: Sandbox | None,
    launcher: Launcher,
    entry: ResolvedEntry,
    root: Path,
    command: Command | None = None,
    *,
    distant: bool,
) -> SandboxRules | None:
    """Find the rules for one process.

    Args:
        wanted: the sandbox of the spawn.
        default: the host's.
        launcher: has the parts, and knows the paths.
        entry: the entry.
        root: the worker's root.
        command: the command, if it is one.
        distant: whether the worker is at the far end of a channel: it may only narrow the default.

    Raises:
        SandboxError: a part is missing, a path is wrong, or a distant worker asks for more than the default allows.
    """
    sandbox = default if wanted is None else wanted
    if sandbox is None:
        return None
    missing = missing_parts(sandbox.needs(), launcher)
    if missing is not None:
        raise SandboxError(
            f"the sandbox of {entry.entry!r} cannot be had here, and nothing was started: {missing}; "
            "see `spindle-trio doctor`"
        )
    if command is not None and isinstance(command.ready, Tcp | Http) and sandbox.network != "host":
        raise SandboxError(
            f"the command {entry.entry!r} is ready once it accepts connections, and its sandbox has "
            f"network={sandbox.network!r}; give it network='host', or another sign that it is ready"
        )
    rules = launcher.resolve_sandbox(sandbox, entry, root)
    if distant and wanted is not None and default is not None:
        more = _what_is_more(rules, launcher.resolve_sandbox(default, entry, root))
        if more is not None:
            raise SandboxError(
                f"sandbox: {more}, which the default of this host does not allow; "
                "a connected worker may only ask for less than the default"
            )
    if command is not None and command.ready == "notify":
        return attrs.evolve(rules, notifies=True, private_write=True)  # for the socket that it notifies
    return rules


def _what_is_more(rules: SandboxRules, bound: SandboxRules) -> str | None:
    """Say what rules allow beyond others; `None` if they allow nothing more."""
    if NETWORKS.index(rules.network) > NETWORKS.index(bound.network):
        return f"network={rules.network!r}"
    if rules.subprocesses and not bound.subprocesses:
        return "subprocesses=True"
    for path in rules.write:
        if not any(is_inside(path, folder) for folder in bound.write):
            return f"write allows {path!r}"
    for path in rules.read:
        if not any(is_inside(path, folder) for folder in (*bound.read, *bound.write)):
            return f"read allows {path!r}"
    for path in rules.listed:
        if not any(is_inside(path, folder) for folder in (*bound.read, *bound.write, *bound.listed)):
            return f"read allows to list {path!r}"
    return None
