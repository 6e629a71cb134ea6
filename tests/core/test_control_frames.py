"""The control lane: what the host says to a child, and what it lets a child say."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio._errors import PeerProtocolError
from spindle_trio._model import OMITTED, REFERENCE_LIMITS, Limits
from spindle_trio._protocol._control_frames import (
    ChildFrame,
    Complete,
    Exiting,
    Extend,
    Fail,
    Heartbeat,
    Ready,
    Status,
    Stopped,
    bounded_error,
    encode_init,
    encode_stop,
    parse_child_frame,
)
from spindle_trio._protocol._frames import encode_body
from spindle_trio._protocol._payload import PayloadBounds, bounds_of

WIDE = bounds_of(Limits())


def said_at_start(**changed: object) -> dict[str, object]:
    """Read what `encode_init` writes."""
    options: dict[str, object] = {
        "process_id": "p1",
        "entry": "a.py",
        "kind": "a.py",
        "key": None,
        "user_id": None,
        "payload": OMITTED,
        "metadata": None,
        "heartbeat_timeout": 15,
        "limits": Limits(),
    }
    said: dict[str, object] = json.loads(encode_init(**(options | changed)))  # type: ignore[arg-type]  # as named
    return said


def test_the_first_frame_leaves_out_what_there_is_not() -> None:
    assert said_at_start() == {
        "type": "init",
        "protocol": 1,
        "offers": 2,
        "processId": "p1",
        "entry": "a.py",
        "kind": "a.py",
        "heartbeatTimeoutMs": 15_000,
        "limits": {
            "frameBytes": 2**24, "depth": 64, "values": 100_000, "textBytes": None, "containerEntries": None,
            "binaryBytes": 2**28,
        },
    }  # fmt: skip


def test_the_first_frame_says_all_that_there_is() -> None:
    said = said_at_start(key="k", user_id="ada", metadata={"a": 1}, payload=[1], limits=REFERENCE_LIMITS)
    assert (said["key"], said["userId"], said["metadata"], said["payload"]) == ("k", "ada", {"a": 1}, [1])
    assert said["limits"] == {
        "frameBytes": 2**24, "depth": 32, "values": 10_000, "textBytes": 262_144, "containerEntries": 1_000,
        "binaryBytes": 2**28,
    }  # fmt: skip


def test_a_payload_of_none_is_one() -> None:
    assert said_at_start(payload=None)["payload"] is None
    assert "payload" not in said_at_start()


@pytest.mark.parametrize(
    ("timeout", "milliseconds"), [(math.inf, 0), (1e308, 0), (0.25, 250), (0.0005, 0.5), (15, 15_000)]
)
def test_no_watchdog_is_said_as_zero(timeout: float, milliseconds: float) -> None:
    assert said_at_start(heartbeat_timeout=timeout)["heartbeatTimeoutMs"] == milliseconds


def test_a_stop_says_its_reason_if_it_has_one() -> None:
    assert json.loads(encode_stop(None)) == {"type": "stop"}
    assert json.loads(encode_stop("user left")) == {"type": "stop", "reason": "user left"}


@pytest.mark.parametrize(
    ("said", "frame"),
    [
        ({"type": "ready"}, Ready()),
        ({"type": "heartbeat", "more": [1]}, Heartbeat()),
        ({"type": "complete", "messages": 3}, Complete(None, 3)),
        ({"type": "complete", "messages": 0, "result": {"a": [None]}}, Complete({"a": [None]}, 0)),
        ({"type": "fail", "messages": 1, "error": " it broke\n"}, Fail("it broke", 1)),
        ({"type": "fail", "messages": 1, "error": " \n"}, Fail("the process failed and gave no reason", 1)),
        ({"type": "stopped", "messages": 2}, Stopped(2)),
        ({"type": "exiting", "messages": 2, "code": 255}, Exiting(2, 255)),
        ({"type": "status", "text": " 3 of\n7 \x1b[2J"}, Status("3 of 7  [2J")),
        ({"type": "status", "text": "\n"}, Status(None)),
        ({"type": "status", "text": "x" * 1000}, Status("x" * 256)),
        ({"type": "status", "text": "x" + "\u00fc" * 200}, Status("x" + "\u00fc" * 127)),
        ({"type": "extend", "seconds": 0}, Extend(0)),
        ({"type": "extend", "seconds": 2.5}, Extend(2.5)),
        ({"type": "extend", "seconds": 2**64 - 1}, Extend(1e9)),
    ],
)
def test_what_a_child_may_say_is_understood(said: object, frame: ChildFrame) -> None:
    assert parse_child_frame(encode_body(said), WIDE) == frame


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([], "a control frame that is a list, not an object"),
        ("ready", "a control frame that is a str, not an object"),
        ({}, "a control frame of unknown type 'None'"),
        ({"type": None}, "a control frame of unknown type 'None'"),
        ({"type": ["ready"]}, "a control frame of unknown type"),
        ({"type": "Ready"}, "a control frame of unknown type 'Ready'"),
        ({"type": "stop"}, "a control frame of unknown type 'stop'"),
        ({"type": "x" * 1000}, f"a control frame of unknown type '{'x' * 60}'$"),
        ({"type": "status"}, "a status frame whose text is not a string"),
        ({"type": "status", "text": ["a"]}, "a status frame whose text is not a string"),
        ({"type": "extend"}, "an extend frame whose seconds are not a number, 0 or more"),
        ({"type": "extend", "seconds": -0.5}, "an extend frame whose seconds"),
        ({"type": "extend", "seconds": False}, "an extend frame whose seconds"),
        ({"type": "complete"}, "a frame of type complete whose count of messages is missing or wrong"),
        ({"type": "complete", "messages": -1}, "a frame of type complete whose count"),
        ({"type": "complete", "messages": True}, "a frame of type complete whose count"),
        ({"type": "stopped", "messages": 1.0}, "a frame of type stopped whose count"),
        ({"type": "fail", "messages": "1", "error": ""}, "a frame of type fail whose count"),
        ({"type": "fail", "messages": 1}, "a fail frame whose error is not a string"),
        ({"type": "fail", "messages": 1, "error": {}}, "a fail frame whose error is not a string"),
        ({"type": "fail", "messages": 1, "error": "no", "traceback": 1}, "a fail frame whose traceback is not a"),
        (
            {"type": "exiting", "messages": 1, "code": 256},
            "an exiting frame whose code is not an integer from 0 to 255",
        ),
        (
            {"type": "exiting", "messages": 1, "code": 99999999999},
            "an exiting frame whose code is not an integer from 0 to 255",
        ),
        ({"type": "exiting", "messages": 1, "code": -1}, "an exiting frame whose code is not an integer from 0 to 255"),
        ({"type": "exiting", "messages": 1}, "an exiting frame whose code is not an integer from 0 to 255"),
        (
            {"type": "exiting", "messages": 1, "code": True},
            "an exiting frame whose code is not an integer from 0 to 255",
        ),
        ({"type": "exiting", "code": 1}, "a frame of type exiting whose count"),
        ({"type": "ready", "protocol": 3}, "a ready frame whose protocol is not an integer from 1 to 2"),
        (
            {"type": "ready", "protocol": 2, "calls": 1},
            "a ready frame whose calls is not a boolean, or true without protocol 2",
        ),
        (
            {"type": "ready", "protocol": 2, "bytes": 1},
            "a ready frame whose bytes is not a boolean, or true without protocol 2",
        ),
        (
            {"type": "ready", "protocol": 2, "calls": True, "concurrency": 0},
            "a ready frame whose concurrency is not an integer, 1 or more",
        ),
    ],
)
def test_what_a_child_may_not_say_breaks_the_protocol(said: object, problem: str) -> None:
    with pytest.raises(PeerProtocolError, match=problem):
        parse_child_frame(encode_body(said), WIDE)


def test_a_body_that_is_no_json_breaks_the_protocol() -> None:
    with pytest.raises(PeerProtocolError, match="not JSON-safe"):
        parse_child_frame(b"{", WIDE)


def test_a_result_may_be_as_large_as_any_payload_although_a_frame_is_around_it() -> None:
    bounds = PayloadBounds(depth=2, values=5, text_bytes=10)
    result = [["0123456789"], None, 1]
    assert parse_child_frame(encode_body({"type": "complete", "result": result, "messages": 0}), bounds) == Complete(
        result, 0
    )
    too_deep = {"type": "complete", "result": [[[[]]]], "messages": 0}
    with pytest.raises(PeerProtocolError, match="nested more than 3 deep"):
        parse_child_frame(encode_body(too_deep), bounds)
    assert (bounds.depth, bounds.values, bounds.text_bytes) == (2, 5, 10)


frame_fields = st.fixed_dictionaries(
    {"type": st.sampled_from(["ready", "heartbeat", "complete", "fail", "stopped", "exiting", "stop", 1, None])},
    optional={
        name: st.none() | st.booleans() | st.integers(-5, 2**64) | st.floats() | st.text() | st.lists(st.none())
        for name in ("messages", "error", "code", "result", "other")
    },
)


@given(frame_fields | st.lists(frame_fields, max_size=2), st.data())
def test_a_frame_is_understood_or_breaks_the_protocol_and_nothing_else(said: object, data: st.DataObject) -> None:
    body = bytearray(json.dumps(said).encode())
    if data.draw(st.booleans()):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        frame = parse_child_frame(bytes(body), WIDE)
    except PeerProtocolError:
        return
    assert isinstance(frame, ChildFrame)
    if not isinstance(frame, Ready | Heartbeat):
        assert frame.messages >= 0


def test_a_failures_text_beyond_its_bound_is_replaced() -> None:
    assert bounded_error("é" * 9_999, Limits()) == "é" * 9_999
    assert bounded_error("é" * 2_048, REFERENCE_LIMITS) == "é" * 2_048
    assert bounded_error("é" * 2_049, REFERENCE_LIMITS) == "the process failed and gave no reason"


def test_a_result_beyond_the_bounds_of_payloads_breaks_the_protocol() -> None:
    bounds = PayloadBounds(depth=2, values=5, text_bytes=10, container_entries=1)
    for result in ("x" * 11, [1, 2]):
        with pytest.raises(PeerProtocolError, match=r"a complete frame over a limit: result"):
            parse_child_frame(encode_body({"type": "complete", "result": result, "messages": 0}), bounds)


def test_an_errors_text_may_be_longer_than_a_payloads() -> None:
    """A traceback has the length of a frame as its bound, and `Limits.error_bytes` if that is set."""
    frame = {"type": "fail", "error": "x" * 1000, "messages": 0, "more": 0}
    assert parse_child_frame(encode_body(frame), PayloadBounds(2, 5, 10, 1)) == Fail("x" * 1000, 0)


@pytest.mark.parametrize("traceback", [None, "", "Traceback\nValueError"])
def test_a_failure_may_come_with_a_traceback(traceback: str | None) -> None:
    frame = {"type": "fail", "error": "no", "messages": 1} | ({} if traceback is None else {"traceback": traceback})
    assert parse_child_frame(json.dumps(frame).encode(), bounds_of(Limits())) == Fail("no", 1, traceback)
