"""Times and bytes in what JavaScript processes send: in tagged frames, and over the worker protocol."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio import (
    ExitReason,
    JsonValue,
    LifecycleEvent,
    Limits,
    PeerProtocolError,
    ProcessLifecycle,
    ProcessMessage,
    ProcessState,
    Response,
)
from spindle_trio._model._rich_values import from_plain, to_plain
from spindle_trio._protocol._control_frames import Complete, parse_child_frame
from spindle_trio._protocol._json_codec import BodyReader
from spindle_trio._protocol._payload import PayloadBounds, bounds_of
from spindle_trio.wire import from_json, plain_payload, to_json

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
READER = BodyReader(bounds_of(Limits()))

milliseconds = st.integers(-62135596800000, 253402300799999).map(
    lambda count: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=count)
)
leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.binary() | milliseconds
names = st.text() | st.sampled_from(["$", "$$", "$date", "$bytes", "$$date", "payload"])
payloads = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=20)


def tagged(value: object) -> bytes:
    """Write the tagged form, as the runtime of JavaScript does."""
    return b"$" + json.dumps(_tagged(value)).encode()


def _tagged(value: object) -> object:
    match value:
        case datetime() | bytes():
            text, ((kind,),) = to_plain(value)  # type: ignore[arg-type, misc]  # a payload
            return {f"${kind}": text}
        case list():
            return list(map(_tagged, value))
        case dict():
            written = {name: _tagged(item) for name, item in value.items()}
            if len(written) == 1 and next(iter(written)).startswith("$"):
                return {f"${name}": item for name, item in written.items()}
            return written
    return value


@given(payloads)
def test_a_tagged_frame_is_read_as_what_was_written(value: object) -> None:
    assert READER.read(tagged(value)) == value


@given(payloads)
def test_texts_and_their_places_are_read_as_what_was_written(value: JsonValue) -> None:
    plain, places = to_plain(value)
    assert from_plain(json.loads(json.dumps(plain)), json.loads(json.dumps(places))) == value
    assert (plain is value) == (places == [])


def test_a_frame_that_is_not_tagged_is_read_as_it_stands() -> None:
    for value in ({"$date": "2026-03-01T12:00:00.000Z"}, [{"$$bytes": ""}], "$[]"):
        assert READER.read(json.dumps(value).encode()) == value


BROKEN = [
    '{"$date":"2026-03-01T12:00:00Z"}',
    '{"$date":"2026-03-01T12:00:00.000+00:00"}',
    '{"$date":"2026-03-01T12:00:00.000"}',
    '{"$date":"2026-02-30T12:00:00.000Z"}',
    '{"$date":"2026-03-01T24:00:00.000Z"}',
    '{"$date":"2026-03-01T12:00:60.000Z"}',
    '{"$date":"0000-03-01T12:00:00.000Z"}',
    '{"$date":"2026-W09-7T12:00:00.00Z"}',
    '{"$date":"\uff12026-03-01T12:00:00.000Z"}',
    '{"$date":"2026-03-01T12:00:00.000Z\\n"}',
    '{"$date":"tomorrow"}',
    '{"$date":1772366400000}',
    '{"$date":null}',
    '[{"$date":"2026-03-01T12:00:00.000Z2026-03-01"},{"$date":"T12:00:00.000Z"}]',
    '[{"$date":"2026-03-01"},{"$date":"T12:00:00.000Z2026-03-01T12:00:00.000Z"}]',
    '[{"$date":""},{"$date":"2026-03-01T12:00:00.000Z2026-03-01T12:00:00.000Z"}]',
    '{"$bytes":"a"}',
    '{"$bytes":"a GVs"}',
    '{"$bytes":"\u00fc"}',
    '{"$bytes":["aGVs"]}',
    '[{"$set":[1]}]',
    '{"$":1}',
    "{",
    "",
    "$null",
    '{"$bytes":"\\ud800"}',
    "[" * 70 + "]" * 70,
    "[" * 100_000,
    "[18446744073709551616]",
    '{"n":-9223372036854775809}',
    f"[{10**400}]",
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_tag_breaks_the_protocol(text: str) -> None:
    with pytest.raises(PeerProtocolError, match=r"^a tagged frame that is not JSON-safe: |^a frame with more than"):
        READER.read(b"$" + text.encode())


@pytest.mark.parametrize("text", [json.dumps("x" * 10_000), "[" + "1," * 10_000 + "1]"])
def test_a_time_that_is_none_is_shown_in_short(text: str) -> None:
    with pytest.raises(PeerProtocolError, match="is not a UTC time with three decimals and Z") as refused:
        READER.read(b'$[{"$date":"2026-03-01T12:00:00.000Z"},{"$date":' + text.encode() + b"}]")
    assert len(str(refused.value)) < 200


def test_limits_hold_for_the_values_that_tags_stand_for() -> None:
    """A tag is one value and no level; bytes count as text."""
    three_values = BodyReader(PayloadBounds(depth=1, values=3, text_bytes=4))
    assert three_values.read(tagged([NOON, b"four"])) == [NOON, b"four"]
    for value, problem in {
        (NOON, NOON, NOON): "more than 3 values",
        (b"three", NOON): "more than 4 bytes of text",
    }.items():
        with pytest.raises(PeerProtocolError, match=problem):
            three_values.read(tagged(list(value)))
    with pytest.raises(PeerProtocolError, match="nested more than 1 deep"):
        three_values.read(tagged([[NOON]]))


def test_a_large_tagged_frame_is_read() -> None:
    value = [b"x" * 20_000, NOON]
    assert READER.read(tagged(value)) == value


def test_a_result_may_hold_them() -> None:
    bounds = PayloadBounds(depth=2, values=10, text_bytes=14)  # the names count as well
    result = {"at": NOON, "data": b"8 bytes."}
    frame = parse_child_frame(tagged({"type": "complete", "result": result, "messages": 0}), bounds)
    assert frame == Complete(result, 0)  # type: ignore[arg-type]  # see `JsonValue`
    with pytest.raises(PeerProtocolError, match="a complete frame over a limit: result: more than 14 bytes of"):
        parse_child_frame(tagged({"type": "complete", "result": b"15 bytes.......", "messages": 0}), bounds)


def test_the_worker_protocol_carries_them_as_texts_with_their_places() -> None:
    payload: JsonValue = {"at": NOON, "files": [b"\0\xff"]}  # type: ignore[dict-item, list-item]  # see `JsonValue`
    message = ProcessMessage("p1", payload, "ada")
    written = to_json(message)
    assert written == {
        "type": "backend_process_message",
        "processId": "p1",
        "payload": {"at": "2026-03-01T12:00:00.000Z", "files": ["AP8="]},
        "payloadTypes": [["date", "at"], ["bytes", "files", 0]],
        "userId": "ada",
    }
    assert plain_payload(payload) == written["payload"]
    event = ProcessLifecycle(
        LifecycleEvent(
            "p1", "a.js", "a", ProcessState.COMPLETED, NOON, exit_reason=ExitReason.COMPLETED, result=payload
        )
    )
    for value in (message, event, Response("r1", result=payload), Response("r1", result=NOON)):  # type: ignore[arg-type]
        assert from_json(json.loads(json.dumps(to_json(value))), type(value)) == value


@pytest.mark.parametrize(
    "places",
    [
        {},
        [[]],
        ["date"],
        [[7]],
        [["date", "b"]],
        [["date", 0]],
        [["bytes", "a", "b"]],
        [["date", "list", 1]],
        [["date", "list", -1]],
        [["date", "list", True]],
        [["date", "list"]],
        [["time", "a"]],
        [["date", "a"]],
        [["bytes", "a"], ["bytes", "a"]],
        [["date"]],
    ],
)
def test_places_that_are_not_there_are_refused(places: object) -> None:
    data = {"processId": "p1", "payload": {"a": "aGVs", "list": [1]}, "payloadTypes": places, "userId": "ada"}
    with pytest.raises(PeerProtocolError, match=r"^payloadTypes: "):
        from_json(data, ProcessMessage)


def test_a_time_elsewhere_is_written_in_utc() -> None:
    time = NOON.astimezone(timezone(timedelta(hours=2)))
    assert plain_payload([time]) == ["2026-03-01T12:00:00.000Z"]  # type: ignore[list-item]  # see `JsonValue`
