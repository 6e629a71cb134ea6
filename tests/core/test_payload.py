"""The JSON-safe check, against a slow and obvious one."""

from __future__ import annotations

import enum
import math
import sys
from collections import OrderedDict, UserString
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio._errors import PayloadError
from spindle_trio._model import REFERENCE_LIMITS, Limits
from spindle_trio._protocol._payload import LARGEST_INTEGER, SMALLEST_INTEGER, PayloadBounds, bounds_of, check_payload

WIDE = bounds_of(Limits())


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


class Items(list[object]):
    pass


def cyclic() -> list[object]:
    items: list[object] = []
    items.append(items)
    return items


def nested(depth: int) -> object:
    """Put `None` into that many lists."""
    value: object = None
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 0.0, -0.0, 1e308, "", "text", "żółć", "\U0001f600", "\x00", [], {}, [None, [1]],
        {"a": {"b": [1.5]}}, SMALLEST_INTEGER, LARGEST_INTEGER, {"": 1}, {"not an identifier": 1},
    ],
)  # fmt: skip
def test_what_json_can_say_is_safe(value: object) -> None:
    check_payload(value, WIDE)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (math.nan, "payload: nan is not JSON-safe: send None or text"),
        (math.inf, "payload: inf is not JSON-safe: send None or text"),
        (-math.inf, "payload: -inf is not JSON-safe: send None or text"),
        (SMALLEST_INTEGER - 1, "payload: the integer is outside -2^63…2^64-1"),
        (LARGEST_INTEGER + 1, "payload: the integer is outside -2^63…2^64-1"),
        (b"x", "payload: bytes is not JSON-safe: send text, as by base64"),
        (datetime.now(UTC), "payload: datetime is not JSON-safe: send text, as by isoformat()"),
        ((), "payload: tuple is not JSON-safe: send a list"),
        (set(), "payload: set is not JSON-safe: send a list"),
        (1j, "payload: complex is not JSON-safe"),
        (Fraction(1), "payload: Fraction is not JSON-safe"),
        (object, "payload: type is not JSON-safe"),
        (Colour.RED, "payload: Colour is not JSON-safe: send a plain int"),
        (Name("x"), "payload: Name is not JSON-safe: send a plain str"),
        (UserString("x"), "payload: UserString is not JSON-safe"),
        (Items(), "payload: Items is not JSON-safe: send a plain list"),
        (OrderedDict(), "payload: OrderedDict is not JSON-safe: send a plain dict"),
        ("a\ud800", "payload: the text has a lone surrogate"),
        ({"items": [0, 1, 2, {3}]}, "payload.items[3]: set is not JSON-safe: send a list"),
        ([{"a b": (1,)}], "payload[0]['a b']: tuple is not JSON-safe: send a list"),
        ({1: 2}, "payload: the key 1 is an int; names are strings"),
        ({"a": {None: 2}}, "payload.a: the key None is a NoneType; names are strings"),
        ({Name("x"): 2}, "payload: the key 'x' is a Name; names are strings"),
        ({"\ud800": 2}, r"payload['\ud800']: the text has a lone surrogate"),
        ({"x" * 50: b""}, f"payload['{'x' * 36}...]: bytes is not JSON-safe: send text, as by base64"),
        (cyclic(), "nested more than 64 deep (does it contain itself?)"),
    ],
)
def test_what_json_cannot_say_is_refused_with_its_path(value: object, problem: str) -> None:
    """By exact type: what would be converted on the way would not come out as what went in."""
    with pytest.raises(PayloadError) as caught:
        check_payload(value, WIDE)
    assert str(caught.value).endswith(problem)


def test_the_error_calls_the_value_what_it_is_told() -> None:
    with pytest.raises(PayloadError, match=r"^metadata\.a: set"):
        check_payload({"a": set()}, WIDE, "metadata")


def test_the_text_of_an_error_stays_short_whatever_the_name() -> None:
    with pytest.raises(PayloadError) as caught:
        check_payload({"a" * 100_000: {("b" * 100_000): 0}, "c": 0}, PayloadBounds(64, 2))
    assert len(str(caught.value)) < 200


def test_containers_may_enclose_a_value_as_often_as_the_depth_says() -> None:
    check_payload(nested(64), WIDE)
    check_payload({"a": nested(63)}, WIDE)
    with pytest.raises(PayloadError, match="nested more than 64 deep"):
        check_payload(nested(65), WIDE)


