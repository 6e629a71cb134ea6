"""What was typed, put together and checked as far as possible without a host."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

import spindle_trio
from spindle_trio.cli._bounds import Bounds, bounds_from

if TYPE_CHECKING:
    from spindle_trio import JsonValue

EXIT_REFUSED: Final = 2
"""A bad option or entry. `argparse` uses the same."""


@attrs.frozen(kw_only=True)
class SessionOptions:
    """What each command with a host needs."""

    root: Path
    """An absolute path of a folder that exists."""
    user: str
    """The owner of the processes."""
    grace: float
    """Seconds, 0 or more."""
    processes: int = 16
    """How many may live at a time."""
    verbose: bool
    """Whether to show the log, which includes what a process prints."""


@attrs.frozen(kw_only=True)
class CommonOptions(SessionOptions):
    """The arguments that `run` and `call` share."""

    entry: str
    """As typed; made relative if it was absolute and lies below the root."""
    payload: object
    """A JSON value, or `OMITTED`."""
    startup_timeout: float
    """Seconds, above 0."""
    heartbeat_timeout: float
    """Seconds, above 0; `math.inf` for none."""
    bounds: Bounds
    """What it may use and reach."""


@attrs.frozen
class RunOptions:
    """The arguments of `spindle-trio run`."""

    common: CommonOptions
    kind: str | None
    """As typed."""
    key: str | None
    """As typed."""
    metadata: dict[str, JsonValue] | None
    """A JSON object."""
    as_json: bool
    """Whether to print the wire form."""
    restart: spindle_trio.RestartPolicy
    """When to start another process after an end."""


@attrs.frozen
class UpOptions:
    """The arguments of `spindle-trio up`."""

    file: Path
    """As typed."""
    only: tuple[str, ...]
    """The names of the services to start; none for all."""
    verbose: bool
    """Whether to show the log."""


@attrs.frozen
class CallOptions:
    """The arguments of `spindle-trio call`."""

    common: CommonOptions
    method: str
    """As typed."""
    argument: JsonValue
    """What is passed to the method."""
    is_stream: bool
    """Whether to read it as a stream without asking first."""
    timeout: float
    """Seconds, above 0; `math.inf` for none."""


@attrs.frozen
class ExecOptions:
    """The arguments of `spindle-trio exec`."""

    session: SessionOptions
    argv: list[str]
    """The program and its arguments."""
    environment: dict[str, str]
    """Variables beside the usual ones."""
    bounds: Bounds
    """What it may use and reach."""


def run_options(options: argparse.Namespace) -> RunOptions:
    """Put together the arguments of `run`."""
    return RunOptions(
        common=_common_options(options),
        kind=options.kind,
        key=options.key,
        metadata=options.metadata,
        as_json=options.json,
        restart=_restart(options),
    )


def up_options(options: argparse.Namespace) -> UpOptions:
    """Put together the arguments of `up`."""
    return UpOptions(file=options.file, only=tuple(options.only), verbose=options.verbose)


def exec_options(options: argparse.Namespace) -> ExecOptions:
    """Put together the arguments of `exec`.

    Raises:
        ContradictionError: two of them contradict each other.
    """
    return ExecOptions(
        session=SessionOptions(
            root=Path.cwd() if options.root is None else options.root,
            user="local",
            grace=options.grace,
            verbose=options.verbose,
        ),
        argv=options.words,
        environment=dict(options.env),
        bounds=bounds_from(options, readable=("@runtime",)),
    )


def _restart(options: argparse.Namespace) -> spindle_trio.RestartPolicy:
    usual = spindle_trio.RestartPolicy()
    limit = usual.give_up_after if options.give_up_after is None else options.give_up_after
    return spindle_trio.RestartPolicy(options.restart, give_up_after=limit)


def call_options(options: argparse.Namespace) -> CallOptions:
    """Put together the arguments of `call`."""
    return CallOptions(
        common=_common_options(options),
        method=options.method,
        argument=options.argument,
        is_stream=options.stream,
        timeout=options.timeout,
    )


def _common_options(options: argparse.Namespace) -> CommonOptions:
    entry, root = _below_root(options.entry, options.root)
    return CommonOptions(
        entry=entry,
        root=root,
        payload=spindle_trio.OMITTED if options.payload is None else options.payload.value,
        user=options.user,
        startup_timeout=options.startup_timeout,
        heartbeat_timeout=options.heartbeat_timeout,
        grace=options.grace,
        verbose=options.verbose,
        bounds=bounds_from(options, readable=("@runtime", "@root")),
    )


def _below_root(entry: str, root: Path | None) -> tuple[str, Path]:
    """Make an absolute entry relative to the root; without one, to this folder, or else to its own."""
    base = Path.cwd() if root is None else root
    file = Path(entry)
    if not file.is_absolute():
        return entry, base
    for folder, path in ((base, file), (base.resolve(), file), (base.resolve(), file.resolve())):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix(), base
    return (entry, base) if root is not None else (file.name, file.parent)
