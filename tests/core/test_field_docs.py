"""A docstring that lists the fields of its class, read from the source."""

from __future__ import annotations

import attrs

from spindle_trio._model._field_docs import show_fields


@show_fields
@attrs.frozen
class Book:
    """Something to read."""

    title: str
    """What is on its spine."""
    pages: int = 0


def test_a_field_is_listed_with_the_text_below_it() -> None:
    assert Book.__doc__ == "Something to read.\n\nAttributes:\n    title: What is on its spine."


def test_a_class_whose_source_is_not_to_be_had_keeps_its_summary() -> None:
    names: dict[str, type] = {}
    exec('class Lost:\n    """Has no file."""\n    title: str\n', {"__name__": "lost"}, names)
    assert show_fields(names["Lost"]).__doc__ == "Has no file."
