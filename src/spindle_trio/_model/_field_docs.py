"""Adds to `help()` of a class the texts below its fields in the source, which Python drops."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def show_fields(kind: type[T]) -> type[T]:
    """Have the docstring of a class list its fields as a section "Attributes", when it is read.

    Not for a class with a metaclass, such as an enumeration: `pydoc` does not ask there.
    """
    kind.__doc__ = _FieldDocs(kind.__doc__)  # type: ignore[assignment]  # a descriptor in its place
    return kind


class _FieldDocs:
    """A docstring that is made when it is read."""

    def __init__(self, summary: str | None) -> None:
        self._summary = summary

    def __get__(self, instance: object, owner: type) -> str | None:
        import inspect

        lines = [f"{name}: {' '.join(said.split())}" for name, said in _described_fields(owner)]
        if self._summary is None or not lines:
            return self._summary
        shown = [textwrap.fill(line, 100, initial_indent=" " * 4, subsequent_indent=" " * 8) for line in lines]
        return "\n".join([inspect.cleandoc(self._summary), "", "Attributes:", *shown])


def _described_fields(kind: type) -> Iterator[tuple[str, str]]:
    """Find each field with a text below it, in the order of the source; none if there is no source."""
    import ast
    import inspect

    try:
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):
        return
    assert isinstance(declared, ast.ClassDef)
    for field, below in zip(declared.body, declared.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(said))),
            ):
                yield name, said
