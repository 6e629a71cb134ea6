"""What the fields of a file of services may be: readers, whose errors say what to write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, TypeVar

from spindle_trio.cli._advice import nearest_entry
from spindle_trio.cli._checked_table import WrongValueError, near, shown

if TYPE_CHECKING:
    from spindle_trio import JsonValue

Word = TypeVar("Word", bound=str)

_NO_JSON: Final = "has to be a JSON value: a text, a number, true, false, an array or a table"


def text(value: object) -> str:
    """Read a text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise WrongValueError("has to be a text that is not blank")
    return value


def one_of(words: tuple[Word, ...], otherwise: str = "") -> Callable[[object], Word]:
    """Make the reader of one of a few words.

    Args:
        words: these.
        otherwise: what else the value may be, for the error.
    """

    def read(value: object) -> Word:
        for word in words:
            if value == word:
                return word
        *first, last = [*(f'"{word}"' for word in words), *([otherwise] if otherwise else [])]
        meant = near(value, words) if isinstance(value, str) else ""
        raise WrongValueError(f"has to be {', '.join(first)} or {last}{meant}")

    return read


def number(value: object, wanted: str = "has to be a number") -> float:
    """Read a number that is one, and no larger than numbers of seconds are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongValueError(wanted)
    try:
        if math.isnan(value):
            raise WrongValueError(wanted)
    except OverflowError:
        raise WrongValueError(wanted) from None
    return value


def timeout(value: object) -> float:
    """Read seconds above 0."""
    wanted = "has to be seconds above 0, such as 15"
    if not 0 < number(value, wanted) < math.inf:
        raise WrongValueError(wanted)
    return number(value)


def timeout_or_inf(value: object) -> float:
    """Read seconds above 0, or `inf`."""
    wanted = "has to be seconds above 0, such as 15, or inf for no watchdog"
    if not number(value, wanted) > 0:
        raise WrongValueError(wanted)
    return number(value)


def grace(value: object) -> float:
    """Read seconds, 0 or more."""
    wanted = "has to be seconds, 0 or more, such as 5"
    if not 0 <= number(value, wanted) < math.inf:
        raise WrongValueError(wanted)
    return number(value)


def count_or_inf(value: object) -> int | None:
    """Read a count of at least 1; `inf` is none."""
    if value == math.inf:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise WrongValueError("has to be a whole number above 0, or inf for never")
    return value


def flag(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise WrongValueError("has to be true or false")
    return value


def variables(value: object) -> dict[str, str]:
    """Read variables of an environment."""
    if not isinstance(value, dict):
        raise WrongValueError("""has to be a table of texts, such as { PORT = "5432" }""")
    read: dict[str, str] = {}
    for name, given in value.items():
        if not isinstance(given, str):
            raise WrongValueError(f"""has to be a text, such as {name} = "5432\"""", name, found=given)
        if not name or "=" in name or "\0" in name + given:
            raise WrongValueError("cannot be: no variable has a = in its name, or a NUL", name, found=given)
        read[name] = given
    return read


def words(value: object) -> tuple[str, ...]:
    """Read arguments."""
    wanted = """has to be an array of texts, such as ["--fast", "3"]"""
    if not isinstance(value, list):
        raise WrongValueError(wanted)
    for given in value:
        if not isinstance(given, str) or "\0" in given:
            raise WrongValueError(f"{wanted}: {shown(given)} is none")
    return tuple(value)


def payload(value: object) -> JsonValue:
    """Read a JSON value; the dates and infinities of TOML are none."""
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list):
        return [payload(item) for item in value]
    if isinstance(value, Mapping):
        read: dict[str, JsonValue] = {}
        for name, inner in value.items():
            try:
                read[name] = payload(inner)
            except WrongValueError as error:
                raise WrongValueError(str(error), name, *error.below, found=error.found) from None
        return read
    raise WrongValueError(_NO_JSON, found=value)


def folder_below(base: Path) -> Callable[[object], Path]:
    """Make the reader of a folder that exists, relative to another one."""

    def read(value: object) -> Path:
        folder = base / text(value)
        if not _holds(Path.is_dir, folder):
            raise WrongValueError(f"has to be a folder that exists, relative to {base}")
        return folder

    return read


def part_of(root: Path, what: Callable[[Path], bool], kind: str) -> Callable[[object], str]:
    """Make the reader of a path of something below the root.

    Args:
        root: a folder.
        what: whether a path is such a thing.
        kind: what that is called.
    """

    def read(value: object) -> str:
        path = PurePosixPath(text(value))
        if path.is_absolute() or ".." in path.parts:
            raise WrongValueError(f"has to be the path of a {kind} below the root, {root}")
        if not _holds(what, root / path):
            raise WrongValueError(f"has to be a {kind} that exists below the root, {root}{_meant(str(path), root)}")
        return text(value)

    return read


def _holds(what: Callable[[Path], bool], path: Path) -> bool:
    """Whether a path is something; one that is too long, or may not be looked at, is nothing."""
    try:
        return what(path)
    except OSError:
        return False


def _meant(path: str, root: Path) -> str:
    nearest = nearest_entry(path, root)
    return "" if nearest is None else f" (did you mean {nearest}?)"