def test_a_bound_beyond_the_interpreters_own_is_still_a_payload_error() -> None:
    with pytest.raises(PayloadError, match="nested deeper than this interpreter can walk"):
        check_payload(nested(3 * sys.getrecursionlimit()), PayloadBounds(10**6, 10**6))


def test_values_are_counted_with_their_containers() -> None:
    check_payload([1, 2, {"a": 3}], PayloadBounds(9, 5))
    with pytest.raises(PayloadError, match=r"payload\[2\]\.a: more than 4 values in all"):
        check_payload([1, 2, {"a": 3}], PayloadBounds(9, 4))


def test_text_is_counted_in_bytes_and_with_its_names() -> None:
    check_payload({"né": "aé"}, PayloadBounds(9, 9, text_bytes=6))
    with pytest.raises(PayloadError, match=r"payload\['n\\xe9'\]|payload\.né: more than 5 bytes of text in all"):
        check_payload({"né": "aé"}, PayloadBounds(9, 9, text_bytes=5))


def test_entries_are_counted_a_container() -> None:
    check_payload([[1, 2], {"a": 1, "b": 2}], PayloadBounds(9, 99, container_entries=2))
    for value in ([1, 2, 3], {"a": 1, "b": 2, "c": 3}):
        with pytest.raises(PayloadError, match=r"payload\[0\]: 3 entries, more than 2 in one container"):
            check_payload([value], PayloadBounds(9, 99, container_entries=2))


def test_a_walk_takes_its_bounds_from_the_limits() -> None:
    bounds = bounds_of(REFERENCE_LIMITS)
    assert (bounds.depth, bounds.values, bounds.text_bytes, bounds.container_entries) == (32, 10_000, 262_144, 1_000)


# ---- a slow and obvious check

odd_things = st.sampled_from([math.nan, math.inf, b"x", (), {1}, LARGEST_INTEGER + 1, "\udfff", Colour.RED, {2: 3}])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | odd_things
names = st.text(max_size=3) | st.sampled_from(["\ud900", 1])
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)
all_bounds = st.builds(
    PayloadBounds,
    st.integers(0, 4),
    st.integers(0, 12),
    st.none() | st.integers(0, 12),
    st.none() | st.integers(0, 4),
)


def is_safe_text(value: object) -> bool:
    return type(value) is str and not any(0xD800 <= ord(character) <= 0xDFFF for character in value)


def all_values(value: object, depth: int = 0) -> list[tuple[object, int]]:
    """List a value and all that it contains, each with the number of containers around it."""
    inner = value if type(value) is list else list(value.values()) if type(value) is dict else []
    return [(value, depth)] + [found for item in inner for found in all_values(item, depth + 1)]


def all_names(value: object) -> list[object]:
    return [name for item, _ in all_values(value) if type(item) is dict for name in item]


def is_allowed(value: object, bounds: PayloadBounds) -> bool:
    """Say whether a payload is JSON-safe and within bounds, in as many passes as there are rules."""

    def is_json(item: object) -> bool:
        if type(item) is int:
            return -(2**63) <= item < 2**64
        if type(item) is float:
            return item - item == 0
        return item is None or type(item) in (bool, list, dict) or is_safe_text(item)

    found = all_values(value)
    texts = [item for item, _ in found if type(item) is str] + all_names(value)
    if not all(is_json(item) for item, _ in found) or not all(map(is_safe_text, texts)):
        return False
    sizes = [len(str(text).encode()) for text in texts]
    containers = [item for item, _ in found if isinstance(item, list | dict)]
    return (
        max(depth for _, depth in found) <= bounds.depth
        and len(found) <= bounds.values
        and (bounds.text_bytes is None or sum(sizes) <= bounds.text_bytes)
        and (bounds.container_entries is None or all(len(item) <= bounds.container_entries for item in containers))
    )


@given(values, all_bounds | st.just(WIDE))
def test_the_walk_agrees_with_a_naive_one(value: object, bounds: PayloadBounds) -> None:
    try:
        check_payload(value, bounds)
    except PayloadError:
        assert not is_allowed(value, bounds)
    else:
        assert is_allowed(value, bounds)
