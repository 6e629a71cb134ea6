"""JSON without the package for it: the same text and the same values as with it."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio._model import JsonValue
from spindle_trio._protocol import _json_text


def load_without_the_interpreters_own() -> ModuleType:
    """Load the module as an interpreter does that has no `_json`."""
    found = importlib.util.spec_from_file_location("json_text_for_others", _json_text.__file__)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "_json", None)
        found.loader.exec_module(module)
    return module


MODULES = [pytest.param(_json_text, id="with _json"), pytest.param(load_without_the_interpreters_own(), id="without")]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=20,
)


@pytest.mark.parametrize("module", MODULES)
@given(json_values)
def test_a_value_is_written_and_read_as_by_the_package(module: ModuleType, value: JsonValue) -> None:
    text = module.write_json(value)
    assert text == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert module.read_json(text) == value
    assert module.read_json(text.encode()) == value
    assert module.read_json(f" \t\r\n{text}\n ") == value


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    "text",
    ["", " ", "nul", "[1", "[1,]", "1 2", "[1]]", "NaN", "[Infinity]", "-Infinity", "'a'", '"\n"', "{1:2}", "\ufeff1"],
)
def test_what_is_no_json_is_a_value_error(module: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        module.read_json(text)


@pytest.mark.parametrize("module", MODULES)
def test_bytes_that_are_no_utf_8_are_a_value_error(module: ModuleType) -> None:
    with pytest.raises(ValueError, match="utf-8"):
        module.read_json(b'"\xff"')


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(("value", "error"), [(math.nan, ValueError), ([math.inf], ValueError), ({1, 2}, TypeError)])
def test_what_json_cannot_say_is_not_written(module: ModuleType, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="JSON"):
        module.write_json(value)


@pytest.mark.parametrize("text", ["{", "[1", '"', '{"a"', '{"a":1'])
def test_what_breaks_off_is_refused_also_while_nobody_has_loaded_the_package(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """As in a child. The scanner of Python 3.11 takes the class of its error from there."""
    monkeypatch.delitem(sys.modules, "json.decoder")
    with pytest.raises(ValueError, match=r"breaks off|line 1"):
        _json_text.read_json(text)


def test_a_scanner_that_fails_without_an_error_refuses_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str, __: int) -> tuple[JsonValue, int]:
        raise SystemError("returned NULL without setting an exception")

    monkeypatch.setattr(_json_text, "_scan", fail)
    with pytest.raises(ValueError, match="breaks off"):
        _json_text.read_json("{")
