"""JSON-RPC as bytes: what a program may print, and what becomes of it."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio.program._json_rpc import (
    Answer,
    HeaderFraming,
    Ids,
    LineFraming,
    NoJsonRpcError,
    PlainText,
    Refusal,
    Said,
    cancel_text,
    looks_foreign,
    message_text,
    notification_text,
    problem_of_message,
    problem_of_params,
    read_messages,
    refusal_text,
    request_text,
)

MOST = 1000
NOISE = [b"starting\n", b"\n", b"\r\n", b"warning: x=1\n", b"no end ", b"a:b\n", b"Content-Length: x\n"]
FRAMINGS = [LineFraming, HeaderFraming]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def split_at(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(ends)]


def read(framing: LineFraming | HeaderFraming, *chunks: bytes) -> tuple[list[bytes], bytes]:
    """Read a whole stream; return the messages and the plain output."""
    bodies: list[bytes] = []
    plain = b""
    for pieces in [*map(framing.feed, chunks), framing.end()]:
        for piece in pieces:
            if isinstance(piece, PlainText):
                plain += piece.data
            else:
                bodies.append(piece)
    return bodies, plain


@pytest.mark.parametrize("framing", FRAMINGS)
@given(messages=st.lists(json_values, max_size=5), places=st.lists(st.integers(0, 5000), max_size=8))
def test_messages_arrive_whole_however_the_stream_is_cut(framing, messages, places):
    texts = [notification_text("m", [message]) for message in messages]
    stream = b"".join(map(framing.frame, texts))
    bodies, plain = read(framing(100_000), *split_at(stream, places))
    assert [json.loads(body)["params"] for body in bodies] == [[message] for message in messages]
    assert plain == b""


@pytest.mark.parametrize("framing", FRAMINGS)
@given(data=st.binary(max_size=300), places=st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_are_read_the_same_however_they_are_cut(framing, data, places):
    whole, cut = framing(50), framing(50)
    assert read(whole, data) == read(cut, *split_at(data, places))
    assert whole.breach == cut.breach


@given(
    noise=st.lists(
        st.sampled_from(
            [b"starting\n", b"\n", b"\r\n", b"warning: x=1\n", b"no end ", b"a:b\n", b"Content-Length: x\n"]
        )
    ),
    places=st.lists(st.integers(0, 300), max_size=5),
)
def test_text_between_messages_with_headers_is_plain_output(noise, places):
    stream = b"".join(b"%b%b" % (line, HeaderFraming.frame('{"n":1}')) for line in noise)
    bodies, plain = read(HeaderFraming(MOST), *split_at(stream, places))
    assert bodies == [b'{"n":1}'] * len(noise)
    assert plain.strip() == b"".join(line for line in noise if line.strip()).strip()


def test_a_header_may_have_more_fields_and_bare_newlines():
    stream = b"content-type: application/vscode-jsonrpc; charset=utf-8\r\n"
    bodies, plain = read(
        HeaderFraming(MOST),
        b"Content-Length: 2\nContent-Type: text\n\n{}",
        b"CONTENT-LENGTH:  2 \r\n" + stream + b"\r\n[]",
    )
    assert (bodies, plain) == ([b"{}", b"[]"], b"")


def test_a_header_that_breaks_off_is_plain_output():
    bodies, plain = read(HeaderFraming(MOST), b"Content-Length: 7\r\nTraceback!\r\nContent-Length: 2\r\n\r\n{}")
    assert (bodies, plain) == ([b"{}"], b"Traceback!\r\n")


@pytest.mark.parametrize("length", ["1001", str(4 << 30), "9" * 4000])
def test_a_header_with_more_than_the_bound_breaks_the_protocol_at_once(length):
    framing = HeaderFraming(MOST)
    header = f"Content-Length: {length}\r\n".encode()
    assert read(framing, HeaderFraming.frame("{}") + header, HeaderFraming.frame("[]")) == ([b"{}"], b"")
    assert framing.breach == f"it announced a message of {length[:20]} bytes, more than 1000"


def test_a_message_of_the_bound_is_read():
    body = b'"' + b"x" * (MOST - 2) + b'"'
    assert read(LineFraming(MOST), body + b"\n")[0] == [body]
    assert read(HeaderFraming(MOST), b"Content-Length: 1000\r\n\r\n" + body)[0] == [body]


@pytest.mark.parametrize("begin", [b'{"jsonrpc', b"  [", b'{"result": '])
def test_a_line_of_json_beyond_the_bound_breaks_the_protocol(begin):
    framing = LineFraming(MOST)
    assert read(framing, b"[1]\n" + begin, b"x" * MOST, b"\n[2]\n") == ([b"[1]"], b"")
    assert framing.breach == "it sent a message of more than 1000 bytes"


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_flood_without_a_newline_is_plain_output_and_is_not_kept(framing):
    reader = framing(MOST)
    for _ in range(100):
        reader.feed(b"x" * 9000)
        assert len(reader._rest) <= 9000
    bodies, plain = read(reader, b"xyz\n", framing.frame("{}"))
    assert bodies == [b"{}"]
    assert plain == b"xyz\n"


def test_lines_end_in_any_way_and_blank_ones_do_not_count():
    assert read(LineFraming(MOST), b'{"a":1}\r\n\n  \n\r\n{"b":2}') == ([b'{"a":1}\r', b'{"b":2}'], b"")


def test_the_other_framing_is_recognised():
    assert looks_foreign(LineFraming(MOST), b"Content-length: 12\r")
    assert looks_foreign(HeaderFraming(MOST), b'{"jsonrpc":"2.0","id":1}')
    assert not looks_foreign(LineFraming(MOST), b"Content")
    assert not looks_foreign(HeaderFraming(MOST), b"{}")


@given(data=st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_text_is_read_or_refused(data):
    try:
        messages = read_messages(data)
    except NoJsonRpcError as error:
        assert len(str(error)) < 1500
    else:
        assert all(isinstance(message, Answer | Refusal | Said | NoJsonRpcError) for message in messages)


odd_literals = st.sampled_from(
    [
        "1e999",
        "-1e999",
        "1" * 400,
        "[" * 400 + "]" * 400,
        "null",
        "true",
        "{}",
        '"\\ud800"',
        '"7"',
        "1.0",
        "-0",
        "7",
        "[1]",
        '"m"',
    ]
)


@given(fields=st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error"]), odd_literals))
def test_any_message_of_odd_values_is_read_or_refused_and_its_id_can_be_given_back(fields):
    text = "{" + ",".join(f'"{name}":{literal}' for name, literal in fields.items()) + "}"
    try:
        (message,) = read_messages(text.encode())
    except NoJsonRpcError:
        return
    if isinstance(message, Said) and message.is_request:
        assert json.loads(LineFraming.frame(refusal_text(message.message["id"], 1, "no")))["error"]["code"] == 1


def one(**fields: object) -> object:
    (message,) = read_messages(json.dumps(fields).encode())
    return message


def test_the_messages_of_a_server_are_told_apart():
    assert one(jsonrpc="2.0", id=1, result={"x": 1}) == Answer(1, {"x": 1})
    assert one(id=2, result=None) == Answer(2, None)
    assert one(id=3, result=1, error=None) == Answer(3, 1)
    assert one(jsonrpc="2.0", method="m", params=[1], extra=2) == Said({"method": "m", "params": [1]})
    asked = one(jsonrpc="2.0", id="q", method="m")
    assert asked == Said({"id": "q", "method": "m"})
    assert asked.is_request
    error = {"code": -32601, "message": "no such method", "data": [1]}
    assert one(id=4, error=error) == Refusal(4, "no such method", -32601, [1])
    assert one(id=None, error={"code": -32700, "message": "what?"}) == Refusal(None, "what?", -32700)


@pytest.mark.parametrize(
    ("given_back", "ours"),
    [("7", 7), (7.0, 7), (7, 7), ("x", None), (True, None), ("٧", None), ("9" * 5000, None), ([7], None)],
)
def test_an_id_may_come_back_as_text_or_as_a_float(given_back, ours):
    assert one(id=given_back, result=0) == Answer(ours, 0)


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        ("boom", "boom", None),
        (5, 'an error that is no object: \'{"id": 1, "error": 5}\'', None),
        ({}, "(the server gave no message)", None),
        ({"code": "E1", "message": "m"}, "m", None),
        ({"code": -32000.0, "message": 4}, "(the server gave no message)", -32000),
        ({"code": 2**70, "message": "m"}, "m", None),
        ({"code": True, "message": "m"}, "m", None),
    ],
)
def test_an_error_of_an_odd_shape_still_ends_its_request(error, text, code):
    assert one(id=1, error=error) == Refusal(1, text, code)


def test_an_answer_with_nothing_in_it_ends_its_request():
    assert one(jsonrpc="2.0", id=1) == Refusal(1, "the answer has neither a result nor an error")


@pytest.mark.parametrize(
    "text",
    ["", "starting up", "{", "NaN", "42", '"x"', "null", "[]", "[1, 2]", '{"level": "info", "msg": "up"}', '{"id": 3}',
     "[" * 100_000, '{"method": 4}', '{"method": "m", "id": [1]}', "1" * 5000,
     '{"method": "m", "id": 1e999}', '\ufeff{"id":1}'],
)  # fmt: skip
def test_what_is_no_json_rpc_is_refused(text):
    with pytest.raises(NoJsonRpcError):
        read_messages(text.encode())


def test_what_is_no_text_is_refused():
    with pytest.raises(NoJsonRpcError, match="no JSON"):
        read_messages(b'{"id":1,"result":"\xff"}')


def test_a_broken_member_of_a_batch_leaves_the_others_alone():
    answer, said, broken = read_messages(b'[{"id":1,"result":2},5,{"x":1},{"method":"m"}]')
    assert (answer, said) == (Answer(1, 2), Said({"method": "m"}))
    assert isinstance(broken, NoJsonRpcError)
    assert "no object" in str(broken)


@given(message=st.dictionaries(texts, json_values), params=st.lists(json_values) | st.none(), method=texts)
def test_what_a_client_writes_is_one_line_of_json(message, params, method):
    for text in (
        request_text(7, method, params),
        notification_text(method, params),
        message_text(message),
        refusal_text("id", -1, method),
    ):
        assert not re.search(r"[\r\n]", text)
        assert json.loads(text)["jsonrpc"] == "2.0"
    request = json.loads(request_text(7, method, params))
    assert (request["id"], request["method"], request.get("params")) == (7, method, params)
    assert ("params" in request) is (params is not None)


def test_a_message_without_params_has_none():
    assert json.loads(message_text({"method": "m", "params": None})) == {"jsonrpc": "2.0", "method": "m"}
    assert json.loads(message_text({"id": 1, "result": None})) == {"jsonrpc": "2.0", "id": 1, "result": None}


def test_what_cannot_be_sent_is_said():
    assert problem_of_params([1]) is problem_of_params({}) is problem_of_params(None) is None
    assert "not int" in str(problem_of_params(3))
    for fine in ({"method": "m"}, {"method": "m", "params": []}, {"id": 1, "result": None}, {"id": "x", "error": {}}):
        assert problem_of_message(fine) is None
    for bad in (
        "m",
        {"method": "m", "params": 4},
        {"method": "m", "id": 3},
        {"id": 1},
        {"id": 1, "result": 1, "error": 2},
        {},
    ):
        assert problem_of_message(bad)


def test_an_answer_that_nobody_waits_for_is_named():
    ids = Ids()
    assert [ids.next(), ids.next()] == [1, 2]
    assert "answered or cancelled before" in ids.words_for(2)
    assert "never was" in ids.words_for(3)
    assert "without an id" in ids.words_for(None)


def test_a_cancellation_is_what_each_protocol_has():
    told = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 3}}
    assert json.loads(str(cancel_text(3, "initialize", has_headers=True))) == told
    told = json.loads(str(cancel_text(3, "tools/call", has_headers=False)))
    assert (told["method"], told["params"]["requestId"]) == ("notifications/cancelled", 3)
    assert cancel_text(3, "initialize", has_headers=False) is None
