"""Frames as bytes: cut however the stream is cut, and never anything but a protocol error for a peer's nonsense."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._model import JsonValue, Limits
from spindle_trio._protocol import _json_codec
from spindle_trio._protocol._frames import FrameDecoder, encode_body, with_header
from spindle_trio._protocol._json_codec import decode_body
from spindle_trio._protocol._payload import PayloadBounds, bounds_of, check_payload

WIDE = bounds_of(Limits())

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=20,
)

# ---- bodies


@given(json_values)
def test_a_json_safe_value_survives_a_frame(value: JsonValue) -> None:
    assert decode_body(encode_body(value), WIDE) == value


@given(json_values)
def test_brackets_and_commas_within_texts_do_not_count(value: JsonValue) -> None:
    """Bounds that just hold the value take the exact way, where texts must have been left out."""
    noise = '[{,"\\' * 30
    dressed: JsonValue = {noise: [noise, value]}
    found = _count(dressed)
    decode_body(encode_body(dressed), PayloadBounds(_depth(dressed), found))
    with pytest.raises(PeerProtocolError, match="values"):
        decode_body(encode_body(dressed), PayloadBounds(_depth(dressed), found - 1))
    with pytest.raises(PeerProtocolError, match="deep"):
        decode_body(encode_body(dressed), PayloadBounds(_depth(dressed) - 1, found))


def test_the_body_is_short_and_utf_8() -> None:
    assert encode_body({"a": [1, "ż"]}) == '{"a":[1,"ż"]}'.encode()


def test_a_body_that_is_too_long_is_refused_by_name_and_size() -> None:
    assert encode_body("xxx", 5) == b'"xxx"'
    with pytest.raises(
        PayloadError,
        match=r"^metadata: 5 bytes as JSON, more than 4 in one frame; raise Limits\(frame_bytes=…\), or write it",
    ) as caught:
        encode_body("xxx", 4, "metadata")
    assert (caught.value.size, caught.value.limit) == (5, 4)


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"nul", b"NaN", b"Infinity", b"-Infinity", b"[NaN]", b"'a'", b'{"a":1,}', b"[1]]", b"[1] 2",
        b"\xff", b'"\xc3"', b'"\xed\xa0\x80"', rb'"\ud800"', rb'{"\udfff":1}', b"\xef\xbb\xbf1", b"1e999", b"-1e999",
        b"9" * 100_000, b"18446744073709551616", b"-9223372036854775809", b"[" * 100_000, b"]" * 100_000,
        b'{"a":' * 100_000, b'"' + b"\\" * 99_999, b'["a" "b"]', b"{1:2}", "\x00".encode("utf-16"), b'"\n"',
        b"[" * 70 + b'"', b"[" * 70 + b'"\\', b"]" + b"[" * 70,
    ],
)  # fmt: skip
def test_nonsense_breaks_the_protocol_and_nothing_else(body: bytes) -> None:
    with pytest.raises(PeerProtocolError, match=r"^a frame "):
        decode_body(body, WIDE)


def test_brackets_are_counted_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of 1 MiB can become 24 MiB of objects (reliability, row 19)."""

    def parse(*_: object, **__: object) -> None:
        raise AssertionError("the body was parsed")

    monkeypatch.setattr(_json_codec, "_decode", parse)
    with pytest.raises(PeerProtocolError, match="more than 100000 values"):
        decode_body(b"[" + b"[]," * 300_000 + b"[]]", WIDE)


def test_a_nesting_that_is_too_deep_is_refused() -> None:
    decode_body(b"[" * 65 + b"]" * 65, WIDE)
    with pytest.raises(PeerProtocolError, match="nested more than 64 deep"):
        decode_body(b"[" * 66 + b"]" * 66, WIDE)


def test_as_many_values_as_allowed_are_taken_also_if_they_are_empty_containers() -> None:
    for item in (b"[]", b"{}", b"0"):
        assert len(decode_body(b"[" + (item + b",") * 998 + item + b"]", PayloadBounds(2, 1000))) == 999  # type: ignore[arg-type]  # a list
        with pytest.raises(PeerProtocolError, match="more than 999 values"):
            decode_body(b"[" + (item + b",") * 998 + item + b"]", PayloadBounds(2, 999))


@pytest.mark.parametrize("tail", [b'"' + b'\\"' * 500_000, b'"' * 1_000_000, b"\\" * 1_000_000, b'"\\' * 500_000])
def test_a_hostile_body_costs_no_more_time_than_it_is_long(tail: bytes) -> None:
    """The search for texts must not backtrack: 1 MiB of quotes would otherwise hold up the host for hours."""
    begin = time.process_time()
    with pytest.raises(PeerProtocolError):
        decode_body(b"[" * 65 + tail, WIDE)
    assert time.process_time() - begin < 2


def _count(value: JsonValue) -> int:
    if isinstance(value, list):
        return 1 + sum(map(_count, value))
    return 1 + sum(map(_count, value.values())) if isinstance(value, dict) else 1


def _depth(value: JsonValue) -> int:
    inner = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    return 1 + max(map(_depth, inner)) if inner else 0


# ---- mutated bodies

SEEDS = [
    b'{"type":"complete","result":{"a":[1,2.5,-3e7,null,true,"x\\u00e9\\n"]},"messages":12}',
    b'[[[{"a":{"b":["\\ud83d\\ude00"]}}]],18446744073709551615,-9223372036854775808]',
    '"żółć \U0001f600"'.encode(),
    b"[" * 20 + b"]" * 20,
    b'{"a":1,"a":2,"":[],"\\"":"\\\\"}',
    b"[1e308,1e-400,0.1,-0,0E+5]",
]
PIECES = [
    b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\\u", b"\\ud800", b"NaN", b"1e999", b"-", b"0", b"9" * 25,
    b"\x00", b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"null", b"tru", b"[" * 40, b" \t\r\n", b"\xef\xbb\xbf",
]  # fmt: skip


