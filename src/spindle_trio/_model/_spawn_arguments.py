"""The options of `spawn` as keyword arguments: what `help()` shows of them, and what is said of an unknown one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import attrs

from spindle_trio._model._options import SpawnArguments, SpawnOptions

if TYPE_CHECKING:
    import os

    from spindle_trio._model._command import Command

_P = ParamSpec("_P")
_T = TypeVar("_T")

SET_BY_SERVICES: Final = ("keep_key", "successor_of")
"""Options that nobody else gives the processes of a service."""


def with_options_shown(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have `help()` show each option with its default, as type checkers do: `**options` alone says nothing."""
    return _show_options(method, but=())


def with_service_options_shown(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same without the options that a service sets itself."""
    return _show_options(method, but=SET_BY_SERVICES)


def _show_options(method: Callable[_P, _T], but: Collection[str]) -> Callable[_P, _T]:
    signature = inspect.signature(method)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in attrs.fields(SpawnOptions)
        if field.name not in signature.parameters and field.name not in but
    ]
    method.__dict__["__signature__"] = signature.replace(parameters=[*own, *options])
    return method


def options_from(call: str, entry: str | os.PathLike[str] | Command, options: SpawnArguments) -> SpawnOptions:
    """Take the arguments of a call.

    Args:
        call: its name.
        entry: its first argument.
        options: the others.

    Raises:
        TypeError: there is no such option, or it has the wrong type.
        ValueError: one is out of range.
    """
    try:
        return SpawnOptions(entry, **options)
    except TypeError:
        known = [field.name for field in attrs.fields(SpawnOptions)]
        for name in options.keys() - known:
            near = [other for other in known if other.startswith(name)] or get_close_matches(name, known, 1)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise TypeError(f"{call}() has no argument {name!r}{hint}") from None
        raise
