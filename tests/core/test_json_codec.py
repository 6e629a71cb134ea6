"""Receipt in the host: what is proved from the bytes of a body is what a walk over the value would have found."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._model import REFERENCE_LIMITS, JsonValue, Limits
from spindle_trio._protocol import _json_codec
from spindle_trio._protocol._json_codec import BodyReader, decode_body, write_body
from spindle_trio._protocol._payload import PayloadBounds, bounds_of, check_payload

WIDE = bounds_of(Limits())

marks = st.sampled_from([*'[]{},"\\:', "\\\\", '\\"', "0" * 19, "é", "\U0001f600"])
texts = st.lists(marks | st.characters(exclude_categories=["Cs"]), max_size=6).map("".join)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([-(2**63) - 1, -(2**63), 2**64 - 1, 2**64, 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values: st.SearchStrategy[JsonValue] = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=4), max_leaves=25
)
writers = st.sampled_from(
    [
        json.dumps,
        lambda value: json.dumps(value, ensure_ascii=False),
        lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
        lambda value: json.dumps(value, indent=1),
    ]
)
bounds = st.builds(
    PayloadBounds,
    st.integers(0, 6),
    st.integers(0, 30),
    st.none() | st.integers(0, 40),
    st.none() | st.integers(0, 5),
)


def is_taken(body: bytes, within: PayloadBounds) -> bool:
    try:
        decode_body(body, within)
    except PeerProtocolError:
        return False
    return True


def is_taken_by_a_walk(body: bytes, within: PayloadBounds) -> bool:
    """Read a body with the standard library, and look at every value."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        check_payload(json.loads(body.decode(), parse_constant=refuse), within)
    except (ValueError, RecursionError):
        return False
    return True


@pytest.mark.slow
@settings(max_examples=5 * settings.default.max_examples)
@given(values, writers, bounds | st.just(WIDE))
@example([[], [[]], [[[]]]], json.dumps, PayloadBounds(3, 7))
@example([[], [[]], [[[]]]], json.dumps, PayloadBounds(2, 7))
@example({"[": ["]]"]}, json.dumps, PayloadBounds(2, 3))
@example([[0]] * 20, json.dumps, PayloadBounds(2, 30))
@example([[], {}, "[]{}", 0] * 7, json.dumps, PayloadBounds(2, 28))
def test_a_body_is_taken_just_where_a_walk_finds_no_fault(
    value: JsonValue, write: Callable[[JsonValue], str], within: PayloadBounds
) -> None:
    body = write(value).encode()
    assert is_taken(body, within) is is_taken_by_a_walk(body, within)


@given(
    st.binary(max_size=40) | texts.map(str.encode) | st.lists(marks, max_size=30).map("".join).map(str.encode), bounds
)
def test_so_is_anything_else(body: bytes, within: PayloadBounds) -> None:
    assert is_taken(body, within) is is_taken_by_a_walk(body, within)


@given(values, writers, st.data())
def test_so_is_a_body_with_one_byte_changed(
    value: JsonValue, write: Callable[[JsonValue], str], data: st.DataObject
) -> None:
    body = bytearray(write(value).encode())
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b'[]{},"\\:0 x\xff'))
    within = data.draw(bounds)
    assert is_taken(bytes(body), within) is is_taken_by_a_walk(bytes(body), within)


@given(values)
def test_what_comes_out_is_what_the_standard_library_reads(value: JsonValue) -> None:
    body = json.dumps(value).encode()
    if is_taken(body, WIDE):
        found = decode_body(body, WIDE)
        assert json.dumps(found) == json.dumps(value)


@given(values)
def test_the_host_writes_what_can_be_read_back(value: JsonValue) -> None:
    try:
        check_payload(value, WIDE)
    except PayloadError:
        return
    assert json.dumps(decode_body(write_body(value), WIDE)) == json.dumps(value)


def test_a_body_that_is_too_long_is_refused_by_name_and_size() -> None:
    assert write_body("xxx", 5) == b'"xxx"'
    with pytest.raises(PayloadError, match=r"^metadata: 5 bytes as JSON, more than 4 in one frame"):
        write_body("xxx", 4, "metadata")


