"""Checks of what a process runs in: its variables, its arguments, its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class PathLike(Protocol):
    """A path, as `os.PathLike`, which this module may not import."""

    def __fspath__(self) -> str:
        """Return its text."""


def checked_environment(value: object) -> dict[str, str] | None:
    """Check and copy the variables for a process.

    Raises:
        TypeError: the argument does not map str to str.
        ValueError: no environment can hold one of the names or values.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"environment must be a mapping of str to str, or None, not {type(value).__name__}")
    copy: dict[str, str] = {}
    for name, text in value.items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise TypeError(f"environment must map str to str, not {name!r} to {text!r}")
        if not name or "=" in name or "\0" in name + text:
            raise ValueError(
                f"no environment can hold the variable {name!r}: a name cannot contain '=', nor a name or a value a NUL"
            )
        if not _is_bytes(name + text):
            raise ValueError(f"no environment can hold the variable {name!r}: it contains a lone surrogate")
        copy[name] = text
    return copy


def checked_arguments(value: object, name: str = "arguments") -> tuple[str, ...]:
    """Check and copy the arguments for a process.

    Args:
        value: what was given.
        name: of what it is the value.

    Raises:
        TypeError: the argument is not a sequence of str.
        ValueError: one of them has a NUL or a lone surrogate in it.
    """
    if value == ():
        return ()  # first, since a look at an abstract class is slow
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a sequence of str, as in {name}=['--fast'], not {value!r}")
    for text in value:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a sequence of str; {text!r} is not a str")
        if "\0" in text:
            raise ValueError(f"the argument {text!r} contains a NUL, which no argument may")
        if not _is_bytes(text):
            raise ValueError(f"the argument {text!r} contains a lone surrogate, which no argument may")
    return tuple(value)


def _is_bytes(text: str) -> bool:
    """Whether the system takes a text; lone surrogates may stand for bytes that are no UTF-8."""
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def as_folder(value: str | PathLike | None) -> str | None:
    """Turn a path into its text.

    Raises:
        TypeError: it is neither a path nor a text.
    """
    if value is None:
        return None
    folder: object = value.__fspath__() if isinstance(value, PathLike) else value
    if not isinstance(folder, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"folder must be a str or a path, or None, not {type(folder).__name__}")
    return folder