def mutated_bodies(count: int, seed: int) -> Iterator[bytes]:
    """Change good bodies in one to four places: replace, insert, cut, double, swap."""
    chance = random.Random(seed)
    for _ in range(count):
        body = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randint(1, 4)):
            place, other = chance.randrange(len(body) + 1), chance.randrange(len(body) + 1)
            low, high = min(place, other), max(place, other)
            match chance.randrange(5):
                case 0 if place < len(body):
                    body[place] = chance.randrange(256)
                case 1:
                    body[place:place] = chance.choice(PIECES)
                case 2:
                    del body[low:high]
                case 3:
                    body[low:low] = body[low:high]
                case _:
                    body[low:high] = chance.choice(PIECES)
        yield bytes(body)


def judge_mutated_bodies(count: int, seed: int) -> None:
    """Whatever comes out of a mutated body is a safe value within its bounds, or a protocol error."""
    bounds = PayloadBounds(depth=30, values=40, text_bytes=60, container_entries=8)
    taken = refused = 0
    for body in mutated_bodies(count, seed):
        try:
            value = decode_body(body, bounds)
        except PeerProtocolError:
            refused += 1
        else:
            taken += 1
            check_payload(value, bounds)
            assert decode_body(encode_body(value), bounds) == value
    assert taken > count / 50
    assert refused > count / 10


@pytest.mark.parametrize("count", [25_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_mutated_bodies_are_taken_or_refused_and_nothing_else(count: int) -> None:
    judge_mutated_bodies(count, seed=1)


@pytest.mark.soak
def test_a_million_mutated_bodies_are_taken_or_refused_and_nothing_else() -> None:
    judge_mutated_bodies(1_000_000, seed=2)


# ---- the stream


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_frames_come_out_whole_however_the_stream_is_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(with_header, bodies))
    decoder, out = FrameDecoder(300), []
    given_so_far = 0
    while given_so_far < len(stream):
        size = data.draw(st.integers(1, len(stream) - given_so_far))
        decoder.feed(stream[given_so_far : given_so_far + size])
        given_so_far += size
        for _ in range(data.draw(st.integers(0, 2))):
            out += decoder.take(data.draw(st.integers(1, 3)))
        whole = [body for body, end in zip(bodies, _ends(bodies), strict=True) if end <= given_so_far]
        assert out == whole[: len(out)]
        if len(out) == len(whole):
            begun = given_so_far - (_ends(bodies)[len(whole) - 1] if whole else 0)
            assert decoder.is_mid_frame is (begun > 0)
    out += decoder.take(100)
    assert out == bodies
    assert not decoder.is_mid_frame
    assert decoder.take(1) == []


def _ends(bodies: list[bytes]) -> list[int]:
    return [sum(4 + len(body) for body in bodies[: number + 1]) for number in range(len(bodies))]


def test_at_most_as_many_frames_are_taken_as_asked_for() -> None:
    decoder = FrameDecoder(None)
    decoder.feed(b"".join(with_header(b"%d" % number) for number in range(5)))
    assert not decoder.is_mid_frame
    assert decoder.take(2) == [b"0", b"1"]
    assert decoder.take(0) == []
    assert decoder.take(9) == [b"2", b"3", b"4"]


def test_a_frame_that_says_it_is_too_long_is_refused_once_those_before_it_are_taken() -> None:
    decoder = FrameDecoder(10)
    decoder.feed(with_header(b"x" * 10) + (2**32 - 1).to_bytes(4, "big"))
    assert decoder.take(5) == [b"x" * 10]
    for _ in range(2):
        with pytest.raises(PeerProtocolError, match="a frame of 4294967295 bytes, more than 10"):
            decoder.take(5)
        decoder.feed(b"x" * 100)  # is not kept
    assert decoder.is_mid_frame


def test_a_trusted_peer_may_send_any_length() -> None:
    decoder = FrameDecoder(None)
    decoder.feed(with_header(b"x" * 2**21))
    assert decoder.take(1) == [b"x" * 2**21]


def test_frames_may_be_taken_one_by_one() -> None:
    decoder = FrameDecoder(None)
    assert decoder.take_one() is None
    decoder.feed(with_header(b"a") + with_header(b"b") + with_header(b"c")[:3])
    assert (decoder.take_one(), decoder.take_one(), decoder.take_one()) == (b"a", b"b", None)
    decoder.feed(with_header(b"c")[3:])
    assert decoder.take_one() == b"c"
    assert decoder.is_empty


def test_a_long_frame_costs_what_it_is_long_in_however_many_pieces_it_comes() -> None:
    """Joining what is at hand with each piece would take time that grows with the square of the length."""
    frame = with_header(b"x" * 2**20)
    decoder = FrameDecoder(2**20)
    begin = time.process_time()
    for start in range(0, len(frame), 16):
        decoder.feed(frame[start : start + 16])
    assert decoder.take(1) == [frame[4:]]
    assert time.process_time() - begin < 2


def test_a_header_alone_is_the_beginning_of_a_frame() -> None:
    decoder = FrameDecoder(None)
    decoder.feed(b"\x00\x00")
    assert decoder.is_mid_frame
    decoder.feed(b"\x00\x01")
    assert decoder.is_mid_frame
    assert decoder.take(1) == []
    decoder.feed(b"x")
    assert not decoder.is_mid_frame
    assert decoder.take(1) == [b"x"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_was_not_checked_never_becomes_a_frame_that_is_not_json(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode_body(value)
