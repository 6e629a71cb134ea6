"""Finds the line of each field of a TOML file: the standard library's parser tells none."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Final

FieldPath = tuple[str, ...]

_HEADER: Final = "["
_TOKEN: Final = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\])*"|'[^']*'|\#[^\n]*|[\[\]{}\n]''', re.DOTALL
)
"""Texts of the four kinds, comments, brackets, and the ends of lines."""


def lines_of_fields(text: str) -> dict[FieldPath, int]:
    """Map the path of each table and field to the line on which it first stands; lines count from 1.

    Args:
        text: TOML that parses as a whole.
    """
    found: dict[FieldPath, int] = {}
    table: FieldPath = ()
    for line, statement in _statements(text.replace("\r\n", "\n")):
        paths = _paths(tomllib.loads(statement))
        if statement.lstrip().startswith(_HEADER):
            table = max(paths, key=len)
        else:
            paths = [table + path for path in paths]
        for path in paths:
            found.setdefault(path, line)
    return found


def line_of_long_number(text: str) -> int:
    """Find the statement with a number of more digits than Python reads, and return its line.

    Args:
        text: TOML that has one, and parses up to there.
    """
    following = 1
    for line, statement in _statements(text.replace("\r\n", "\n")):
        try:
            tomllib.loads(statement)
        except ValueError:
            return line
        following = line + statement.count("\n")
    return following  # its brackets never close


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Cut TOML into statements, which end with a line outside of all brackets. Yields also where each begins."""
    begin, line, depth = 0, 1, 0
    for token in _TOKEN.finditer(text + "\n"):
        sign = token[0]
        if sign in "[{":
            depth += 1
        elif sign in "]}":
            depth -= 1
        elif sign == "\n" and depth == 0:
            statement = text[begin : token.end()]
            yield line, statement
            line += statement.count("\n")
            begin = token.end()


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
