"""Removes the control groups of processes that have ended, and what these have made below them."""

from __future__ import annotations

import os

_MOST = 1000
"""How many groups to remove at once, at most, so that a process with very many holds up nothing."""


def remove_group(folder: str) -> bool:
    """Remove a control group and those below it that are empty; return whether it is gone. Never raises."""
    if _is_removed(folder):  # mostly there is nothing below
        return True
    found = [folder]
    for parent in found:  # grows while it is walked
        found += _folders(parent)[: _MOST - len(found)]
    for group in reversed(found[1:]):
        _is_removed(group)
    return _is_removed(folder)


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as items:
            return [item.path for item in items if item.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _is_removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
