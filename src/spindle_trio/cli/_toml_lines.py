"""Finds the line of each field of a TOML file: the standard library's parser tells none."""

from __future__ import annotations

import tomllib
from typing import Final

FieldPath = tuple[str, ...]

_HEADER: Final = "["


def lines_of_fields(text: str) -> dict[FieldPath, int]:
    """Map the path of each table and field to the line on which it first stands; lines count from 1.

    A statement of TOML ends with a line, and what is cut off before its end never parses: strings and arrays of
    several lines need their last sign. So each statement is the shortest run of lines that parses.

    Args:
        text: TOML that parses as a whole.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    found: dict[FieldPath, int] = {}
    table: FieldPath = ()
    begin = 0
    for end in range(1, len(lines) + 1):
        statement = "\n".join(lines[begin:end])
        try:
            parsed: dict[str, object] = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        paths = _paths(parsed)
        if statement.lstrip().startswith(_HEADER):
            table = max(paths, key=len)
        else:
            paths = [table + path for path in paths]
        for path in paths:
            found.setdefault(path, begin + 1)
        begin = end
    return found


def _paths(value: object) -> list[FieldPath]:
    """List the paths of all that is in a table, and of the tables in an array."""
    if isinstance(value, list):
        return [path for item in value for path in _paths(item)]
    if not isinstance(value, dict):
        return []
    found: list[FieldPath] = []
    for name, inner in value.items():
        found.append((name,))
        found += [(name, *path) for path in _paths(inner)]
    return found
