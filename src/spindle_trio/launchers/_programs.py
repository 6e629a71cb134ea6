"""Finds the programs of commands, and puts each behind a shim. Loaded at the first spawn of a command.

The shim (`spindle_trio.program`) is a Python entry. It gets what to run as its only argument, in JSON:

    {"argv": [text, …], "environment": {name: value, …}, "folder": null, "ready": {"kind": …, …}, "lane": …,
     "stopSignal": 15, "program": "/…", "gracePeriod": 5.0, "notifyFolder": "/…", "sandbox": {…}}

`wire` has the same fields for the worker protocol. The folder is that of the shim, which it has entered. The last three
may be left out. The shim enters the sandbox once it has what it needs itself; its order has none.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from spindle_trio._errors import EntryError
from spindle_trio._model import ResolvedEntry
from spindle_trio._model._command import Command, name_of_command, plain_command
from spindle_trio.abc import LaunchOrder
from spindle_trio.launchers._local._first_frames import write_sandbox
from spindle_trio.launchers._local._private_folders import PrivateFolder

__all__ = ["behind_shim", "resolve_program"]

SHIM: Final = Path(os.path.realpath(Path(__file__).parents[1] / "program" / "entry.py"))


def behind_shim(order: LaunchOrder, command: Command, folder: PrivateFolder | None = None) -> LaunchOrder:
    """Return the order for the shim, which runs the program of an order for a command.

    Args:
        order: for the command.
        command: the command.
        folder: removed after the end of the process; one that notifies has one.

    Raises:
        OSError: there can be no place for its socket.
    """
    specification: dict[str, object] = {**plain_command(command)}
    specification["folder"] = None
    specification["program"] = str(order.entry.program)
    if order.grace_period is not None:
        specification["gracePeriod"] = order.grace_period
    if command.ready == "notify" and folder is not None:
        specification["notifyFolder"] = folder.make_passage()
    if order.sandbox is not None:
        specification["sandbox"] = write_sandbox(order.sandbox)
    # In ASCII: texts may hold bytes that are no UTF-8, as lone surrogates.
    return attrs.evolve(order, arguments=(json.dumps(specification),))


def resolve_program(command: Command, root: Path, environment: Mapping[str, str]) -> ResolvedEntry:
    """Find a command's program, or say why it cannot be run.

    Args:
        command: the command.
        root: the worker's root, an absolute path, from which a relative path counts.
        environment: of the program. Relative folders on its `PATH` are left out: they would depend on where it runs.

    Returns:
        The text that names its process, the shim's file, and the program.

    Raises:
        EntryError: the program is not there, is no file, or may not be executed.
    """
    name = command.argv[0]
    if "/" in name:
        program = os.path.join(root, name)
        problem = _problem_with(program)
        if problem is not None:
            raise EntryError(f"the program {name!r} of a command {problem}{_whose(name, root)}")
    else:
        program = _on_the_path(name, environment.get("PATH", os.defpath))
    return ResolvedEntry(name_of_command(command), SHIM, Path(program))


def _on_the_path(name: str, path: str) -> str:
    problem = None
    for folder in path.split(":"):
        if folder.startswith("/"):
            program = os.path.join(folder, name)
            found = _problem_with(program)
            if found is None:
                return program
            if found != _MISSING:
                problem = problem or f"{found}: {program!r}"
    what = problem or f"is in no folder of the PATH {path!r}"
    raise EntryError(
        f"the program {name!r} of a command {what}; install it, name it by a path, or give the command an "
        "environment={'PATH': …}"
    )


_MISSING: Final = "does not exist"


def _problem_with(program: str) -> str | None:
    """Say why a file cannot be executed; `None` if nothing shows."""
    try:
        mode = os.stat(program).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "is a folder"
    if not stat.S_ISREG(mode):
        return "is no regular file"
    if not os.access(program, os.X_OK):
        return "may not be executed by this user"
    return None


def _whose(name: str, root: Path) -> str:
    where = "" if name.startswith("/") else f", from the root {str(root)!r}"
    return f"{where}; name a file that may be executed (chmod +x), or a program on the PATH without a slash"
