"""Reads the tables of a TOML file field by field, and collects what is wrong, with the lines."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

from spindle_trio.cli._toml_lines import FieldPath, line_of_long_number, lines_of_fields

T = TypeVar("T")
D = TypeVar("D")

_LONGEST_SHOWN: Final = 40
"""Signs of a wrong value that an error shows."""
_AT: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
"""Where the parser found that a file is no TOML."""


class FileRefusedError(Exception):
    """A file is not as it should be. As text, a line for each thing that is wrong, in the order of the file."""


class WrongValueError(Exception):
    """A field has a value that it cannot have. The text says what it may be."""

    def __init__(self, wanted: str, *below: str, found: object = None) -> None:
        """Say what is wrong.

        Args:
            wanted: what the value may be, as in ``has to be a text``.
            below: where in the field it is.
            found: the value; none if it is the field's own.
        """
        super().__init__(wanted)
        self.below: FieldPath = below
        self.found: object = found


class CheckedFile:
    """A TOML file that is being read."""

    def __init__(self, name: str, data: bytes) -> None:
        """Parse it.

        Args:
            name: the file's name, for errors.
            data: what is in it.

        Raises:
            FileRefusedError: it is no TOML.
        """
        self._name = name
        self._problems: list[tuple[FieldPath, str]] = []
        try:
            self._text = data.decode("utf-8-sig")  # some editors write a mark at the beginning
        except UnicodeDecodeError as error:
            raise self._no_toml(error.object[: error.start].count(b"\n") + 1, "it is not UTF-8") from None
        try:
            document: dict[str, object] = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            at = _AT.search(str(error))
            line = self._text.rstrip().count("\n") + 1 if at is None or at[1] is None else int(at[1])
            raise self._no_toml(line, _AT.sub("", str(error))) from None
        except RecursionError:
            raise self._no_toml(1, "it is nested too deeply") from None
        except ValueError:
            raise self._no_toml(line_of_long_number(self._text), "a number has too many digits") from None
        self.top: CheckedTable = CheckedTable(self, (), document)
        """The table that the file is."""

    def wrong(self, path: FieldPath, text: str) -> None:
        """Note what is wrong with a field.

        Args:
            path: of the field.
            text: a sentence that begins after the field's path.
        """
        self._problems.append((path, f"{written(path)} {text}".strip()))

    def is_wrong(self, path: FieldPath) -> bool:
        """Whether something is known to be wrong with a field, or in it."""
        return any(wrong[: len(path)] == path for wrong, _ in self._problems)

    def finish(self) -> None:
        """Refuse the file if anything is wrong.

        Raises:
            FileRefusedError: something is.
        """
        if self._problems:
            lines = lines_of_fields(self._text)
            located = [(_line_of(path, lines), text) for path, text in self._problems]
            located.sort(key=lambda problem: problem[0])
            raise FileRefusedError("\n".join(f"{self._name}:{line}: {text}" for line, text in located))

    def _no_toml(self, line: int, text: str) -> FileRefusedError:
        return FileRefusedError(f"{self._name}:{line}: this is no TOML: {text}")


class CheckedTable:
    """One table of a file: each field is taken once, and what is then left is unknown."""

    def __init__(self, file: CheckedFile, path: FieldPath, fields: Mapping[str, object]) -> None:
        self.path: FieldPath = path
        """Where it is in the file."""
        self._file = file
        self._fields = fields
        self._known: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        return not self._file.is_wrong(self.path)

    def has(self, name: str, kind: type[object] = object) -> bool:
        """Whether a field is there, and of a kind."""
        return name in self._fields and isinstance(self._fields[name], kind)

    def take(self, name: str, read: Callable[[object], T], default: D) -> T | D:
        """Read a field; if it is not there, or wrong, return the default."""
        self._known.append(name)
        if name not in self._fields:
            return default
        value = self._fields[name]
        try:
            return read(value)
        except WrongValueError as error:
            found = value if error.found is None else error.found
            self._file.wrong((*self.path, name, *error.below), f"is {shown(found)}; it {error}")
        return default

    def table(self, name: str, example: str) -> CheckedTable | None:
        """Take a field that is a table; if it is not there, or no table, return nothing.

        Args:
            name: of the field.
            example: how to write the table.
        """
        fields = self.take(name, _as_table(example), None)
        return None if fields is None else CheckedTable(self._file, (*self.path, name), fields)

    def refuse(self, name: str, text: str) -> None:
        """Say of a field that it cannot be given; if it is not there, do nothing."""
        if name in self._fields:
            self._known.append(name)
            self.wrong(name, text)

    def wrong(self, name: str | None, text: str) -> None:
        """Note what is wrong with a field, or with the table as a whole."""
        self._file.wrong(self.path if name is None else (*self.path, name), text)

    def end(self, elsewhere: Mapping[str, str] | None = None) -> None:
        """Note the fields that were not taken as unknown.

        Args:
            elsewhere: fields that are often put here, with where they belong.
        """
        for name in self._fields:
            if name in self._known:
                continue
            if elsewhere is not None and name in elsewhere:
                self.wrong(name, elsewhere[name])
            else:
                self.wrong(name, f"is no field{near(name, self._known)}; there are {listed(self._known)}")


def near(name: str, known: Iterable[str]) -> str:
    """Ask whether the nearest of the known names was meant: text to go on with, or none."""
    names = list(known)
    found = difflib.get_close_matches(name, names, n=1)
    found = found or [known for known in names if known.startswith(name) or name.startswith(known)]
    return f" (did you mean {found[0]}?)" if name and found else ""


def listed(names: Iterable[str]) -> str:
    """Write names as an enumeration."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def shown(value: object) -> str:
    """Write a value as the file has it, or nearly so, and not at length."""
    if isinstance(value, dict):
        return "a table"
    try:
        text = repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # it is, or has, a number of more digits than Python writes
        return "a value with too many digits"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def written(path: FieldPath) -> str:
    """Write a path as TOML does."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else shown(part) for part in path)


def _as_table(example: str) -> Callable[[object], dict[str, object]]:
    def read(value: object) -> dict[str, object]:
        if not isinstance(value, dict):
            raise WrongValueError(f"has to be a table, as in {example}")
        return value

    return read


def _line_of(path: FieldPath, lines: Mapping[FieldPath, int]) -> int:
    """Find the line of a field, or else of the table around it."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)
