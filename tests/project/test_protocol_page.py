"""The test vectors of `notes/protocol.md` are what the code says and accepts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spindle_trio._errors import PeerProtocolError
from spindle_trio._model import Limits, ResolvedEntry
from spindle_trio._protocol._binary import encode_binary, gather_text
from spindle_trio._protocol._call_answers import Answer, CallReader, Failure, Item, StreamEnd, encode_call
from spindle_trio._protocol._call_frames import encode_answer, encode_end, encode_failure, encode_item, read_call
from spindle_trio._protocol._control_frames import (
    encode_cancel,
    encode_credit,
    encode_init,
    encode_stop,
    parse_child_frame,
)
from spindle_trio._protocol._frames import HEADER_BYTES, FrameDecoder, encode_body, with_header
from spindle_trio._protocol._json_codec import BytesFollowError, decode_body, write_body
from spindle_trio._protocol._payload import bounds_of
from spindle_trio.abc import LaunchOrder
from spindle_trio.javascript import RUNTIME
from spindle_trio.launchers._local._first_frames import encode_execution, encode_order
from spindle_trio.wire import parse_notice, parse_request, to_json

PAGE = Path(__file__).parents[2] / "notes" / "protocol.md"
LIMITS = Limits()
BOUNDS = bounds_of(LIMITS)


def blocks(*kinds: str) -> Iterator[list[str]]:
    """Find the fenced blocks of some kinds, each as its lines."""
    for match in re.finditer(r"^```(\S.*)\n((?:(?!```).*\n)*)```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        if match[1] in kinds:
            yield match[2].splitlines()


def vectors(*kinds: str) -> list[str]:
    """Find the lines in the blocks of some kinds; at least one, so that no test is empty."""
    found = [line for lines in blocks(*kinds) for line in lines]
    assert found, f"the page has no block of the kinds {kinds}"
    return found


FRAMES = list(blocks("frame", "frame init", "frame stop", "frame cancel", "frame credit", "frame up"))


@pytest.mark.parametrize(("body", "bytes_shown"), FRAMES)
def test_each_frame_is_these_bytes(body: str, bytes_shown: str) -> None:
    data = bytes.fromhex(bytes_shown)
    assert with_header(body.encode()) == data
    decoder = FrameDecoder(LIMITS.frame_bytes)
    decoder.feed(data)
    assert decoder.take(1) == [body.encode()]
    value = decode_body(data[HEADER_BYTES:], BOUNDS)
    assert value == json.loads(body)
    assert encode_body(value) == body.encode()


@pytest.mark.parametrize(("body", "bytes_shown"), list(blocks("frame up")))
def test_the_host_understands_each_frame_of_a_process(body: str, bytes_shown: str) -> None:
    frame = parse_child_frame(body.encode(), BOUNDS)
    said = json.loads(body)
    name = {"calls": "takescalls"}.get(said["type"], said["type"])
    assert type(frame).__name__.lower() == name
    del said["type"]
    if "calls" in said:
        said["takes_calls"] = said.pop("calls")
    for field, value in said.items():
        assert getattr(frame, field) == value


def test_the_tagged_form_is_read_as_on_the_page() -> None:
    (body,) = vectors("tagged")
    at = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    assert decode_body(body.encode(), BOUNDS) == {"at": at, "data": b"\0\xff", "plain": {"$set": 1}}


def test_bytes_follow_a_message_as_on_the_page() -> None:
    text, *frames = vectors("binary")
    value = json.loads(text)
    value["data"] = bytes.fromhex(value["data"])
    value["more"] = [bytes.fromhex(data) for data in value["more"]]
    head, *pieces = [bytes.fromhex(frame) for frame in frames]
    bodies = [frame[HEADER_BYTES:] for frame in (head, *pieces)]
    assert [with_header(body) for body in bodies] == [head, *pieces]
    with pytest.raises(BytesFollowError) as follow:
        decode_body(bodies[0], BOUNDS)
    for gathering in (follow.value.gathering, gather_text(bodies[0][1:])):
        assert [gathering.add(body) for body in bodies[1:]] == [False, True]
        assert gathering.value == value
    written = encode_binary(value, 10_000, write=write_body)
    assert list(written.bodies()) == [bodies[0], bodies[1] + bodies[2][1:]]
    assert encode_binary(value, 10_000) == written
    assert written.framed_size == sum(map(len, written.bodies())) + 2 * HEADER_BYTES


@pytest.mark.parametrize("body", vectors("refused-binary"))
def test_bytes_that_break_the_protocol_are_refused(body: str) -> None:
    with pytest.raises(PeerProtocolError):
        decode_body(body.encode(), BOUNDS)


def test_the_host_says_init_as_on_the_page() -> None:
    (body, _), *others = blocks("frame init")
    assert not others
    said = encode_init(
        process_id="p1",
        entry="dist/indexer.py",
        kind="indexer",
        key="chat:42",
        user_id="ada",
        payload={"chat": 42},
        metadata=None,
        heartbeat_timeout=15,
        limits=LIMITS,
    )
    assert json.loads(said) == json.loads(body)


def test_the_host_says_stop_as_on_the_page() -> None:
    (body, _), *others = blocks("frame stop")
    assert not others
    assert encode_stop("user left") == body.encode()


def test_the_host_cancels_and_gives_credit_as_on_the_page() -> None:
    (cancel, _), *more_cancels = blocks("frame cancel")
    (credit, _), *more_credit = blocks("frame credit")
    assert not more_cancels
    assert not more_credit
    assert encode_cancel(7) == cancel.encode()
    assert encode_credit(7, 16) == credit.encode()


def kind_and_body(line: str) -> bytes:
    """Make the body that a line on the page shows."""
    kind, _, text = line.partition(" ")
    return bytes([int(kind)]) + text.encode()


@pytest.mark.parametrize(("line", "bytes_shown"), list(blocks("calls call", "calls up")))
def test_each_frame_of_the_calls_lane_is_these_bytes(line: str, bytes_shown: str) -> None:
    assert with_header(kind_and_body(line)) == bytes.fromhex(bytes_shown)


@pytest.mark.parametrize(("line", "_"), list(blocks("calls call")))
def test_the_host_calls_as_on_the_page_and_a_process_understands(line: str, _: str) -> None:
    body = kind_and_body(line)
    call_id, method, left, payload, *window = json.loads(body[1:])
    seconds = math.inf if left is None else left / 1000
    assert encode_call(call_id, method, seconds, payload, *(window or [None]), LIMITS.frame_bytes) == body
    call = read_call(body)
    assert (call.call_id, call.method, call.payload) == (call_id, method, payload)
    assert call.seconds == (None if left is None else left / 1000)
    assert call.window == (window[0] if window else None)


@pytest.mark.parametrize(("line", "_"), list(blocks("calls up")))
def test_a_process_answers_as_on_the_page_and_the_host_understands(line: str, _: str) -> None:
    body = kind_and_body(line)
    call_id, *said = json.loads(body[1:])
    match CallReader(BOUNDS).read(body):
        case Answer(id_read, value):
            assert encode_answer(id_read, value, LIMITS.frame_bytes) == body
        case Item(id_read, value):
            assert encode_item(id_read, value, LIMITS.frame_bytes) == body
        case StreamEnd(id_read):
            assert encode_end(id_read) == body
        case Failure() as failure:
            id_read = failure.call_id
            about = {"error": failure.error_type, "text": failure.text, "traceback": failure.traceback}
            if failure.known is not None:
                about = {"known": list(failure.known)}
            elif failure.is_cancelled:
                about = {"cancelled": True}
            assert (call_id, about) == (id_read, said[0])
            assert encode_failure(id_read, about) == body
    assert id_read == call_id


@pytest.mark.parametrize("line", vectors("refused-calls"))
def test_what_the_page_calls_a_breach_on_the_calls_lane_is_one(line: str) -> None:
    with pytest.raises(PeerProtocolError):
        CallReader(BOUNDS).read(kind_and_body(line))


@pytest.mark.parametrize("line", ["2 [7,1]", "1 [7,1,null,2]", '1 [7,"a",null]', '1 [7,"a","soon",2]', "1 {}"])
def test_what_is_no_call_is_refused_by_a_process(line: str) -> None:
    with pytest.raises(ValueError, match=r"CALL|kind"):
        read_call(kind_and_body(line))


def launch_order(name: str) -> LaunchOrder:
    """What the host orders in the examples of the page."""
    root = Path("/srv/extensions/indexer")
    return LaunchOrder(
        process_id="p1",
        entry=ResolvedEntry(name, root / name),
        root=root,
        environment={"PATH": "/usr/bin:/bin"},
        limits=LIMITS,
    )


def test_a_process_is_ordered_to_run_an_entry_as_on_the_page() -> None:
    (line,) = vectors("json order")
    order = launch_order("indexer.py")
    path = ["/srv/extensions/indexer", "/srv/lib"]
    said = encode_order(order, path, root=order.root, environment=order.environment)
    assert json.loads(said) == json.loads(line)


def test_a_process_is_told_to_become_another_program_as_on_the_page() -> None:
    (line,) = vectors("json execution")
    order = launch_order("indexer.js")
    command = ["/usr/bin/node", "/srv/lib/spindle_trio/javascript/main.mjs", "indexer.js"]
    assert json.loads(encode_execution(order, command, str(order.entry.path))) == json.loads(line)


def test_the_runtime_of_javascript_is_started_with_the_arguments_on_the_page() -> None:
    (arguments,) = re.findall(r"is started with the arguments `([A-Z ]+)`", PAGE.read_text(encoding="utf-8"))
    assert f"//     {arguments}\n" in RUNTIME.read_text(encoding="utf-8")


@pytest.mark.parametrize("body", vectors("refused"))
def test_what_the_page_calls_a_breach_is_one(body: str) -> None:
    with pytest.raises(PeerProtocolError):
        parse_child_frame(body.encode(), BOUNDS)


@pytest.mark.parametrize("line", vectors("json request"))
def test_each_request_survives_a_round_trip(line: str) -> None:
    said = json.loads(line)
    assert to_json(parse_request(said)) == said


@pytest.mark.parametrize("line", vectors("json notice"))
def test_each_notice_survives_a_round_trip(line: str) -> None:
    said = json.loads(line)
    assert to_json(parse_notice(said)) == said


@pytest.mark.parametrize("line", vectors("refused-request"))
def test_what_the_page_calls_malformed_is_refused(line: str) -> None:
    with pytest.raises(PeerProtocolError):
        parse_request(json.loads(line))
