"""What was typed for `run` and `call`, put together and checked as far as possible without a host."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

import spindle_trio

if TYPE_CHECKING:
    from spindle_trio import JsonValue

EXIT_REFUSED: Final = 2
"""A bad option or entry. `argparse` uses the same."""


@attrs.frozen
class RunOptions:
    """The arguments of `spindle-trio run`."""

    entry: str
    """As typed; made relative if it was absolute and lies below the root."""
    root: Path
    """An absolute path of a folder that exists."""
    payload: object
    """A JSON value, or `OMITTED`."""
    kind: str | None
    """As typed."""
    key: str | None
    """As typed."""
    user: str
    """The owner of the process."""
    metadata: dict[str, JsonValue] | None
    """A JSON object."""
    startup_timeout: float
    """Seconds, above 0."""
    heartbeat_timeout: float
    """Seconds, above 0; `math.inf` for none."""
    grace: float
    """Seconds, 0 or more."""
    as_json: bool
    """Whether to print the wire form."""
    verbose: bool
    """Whether to show the log, which includes what the process prints."""


def run_options(options: argparse.Namespace) -> RunOptions:
    """Put together the arguments of `run`."""
    entry, root = _below_root(options.entry, options.root)
    return RunOptions(
        entry=entry,
        root=root,
        payload=spindle_trio.OMITTED if options.payload is None else options.payload.value,
        kind=options.kind,
        key=options.key,
        user=options.user,
        metadata=options.metadata,
        startup_timeout=options.startup_timeout,
        heartbeat_timeout=options.heartbeat_timeout,
        grace=options.grace,
        as_json=options.json,
        verbose=options.verbose,
    )


@attrs.frozen
class CallOptions:
    """The arguments of `spindle-trio call`."""

    entry: str
    """As in `RunOptions`."""
    root: Path
    """As in `RunOptions`."""
    method: str
    """As typed."""
    argument: JsonValue
    """What is passed to the method."""
    is_stream: bool
    """Whether to read it as a stream without asking first."""
    timeout: float
    """Seconds, above 0; `math.inf` for none."""
    payload: object
    """A JSON value, or `OMITTED`."""
    user: str
    """The owner of the process."""
    startup_timeout: float
    """Seconds, above 0."""
    heartbeat_timeout: float
    """Seconds, above 0; `math.inf` for none."""
    grace: float
    """Seconds, 0 or more."""
    verbose: bool
    """Whether to show the log, which includes what the process prints."""


def call_options(options: argparse.Namespace) -> CallOptions:
    """Put together the arguments of `call`."""
    entry, root = _below_root(options.entry, options.root)
    return CallOptions(
        entry=entry,
        root=root,
        method=options.method,
        argument=options.argument,
        is_stream=options.stream,
        timeout=options.timeout,
        payload=spindle_trio.OMITTED if options.payload is None else options.payload.value,
        user=options.user,
        startup_timeout=options.startup_timeout,
        heartbeat_timeout=options.heartbeat_timeout,
        grace=options.grace,
        verbose=options.verbose,
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
