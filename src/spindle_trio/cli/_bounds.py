"""What a process of the command line may use and reach: the options for limits and sandboxes, and what they mean."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

import attrs

import spindle_trio
from spindle_trio.cli import _arguments as arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

PRESETS: Final = {
    "read-only": spindle_trio.READ_ONLY,
    "workspace-write": spindle_trio.WORKSPACE_WRITE,
    "offline": spindle_trio.OFFLINE,
}
"""The sandboxes that have a name."""


class ContradictionError(Exception):
    """Two options contradict each other; says how."""


@attrs.frozen
class Bounds:
    """The limits and the sandbox of a process."""

    limits: spindle_trio.ResourceLimits | None
    """`None` for no limits."""
    sandbox: spindle_trio.Sandbox | None
    """`None` for no sandbox."""


def add_bounds(command: argparse.ArgumentParser) -> None:
    """Add the options for limits and sandboxes."""
    limits = command.add_argument_group("limits of the process and all that it starts")
    limits.add_argument(
        "--memory", type=arguments.size, metavar="SIZE", help="memory, such as 512M or 2G; over it, all are killed"
    )
    limits.add_argument("--pids", type=arguments.count, metavar="N", help="processes and threads")
    limits.add_argument("--cpus", type=arguments.cpus, metavar="N", help="processors kept busy, such as 0.5")
    limits.add_argument("--time", type=arguments.run_time, metavar="SECONDS", help="time allowed from ready on")
    sandbox = command.add_argument_group("sandbox: what is not named is refused")
    sandbox.add_argument(
        "--sandbox",
        choices=PRESETS,
        help="read-only: read the root, no network; workspace-write: change what is below the root as well; "
        "offline: all files, no network",
    )
    sandbox.add_argument(
        "--read", type=arguments.path, action="append", default=[], metavar="PATH", help="let it read a file or folder"
    )
    sandbox.add_argument(
        "--write", type=arguments.path, action="append", default=[], metavar="PATH", help="let it change one, too"
    )
    sandbox.add_argument("--offline", action="store_true", help="without a network")


def bounds_from(options: argparse.Namespace, readable: Sequence[str]) -> Bounds:
    """Put together what was typed.

    Args:
        options: has the options that `add_bounds` adds.
        readable: what a sandbox without a preset lets it read in any case.

    Raises:
        ContradictionError: two of them contradict each other.
    """
    try:
        return Bounds(_limits(options), _sandbox(options, readable))
    except ValueError as error:
        raise ContradictionError(str(error)) from None


def _limits(options: argparse.Namespace) -> spindle_trio.ResourceLimits | None:
    given = {"memory": options.memory, "pids": options.pids, "cpus": options.cpus, "run_seconds": options.time}
    given = {name: value for name, value in given.items() if value is not None}
    return spindle_trio.ResourceLimits(**given) if given else None


def _sandbox(options: argparse.Namespace, readable: Sequence[str]) -> spindle_trio.Sandbox | None:
    read, write = options.read, options.write
    if options.sandbox is not None:
        base = PRESETS[options.sandbox]
    elif read or write:
        network = "none" if options.offline else "host"
        base = spindle_trio.Sandbox(read=readable, write=("@tmp",), network=network)
    else:
        return spindle_trio.OFFLINE if options.offline else None
    return attrs.evolve(base, read=(*base.read, *read), write=(*base.write, *write))
