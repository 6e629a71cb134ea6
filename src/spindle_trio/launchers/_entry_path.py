"""Which file an entry names: the checks that all launchers of files share."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from spindle_trio._errors import EntryError
from spindle_trio._model import ResolvedEntry

__all__ = ["JAVASCRIPT_SUFFIXES", "PYTHON_SUFFIXES", "normalise_entry", "resolve_entry"]

PYTHON_SUFFIXES: Final = (".py",)
JAVASCRIPT_SUFFIXES: Final = (".js", ".mjs", ".cjs")

_DRIVE: Final = re.compile(r"[A-Za-z]:")


def resolve_entry(entry: str, root: Path, suffixes: Sequence[str]) -> ResolvedEntry:
    """Accept an entry that names a file under the root, or say why not.

    Args:
        entry: as the caller gave it; backslashes count as slashes.
        root: the worker's root, an absolute path.
        suffixes: those that the launcher runs, each with its dot. Case matters.

    Returns:
        The entry's name below the root, and the file with all links followed.

    Raises:
        EntryError: says what is wrong with the entry and what would be right.
    """
    name = normalise_entry(entry, root)
    wanted = " or ".join(suffixes)
    suffix = os.path.splitext(name)[1]
    if suffix not in suffixes:
        has = f"has the suffix {suffix}" if suffix else "has no suffix"
        raise EntryError(f"the entry {name!r} {has}; this launcher runs files whose names end in {wanted}")
    try:
        real_root = os.path.realpath(root, strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # a NUL or a lone surrogate in it is a ValueError
        raise EntryError(f"the root {str(root)!r} of the entry {name!r} cannot be used: {_reason(error)}") from None
    try:
        path = os.path.realpath(f"{real_root}/{name}", strict=True)
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise EntryError(
            f"there is no file {name!r} under the root {str(root)!r}; name an existing {wanted} file below it"
        ) from None
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise EntryError(f"the entry {name!r} under the root {str(root)!r} cannot be used: {_reason(error)}") from None
    if not path.startswith(real_root if real_root.endswith("/") else f"{real_root}/"):
        raise EntryError(
            f"the entry {name!r} links out of the root {str(root)!r}; name a file that is really under the root"
        )
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise EntryError(f"the entry {name!r} under the root {str(root)!r} is {what}; name a {wanted} file")
    return ResolvedEntry(name, Path(path))


def normalise_entry(entry: str, root: Path) -> str:
    """Write an entry as a path below the root with single forward slashes, or refuse it.

    Raises:
        EntryError: it is blank, absolute, or climbs.
    """
    name = entry.strip().replace("\\", "/")
    hint = f"name a file relative to the root {str(root)!r}, as in 'dist/entry.py'"
    if not name:
        raise EntryError(f"the entry is blank; {hint}")
    if "\0" in name or not _is_unicode(name):
        raise EntryError(f"the entry {name!r} has characters in it that no name may have; {hint}")
    if name.startswith("/") or _DRIVE.match(name):
        raise EntryError(f"the entry {name!r} is an absolute path; {hint}")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise EntryError(f"the entry {name!r} climbs through '..'; {hint}")
    if not parts:
        raise EntryError(f"the entry {name!r} is the root itself; {hint}")
    return "/".join(parts)


def _is_unicode(name: str) -> bool:
    """Whether a name can travel in a frame: it has no lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: OSError | RuntimeError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
