"""Finds in what a process has said the access that its sandbox has denied. Nothing here asks the system."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final

from spindle_trio._model._sandbox import is_inside
from spindle_trio.abc import SandboxRules

__all__ = ["find_denial"]

_MOST_CHARACTERS: Final = 64 * 1024
"""How much of the end of what was said is searched."""

_PYTHON: Final = re.compile(r"\[Errno (?:1|13|18)\] [^:\n]{1,80}: '([^'\n]{1,4096})'(?: -> '([^'\n]{1,4096})')?")
_NODE: Final = re.compile(r"\bE(?:ACCES|PERM|XDEV): [^,\n]{1,80}, \w+ '([^'\n]{1,4096})'(?: -> '([^'\n]{1,4096})')?")
_SHELL: Final = re.compile(
    r"(?:: |cannot [a-z ]{1,40} )['\"‘]?(/[^:'\"’\n]{0,4095})['\"’]?: (?:Permission denied|Operation not permitted)"
)
"""How Python, Node, and most programs of a system name a file that they may not reach."""

_SOCKET: Final = re.compile(
    r"socket\.socket[^\n]*\n(?:[^\n]*\n){0,8}?PermissionError: \[Errno 1\]|\b(?:connect|bind|listen|send) EPERM\b"
)


def find_denial(said: str, rules: SandboxRules, folder: str) -> str | None:
    """Say which access the sandbox has denied, and what it allows there; `None` if none is named.

    Args:
        said: errors, tracebacks and the last of stderr.
        rules: the sandbox.
        folder: where relative paths count from.
    """
    said = said[-_MOST_CHARACTERS:]
    for path in _named_paths(said):
        if "\0" in path:
            continue
        place = os.path.normpath(os.path.join(folder, path))
        if any(is_inside(place, allowed) for allowed in rules.write):
            continue
        reads = any(is_inside(place, allowed) for allowed in rules.read)
        return f"{path!r}: its sandbox allows {'only reading' if reads else 'nothing'} there"
    if rules.network != "host" and _SOCKET.search(said):
        return f"a socket: its sandbox has network={rules.network!r}"
    return None


def _named_paths(said: str) -> Iterator[str]:
    """Find the paths of errors, the last one first: that is what has ended the process, most likely."""
    found = [match for pattern in (_PYTHON, _NODE, _SHELL) for match in pattern.finditer(said)]
    for match in sorted(found, key=lambda match: match.start(), reverse=True):
        yield from filter(None, match.groups())
