"""What a fork server loads for its processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

__all__ = ["NO_PRELOAD", "Preload", "check_preload"]


@attrs.frozen
class Preload:
    """What a fork server loads before it forks, and how."""

    modules: tuple[str, ...] = ()
    """The names of the modules, in order."""
    path: tuple[str, ...] = ()
    """Absolute folders in which to look for them first."""
    environment: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """Extra variables of the server while it loads them."""


NO_PRELOAD: Final = Preload()


def check_preload(
    modules: Iterable[str], path: Iterable[str | os.PathLike[str]], environment: Mapping[str, str] | None
) -> Preload:
    """Check what to preload.

    Args:
        modules: their names.
        path: folders; relative ones count from this program's working directory, now.
        environment: variables.

    Raises:
        TypeError: `modules` or `path` is a str, or an item of them or of `environment` is not a str.
        ValueError: no environment can hold one of the variables.
    """
    if isinstance(modules, str):
        raise TypeError(f"preload must be a collection of module names, not the str {modules!r}")
    names = tuple(modules)
    if not all(isinstance(name, str) for name in names):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"preload must hold module names, not {names!r}")
    if isinstance(path, (str, os.PathLike)):
        raise TypeError(f"preload_path must be a collection of folders, not one: write [{path!r}]")
    given = tuple(path)
    if not all(isinstance(folder, (str, os.PathLike)) for folder in given):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"preload_path must hold folders, not {given!r}")
    variables = {} if environment is None else dict(environment)
    for item in variables.items():
        _check_variable(*item)
    return Preload(names, tuple(os.path.abspath(folder) for folder in given), variables)


def _check_variable(name: object, value: object) -> None:
    if not (isinstance(name, str) and isinstance(value, str)):
        raise TypeError(
            f"preload_environment must map str to str, as in {{'OMP_NUM_THREADS': '1'}}, not {name!r}: {value!r}"
        )
    if not name or "=" in name or "\0" in name + value:
        raise ValueError(f"no environment can hold the variable {name!r} of preload_environment")
