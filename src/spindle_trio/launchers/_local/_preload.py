"""What a fork server loads for its processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

__all__ = ["NO_PRELOAD", "Preload", "check_preload"]


@attrs.frozen
class Preload:
    """What a fork server loads before it forks."""

    modules: tuple[str, ...] = ()
    """Their names, in this order."""


NO_PRELOAD: Final = Preload()


def check_preload(modules: Iterable[str]) -> Preload:
    """Make sure that these can be asked for.

    Raises:
        TypeError: it is one text, or has something else in it than texts.
    """
    if isinstance(modules, str):
        raise TypeError(f"preload must be a collection of module names, not the text {modules!r}")
    names = tuple(modules)
    if not all(isinstance(name, str) for name in names):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"preload must hold module names, not {names!r}")
    return Preload(names)
