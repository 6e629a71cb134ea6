"""Suggests what to type after an entry was refused."""

from __future__ import annotations

import difflib
import os
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SUFFIXES: Final = (".py", ".js", ".mjs", ".cjs")
WANTED: Final = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
_MOST_FILES: Final = 5_000
"""How many files below the root to search for a similar name."""
_PASSED_OVER: Final = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})


def command_instead(entry: str, root: Path, command: str = "run {}") -> str:
    """Guess which command was meant.

    Args:
        entry: as typed.
        root: the worker's root, an absolute path of a folder that exists.
        command: of `spindle-trio`, with `{}` in the place of the root and the entry.
    """
    typed = Path(entry)
    if _names_an_entry(typed, root):
        return "spindle-trio doctor, to see what is missing"  # the command is right as typed
    for base in (root, Path.cwd()):
        if (base / typed).is_file():
            return _command_for((base / typed).resolve(), root, command)
    near = nearest_entry(entry, root)
    if near is not None:
        return command_with(near, root, command)
    words = _fill(command, "ENTRY")
    return f"{words}, where ENTRY is the path of a {WANTED} file below {root}, or add --root FOLDER"


def _names_an_entry(typed: Path, root: Path) -> bool:
    if typed.is_absolute() or ".." in typed.parts or typed.suffix not in SUFFIXES:
        return False
    return (root / typed).is_file() and (root / typed).resolve().is_relative_to(root.resolve())


def _command_for(file: Path, root: Path, command: str) -> str:
    """Name an existing file below the root, or below another root if necessary."""
    if file.suffix not in SUFFIXES:
        return f"{_fill(command, 'ENTRY')}, where ENTRY is a {WANTED} file"
    if file.is_relative_to(root.resolve()):
        return command_with(file.relative_to(root.resolve()).as_posix(), root, command)
    return command_with(file.name, file.parent, command)


def _fill(command: str, entry: str) -> str:
    return f"spindle-trio {command.replace('{}', entry)}"


def command_with(entry: str, root: Path, command: str) -> str:
    """Write a command with an entry, and with the root if that is not the current folder."""
    below = "" if root.resolve() == Path.cwd().resolve() else f"--root {shlex.quote(str(root))} "
    return _fill(command, f"{below}{shlex.quote(entry)}")


def only_takes_calls(file: Path) -> bool:
    """Whether a Python module has `calls`, and no function to run; of other files, not."""
    if file.suffix != ".py":
        return False
    try:
        with warnings.catch_warnings(action="ignore"):
            names = compile(file.read_bytes(), file, "exec").co_names
    except (OSError, SyntaxError, ValueError, RecursionError):
        return False
    return "calls" in names and "run" not in names and "default" not in names


def nearest_entry(entry: str, root: Path) -> str | None:
    """Find the file below the root whose path, or else whose name, is closest to what was typed.

    Suffixes do not count, since they make any two names alike; but files with the same one come first.
    """
    typed = Path(entry)
    files = sorted(_entry_files(root), key=lambda file: Path(file).suffix != typed.suffix)
    by_path = {_without_suffix(Path(file)): file for file in reversed(files)}
    by_name = {Path(file).stem: file for file in reversed(files)}
    near = difflib.get_close_matches(_without_suffix(typed), by_path, n=1, cutoff=0.8)
    if near:
        return by_path[near[0]]
    near = difflib.get_close_matches(typed.stem, by_name, n=1, cutoff=0.7)
    return by_name[near[0]] if near else None


def _without_suffix(path: Path) -> str:
    return str(path.parent / path.stem)  # with_suffix() refuses paths without a name, such as "."


def _entry_files(root: Path) -> Iterator[str]:
    seen = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _PASSED_OVER)
        for name in sorted(files):
            seen += 1
            if seen > _MOST_FILES:
                return
            if name.endswith(SUFFIXES):
                yield (Path(folder) / name).relative_to(root).as_posix()