# ---- which way a body goes


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[JsonValue]:
    """Note the values that are walked over."""
    walked: list[JsonValue] = []

    def walk(value: JsonValue, within: PayloadBounds, name: str) -> None:
        walked.append(value)
        check_payload(value, within, name)

    monkeypatch.setattr(_json_codec, "check_payload", walk)
    return walked


@pytest.mark.parametrize(
    "value",
    [
        "x" * 98,
        {"type": "progress", "done": 17, "of": 1200, "file": "src/module/name.py", "ratio": 0.25},
        [{"number": number, "text": f"a, [b] {number}"} for number in range(30)],
        [{"number": number, "text": "x", "score": number / 7} for number in range(20_000)],
        ["a, b" * 20_000],
        [['quoted "text" and a \\ or two']] * 1_000,
        [{"path": "C:\\"}] * 1_000,
        [{}, []] * 40_000,
    ],
)
def test_what_common_messages_say_is_proved_without_a_walk(value: JsonValue, walks: list[JsonValue]) -> None:
    assert BodyReader(WIDE).read(write_body(value)) == value
    assert not walks


def test_so_is_what_a_tagged_frame_says(walks: list[JsonValue]) -> None:
    dates = [{"at": {"$date": "2026-03-01T12:00:00.000Z"}}] * 10_000
    read = BodyReader(WIDE).read(b"$" + write_body(dates))
    assert read == [{"at": datetime(2026, 3, 1, 12, tzinfo=UTC)}] * 10_000
    assert not walks


@pytest.mark.parametrize("value", [2**64 - 1, [-(2**63)], ["1" * 19], [[["["]] * 65], [[0] * 90_000, "," * 60_000]])
def test_what_is_not_proved_is_walked_over(value: JsonValue, walks: list[JsonValue]) -> None:
    assert BodyReader(WIDE).read(write_body(value)) == value
    assert walks == [value]


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(is_enabled: bool) -> None:
    long = json.dumps(["x" * 100] * 2_000).encode()
    if not is_enabled:
        gc.disable()
    try:
        assert is_taken(long, WIDE)
        assert gc.isenabled() is is_enabled
        assert not is_taken(long[:-1], WIDE)
        assert gc.isenabled() is is_enabled
    finally:
        gc.enable()


def test_limits_on_texts_and_entries_are_proved_by_length_alone(walks: list[JsonValue]) -> None:
    reader = BodyReader(bounds_of(REFERENCE_LIMITS))
    assert reader.read(write_body(["x" * 500] * 3)) == ["x" * 500] * 3
    assert not walks
    assert reader.read(write_body(["x" * 500] * 5)) == ["x" * 500] * 5
    assert len(walks) == 1


@pytest.mark.parametrize(
    ("depth", "size", "is_proven"), [(64, 129, True), (64, 131, False), (8, 17, True), (8, 19, False)]
)
def test_a_body_that_is_too_short_to_be_too_deep_is_not_looked_at(depth: int, size: int, is_proven: bool) -> None:
    body = b"[" * (size // 2) + b"0" + b"]" * (size // 2)
    assert len(body) == size
    assert is_taken(body, PayloadBounds(depth, 100_000)) is is_proven


@pytest.mark.parametrize("brackets", [b"[", b'{"a":'])
def test_a_body_that_is_too_deep_does_not_end_a_program_that_allows_itself_any_depth(brackets: bytes) -> None:
    """Up to Python 3.11 nothing else bounds the reader's own recursion: so it is tried in another program."""
    program = f"""
import sys
sys.setrecursionlimit(10**6)
from spindle_trio._protocol._json_codec import decode_body
from spindle_trio._errors import PeerProtocolError
from spindle_trio._protocol._payload import PayloadBounds
try:
    decode_body({brackets!r} * 50_000, PayloadBounds(64, 100_000))
except PeerProtocolError as error:
    print(sys.getrecursionlimit(), error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.startswith("1000000 a frame that is not JSON-safe: "), (done.returncode, done.stderr)


def test_a_raised_limit_on_recursion_is_left_as_it_was() -> None:
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(20_000)
        value = ["x" * 100] * 1_000
        assert decode_body(write_body(value), WIDE) == value
        assert sys.getrecursionlimit() == 20_000
    finally:
        sys.setrecursionlimit(limit)
