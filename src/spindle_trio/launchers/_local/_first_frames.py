"""Writes the first frames of real processes; `child/_launch_order.py` and `child/_exec.py` describe them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from spindle_trio.abc import LaunchOrder

if TYPE_CHECKING:
    from spindle_trio.abc import SandboxRules

__all__ = [
    "LimitedOrder",
    "check_surroundings",
    "confined_already",
    "encode_execution",
    "encode_order",
    "with_private_folder",
    "write_sandbox",
]

_VARIABLE_BYTES: Final = 32 * os.sysconf("SC_PAGESIZE")
"""How long a variable may be, with its name and a zero, in Linux's `execve(2)`."""


@attrs.frozen
class LimitedOrder(LaunchOrder):
    """An order for a process that has to hold limits itself, or enter groups that do."""

    limits_order: Mapping[str, object] = attrs.field(factory=dict, kw_only=True)
    """As `child/_launch_order.py` describes it."""

    @staticmethod
    def of(order: LaunchOrder, limits_order: Mapping[str, object]) -> LimitedOrder:
        """Add limits to an order."""
        fields = {field.name: getattr(order, field.name) for field in attrs.fields(LaunchOrder)}
        return LimitedOrder(**fields, limits_order=limits_order)


def confined_already(order: LaunchOrder) -> LaunchOrder:
    """Return an order for a program that has its limits and its sandbox from before."""
    order = attrs.evolve(order, sandbox=None)
    return attrs.evolve(order, limits_order={}) if isinstance(order, LimitedOrder) else order


def check_surroundings(order: LaunchOrder) -> None:
    """Check what a process would otherwise find out itself, too late for a failed launch.

    Raises:
        OSError: the working directory does not exist.
        ValueError: no environment can hold one of the names or values, or no program can get one of the arguments.
    """
    os.stat(f"{order.folder or order.root}/.")
    for name, value in order.environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"no environment can hold the variable {name!r}")
    os.fsencode(
        "".join((*order.environment, *order.environment.values(), *order.arguments))
    )  # a lone surrogate may stand for no byte


def encode_order(
    order: LaunchOrder,
    path: list[str] | None,
    *,
    root: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Write an order as the body of a frame.

    Args:
        order: the launch order.
        path: the `sys.path` for the process; `None` to keep its own.
        root: the working directory to enter, unless the order names a folder; `None` if it is there.
        environment: the environment for the process; `None` to keep its own.
    """
    frame: dict[str, object] = {
        "file": str(order.entry.path),
        "entry": order.entry.entry,
        "processId": order.process_id,
        "path": path,
        "root": None if root is None else str(order.folder or root),
        "environment": None if environment is None else dict(environment),
    }
    if order.folder is not None:
        frame["checked"] = True
    if order.arguments:
        frame["arguments"] = list(order.arguments)
    if isinstance(order, LimitedOrder) and order.limits_order:
        frame["limits"] = order.limits_order
    if order.sandbox is not None and order.command is None:  # a shim enters the sandbox later
        frame["sandbox"] = write_sandbox(order.sandbox)
    # In ASCII: file names and variables may hold bytes that are no UTF-8, which appear as lone surrogates.
    return json.dumps(frame).encode()


def encode_execution(order: LaunchOrder, command: Sequence[str], runs: str, arguments: Sequence[str] = ()) -> bytes:
    """Write the body of the frame that has a process become another program.

    Args:
        order: the launch order.
        command: starts that program.
        runs: the argument after the pid of its parent and before its descriptors.
        arguments: the arguments after its descriptors.

    Raises:
        OSError: a variable or argument is too long to start a program with.
    """
    _check_lengths(order.environment, arguments)
    frame: dict[str, object] = {
        "command": list(command),
        "runs": runs,
        "root": str(order.folder or order.root),
        "environment": dict(order.environment),
    }
    if order.folder is not None:
        frame["checked"] = True
    if arguments:
        frame["arguments"] = list(arguments)
    if isinstance(order, LimitedOrder) and order.limits_order:
        frame["limits"] = order.limits_order
    if order.sandbox is not None and order.command is None:  # a shim enters the sandbox later
        frame["sandbox"] = write_sandbox(order.sandbox)
    return json.dumps(frame).encode()  # in ASCII, as above


def write_sandbox(rules: SandboxRules) -> dict[str, object]:
    """Write the rules of a sandbox, as `child/_launch_order.py` describes them."""
    written: dict[str, object] = {
        "read": list(rules.read),
        "write": list(rules.write),
        "network": rules.network,
        "subprocesses": rules.subprocesses,
    }
    if rules.listed:
        written["list"] = list(rules.listed)
    if rules.notifies:
        written["notifies"] = True
    return written


def with_private_folder(order: LaunchOrder, folder: str) -> LaunchOrder:
    """Add a private folder to an order with a sandbox: as what it may reach, and as its `TMPDIR`."""
    rules = order.sandbox
    assert rules is not None, "only a sandbox has one"
    rules = (
        attrs.evolve(rules, write=[*rules.write, folder])
        if rules.private_write
        else attrs.evolve(rules, read=[*rules.read, folder])
    )
    return attrs.evolve(order, sandbox=rules, environment={**order.environment, "TMPDIR": folder})


def _check_lengths(environment: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Refuse what `exec` would refuse, and name the text."""
    texts = [(f"variable {name!r}", f"{name}={value}") for name, value in environment.items()]
    for what, text in (*texts, *((f"argument {argument[:40]!r}", argument) for argument in arguments)):
        size = len(os.fsencode(text)) + 1
        if size > _VARIABLE_BYTES:
            raise OSError(
                f"the {what} has {size} bytes, and the system starts no program with one of more than {_VARIABLE_BYTES}"
            )
