"""Finds and checks the file that an entry names, for all launchers of files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from spindle_trio._errors import EntryError
from spindle_trio._model import ResolvedEntry

__all__ = [
    "JAVASCRIPT_SUFFIXES",
    "PYTHON_SUFFIXES",
    "KnownEntries",
    "normalise_entry",
    "normalise_folder",
    "resolve_entry",
    "resolve_folder",
]

PYTHON_SUFFIXES: Final = (".py",)
JAVASCRIPT_SUFFIXES: Final = (".js", ".mjs", ".cjs")

_MOST_KNOWN: Final = 256
"""How many accepted entries to remember; after that, all are looked up anew once."""

_DRIVE: Final = re.compile(r"[A-Za-z]:")


def resolve_entry(entry: str, root: Path, suffixes: Sequence[str]) -> ResolvedEntry:
    """Accept an entry that names a file under the root, or say why not.

    Args:
        entry: as the caller gave it; backslashes count as slashes.
        root: the worker's root, an absolute path.
        suffixes: the ones that the launcher runs, each with its dot. Case matters.

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
    real_root = _real_root(root, f"the entry {name!r}")
    try:
        path = os.path.realpath(f"{real_root}/{name}", strict=True)
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise EntryError(
            f"there is no file {name!r} under the root {str(root)!r}; name an existing {wanted} file below it"
        ) from None
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise EntryError(f"the entry {name!r} under the root {str(root)!r} cannot be used: {_reason(error)}") from None
    if not _is_below(path, real_root):
        raise EntryError(
            f"the entry {name!r} links out of the root {str(root)!r}; name a file that is really under the root"
        )
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise EntryError(f"the entry {name!r} under the root {str(root)!r} is {what}; name a {wanted} file")
    return ResolvedEntry(name, Path(path))


class KnownEntries:
    """Entries that were accepted before, in paths without links.

    A later spawn of one looks only whether a file is still there, with no link above it: one look at the opened file,
    instead of one at each part of the path. What runs once in a while finds nothing in the processor's caches.
    """

    def __init__(self, suffixes: Sequence[str]) -> None:
        """Begin with none.

        Args:
            suffixes: those that the launcher runs, each with its dot.
        """
        self._suffixes = suffixes
        self._known: dict[tuple[str, Path], tuple[ResolvedEntry, str]] = {}

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        """Accept an entry that names a file under the root, or say why not; see `resolve_entry`.

        Raises:
            EntryError: as there.
        """
        known = self._known.get((entry, root))
        if known is not None and _is_file_without_links(known[1]):
            return known[0]
        resolved = resolve_entry(entry, root, self._suffixes)
        file = f"{root}/{resolved.entry}"
        if str(resolved.path) == file:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[entry, root] = resolved, file
        return resolved


def _is_file_without_links(path: str) -> bool:
    """Whether this is a regular file, and no part of its path is a link."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and os.readlink(f"/proc/self/fd/{fd}") == path
    except OSError:
        return False  # there is no `/proc`
    finally:
        os.close(fd)


def resolve_folder(folder: str, root: Path) -> Path:
    """Accept a folder below the root for a process to run in, or say why not.

    Args:
        folder: as the caller gave it; backslashes count as slashes.
        root: the worker's root, an absolute path.

    Returns:
        The folder with all links followed.

    Raises:
        EntryError: says what is wrong with the folder and what would be right.
    """
    name = normalise_folder(folder, root)
    real_root = _real_root(root, f"the folder {name!r}")
    try:
        path = os.path.realpath(f"{real_root}/{name}", strict=True)
    except (OSError, RuntimeError) as error:
        raise EntryError(f"the folder {name!r} under the root {str(root)!r} cannot be used: {_reason(error)}") from None
    if not _is_below(path, real_root):
        raise EntryError(
            f"the folder {name!r} links out of the root {str(root)!r}; name a folder that is really under the root"
        )
    if not os.path.isdir(path):
        raise EntryError(f"the folder {name!r} under the root {str(root)!r} is not a folder")
    return Path(path)


def _real_root(root: Path, whose: str) -> str:
    try:
        return os.path.realpath(root, strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # a NUL or a lone surrogate in it is a ValueError
        raise EntryError(f"the root {str(root)!r} of {whose} cannot be used: {_reason(error)}") from None


def _is_below(path: str, real_root: str) -> bool:
    return path.startswith(real_root if real_root.endswith("/") else f"{real_root}/")


def normalise_folder(folder: str, root: Path) -> str:
    """Write a folder as a path below the root with single forward slashes, or refuse it.

    Raises:
        EntryError: it is blank, absolute, or climbs.
    """
    return _normalised(folder, "folder", f"name a folder relative to the root {str(root)!r}, as in 'data'")


def normalise_entry(entry: str, root: Path) -> str:
    """Write an entry as a path below the root with single forward slashes, or refuse it.

    Raises:
        EntryError: it is blank, absolute, or climbs.
    """
    return _normalised(entry, "entry", f"name a file relative to the root {str(root)!r}, as in 'dist/entry.py'")


def _normalised(given: str, what: str, hint: str) -> str:
    name = given.strip().replace("\\", "/")
    if not name:
        raise EntryError(f"the {what} is blank; {hint}")
    if "\0" in name or not _is_unicode(name):
        raise EntryError(f"the {what} {name!r} contains characters that no file name may contain; {hint}")
    if name.startswith("/") or _DRIVE.match(name):
        raise EntryError(f"the {what} {name!r} is an absolute path; {hint}")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise EntryError(f"the {what} {name!r} climbs through '..'; {hint}")
    if not parts:
        raise EntryError(f"the {what} {name!r} is the root itself; {hint}")
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
