"""Writes the first frames that real processes read; `child/_launch_order.py` and `child/_exec.py` describe them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from spindle_trio.abc import LaunchOrder

__all__ = ["check_surroundings", "encode_execution", "encode_order"]

_VARIABLE_BYTES: Final = 32 * os.sysconf("SC_PAGESIZE")
"""How long one variable may be, with its name and a zero, for a program to be started with it: Linux, `execve(2)`."""


def check_surroundings(order: LaunchOrder) -> None:
    """Make sure of what a process would otherwise find out by itself, when it is too late to call it a failed launch.

    Raises:
        OSError: there is no such working directory.
        ValueError: no environment can hold one of the names or values, or no program can be given an argument.
    """
    os.stat((order.folder or order.root) / ".")
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
        order: what was ordered.
        path: the `sys.path` that the process is to have; `None` to let it keep its own.
        root: the working directory that it has still to enter, unless the order names a folder; `None` if it is there.
        environment: the environment that it has still to take on; `None` to let it keep its own.
    """
    frame: dict[str, object] = {
        "file": str(order.entry.path),
        "path": path,
        "root": None if root is None else str(order.folder or root),
        "environment": None if environment is None else dict(environment),
    }
    if order.folder is not None:
        frame["checked"] = True
    if order.arguments:
        frame["arguments"] = list(order.arguments)
    # In ASCII, since file names and variables may hold bytes that are no UTF-8, and come as lone surrogates.
    return json.dumps(frame).encode()


def encode_execution(order: LaunchOrder, command: Sequence[str], runs: str, arguments: Sequence[str] = ()) -> bytes:
    """Write the body of the frame that has a process become another program.

    Args:
        order: what was ordered.
        command: what starts that program.
        runs: what it is told to run, behind the number of its parent and before its descriptors.
        arguments: what follows its descriptors.

    Raises:
        OSError: a variable or argument is too long for a program to be started with.
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
    return json.dumps(frame).encode()  # in ASCII, as above


def _check_lengths(environment: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Refuse what `exec` would refuse, and say which text it is."""
    texts = [(f"variable {name!r}", f"{name}={value}") for name, value in environment.items()]
    for what, text in (*texts, *((f"argument {argument[:40]!r}", argument) for argument in arguments)):
        size = len(os.fsencode(text)) + 1
        if size > _VARIABLE_BYTES:
            raise OSError(
                f"the {what} has {size} bytes, and the system starts no program with one of more than {_VARIABLE_BYTES}"
            )
