"""`StreamChannel`: one JSON object a line over any stream, and what a stream may do to it."""

from __future__ import annotations

import json
import tracemalloc

import pytest
import trio
import trio.testing

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._model import ProcessGet, ProcessSend
from spindle_trio._worker_protocol import StreamChannel
from spindle_trio._worker_protocol._lines import LineReader, UnreadableLineError

Stapled = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


def channel_and_peer(max_line_bytes: int = 1_000, max_line_values: int = 1_000) -> tuple[StreamChannel, Stapled]:
    near, far = trio.testing.memory_stream_pair()
    return StreamChannel(near, max_line_bytes=max_line_bytes, max_line_values=max_line_values), far


async def test_values_and_wire_forms_arrive_as_objects_in_order() -> None:
    near, far = trio.testing.memory_stream_pair()
    async with StreamChannel(near) as sender, StreamChannel(far) as receiver:
        await sender.send(ProcessGet("r1", "p1"))
        await sender.send({"type": "any", "text": "two\nlines, ü"})
        assert await receiver.receive() == {"type": "backend_process_get", "requestId": "r1", "processId": "p1"}
        assert await receiver.receive() == {"type": "any", "text": "two\nlines, ü"}


async def test_a_message_is_one_line_of_utf_8() -> None:
    channel, peer = channel_and_peer()
    await channel.send({"ü": [1.5, None]})
    assert await peer.receive_some() == '{"ü":[1.5,null]}\n'.encode()


async def test_lines_are_found_whatever_the_pieces_they_arrive_in() -> None:
    channel, peer = channel_and_peer()
    received = []

    async def receive() -> None:
        received.extend([await channel.receive() for _ in range(3)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        for byte in '{"a": "ü"}\n{"b": 2}\r\n{}\n'.encode():
            await peer.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
    assert received == [{"a": "ü"}, {"b": 2}, {}]


async def test_the_end_of_the_stream_ends_the_channel() -> None:
    channel, peer = channel_and_peer()
    await peer.send_all(b'{"a": 1}\n')
    await peer.aclose()
    assert await channel.receive() == {"a": 1}
    for _ in range(2):
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()


async def test_a_line_that_is_cut_off_by_the_end_is_an_error_and_then_the_end() -> None:
    channel, peer = channel_and_peer()
    await peer.send_all(b'{"a": 1}')
    await peer.aclose()
    with pytest.raises(PeerProtocolError, match="ended within a line"):
        await channel.receive()
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"5",
        b"nonsense",
        b'{"a": }',
        b'{"a": "\xff"}',
        b"\x00",
        b'{"a": 1} {"b": 2}',
        b'{"a": ' + b"[" * 400_000 + b"]" * 400_000 + b"}",
        b'{"a": ' + b"9" * 100_000 + b"}",
    ],
    ids=range(10),
)
async def test_a_line_that_is_no_object_is_refused_and_the_next_one_is_read(line: bytes) -> None:
    channel, peer = channel_and_peer(max_line_bytes=1_000_000)
    await peer.send_all(line + b'\n{"next": true}\n')
    with pytest.raises(PeerProtocolError):
        await channel.receive()
    assert await channel.receive() == {"next": True}


async def test_a_number_that_json_cannot_spell_is_read_so_that_its_request_can_be_answered() -> None:
    channel, peer = channel_and_peer()
    await peer.send_all(b'{"requestId": "r1", "options": {"startupTimeoutMs": 1e999, "payload": NaN}}\n')
    received = await channel.receive()
    assert received["requestId"] == "r1"


DEEP = b'{"x": ' + b"[" * 20_000 + b"]" * 20_000
MANY_DIGITS = b'{"x": ' + b"9" * 5_000
MANY_VALUES = b'{"x": [' + b"[]," * 700 + b"1]"
TOO_LONG = b'{"x": "' + b"x" * 100_000 + b'"'


@pytest.mark.parametrize("line", [DEEP, MANY_DIGITS, MANY_VALUES, TOO_LONG], ids=["deep", "digits", "values", "long"])
@pytest.mark.parametrize(
    "rest",
    [
        b', "requestId": "r\\u0031"}',
        b', "requestId": "r1", "options": {"requestId": "inner"}}',
        b', "requestId" : "r1" } ',
    ],
    ids=["last", "in the middle", "with blanks"],
)
async def test_a_request_that_is_not_parsed_is_named_and_the_next_line_is_read(line: bytes, rest: bytes) -> None:
    if line is TOO_LONG and b"options" in rest:
        line, rest = b'{"requestId": "r1", ' + line[1:], b"}"  # of a long line nobody looks at the middle
    channel, peer = channel_and_peer(max_line_bytes=90_000, max_line_values=600)
    await peer.send_all(line + rest + b'\n{"next": true}\n')
    with pytest.raises(UnreadableLineError) as caught:
        await channel.receive()
    assert caught.value.request_id == "r1"
    assert await channel.receive() == {"next": True}


@pytest.mark.parametrize(
    "line",
    [
        DEEP + b', "options": {"requestId": "inner"}}',
        DEEP + b', "said": "\\"requestId\\":\\"text\\"}"}',
        DEEP + b', "said": ["requestId", "r1"]}',
        DEEP + b', "requestId": 5}',
        DEEP + b', "requestId": "\\ud800"}',
        b'{"requestId": "r1", nonsense}',
        b'[{"requestId": "r1"}]',
    ],
    ids=range(7),
)
async def test_what_is_no_request_is_not_taken_for_one(line: bytes) -> None:
    channel, peer = channel_and_peer(max_line_bytes=100_000)
    await peer.send_all(line + b"\n")
    with pytest.raises(UnreadableLineError) as caught:
        await channel.receive()
    assert caught.value.request_id is None


async def test_a_line_that_is_too_long_is_skipped_while_it_comes_and_costs_no_more_than_the_bound() -> None:
    channel, peer = channel_and_peer(max_line_bytes=100_000)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            await peer.send_all(b'{"a": "')
            for _ in range(100):
                await peer.send_all(b"x" * 65_536)
                assert len(channel._lines._buffer) <= 200_000
                await trio.testing.wait_all_tasks_blocked()
            await peer.send_all(b'", "requestId": "r1"}\n{"next": true}\n')

        with pytest.raises(UnreadableLineError, match="more than 100000 bytes") as caught:
            await channel.receive()
        assert caught.value.request_id == "r1"
        assert await channel.receive() == {"next": True}
        await channel.send({})  # the sending end is as good as ever


def test_brackets_are_counted_before_a_line_is_parsed() -> None:
    """Five mebibytes of them took a second to parse, in which nobody else had a turn."""
    reader = LineReader(10**7, 300_000)
    reader.feed(b'{"requestId": "r1", "x": [' + b"[]," * 1_700_000 + b"1]}\n")
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableLineError, match="more than 300000 values"):
            reader.take()
        assert tracemalloc.get_traced_memory()[1] < 30_000_000  # and 170 MB if it is
    finally:
        tracemalloc.stop()


async def test_a_line_at_the_bound_passes_both_ways() -> None:
    near, far = trio.testing.memory_stream_pair()
    sender, receiver = StreamChannel(near, max_line_bytes=100), StreamChannel(far, max_line_bytes=100)
    message = {"a": "x" * (100 - len(b'{"a":""}'))}
    await sender.send(message)
    assert await receiver.receive() == message
    with pytest.raises(PayloadError, match="101 bytes"):
        await sender.send({"a": message["a"] + "x"})
    await sender.send({"b": 1})  # nothing of the long one was sent
    assert await receiver.receive() == {"b": 1}


@pytest.mark.parametrize(
    "payload", [float("nan"), {1}, b"x", "\ud800", object()], ids=["nan", "set", "bytes", "lone surrogate", "object"]
)
async def test_what_is_no_json_is_refused_before_anything_is_sent(payload: object) -> None:
    channel, peer = channel_and_peer()
    with pytest.raises(PayloadError):
        await channel.send(ProcessSend("p1", payload))  # type: ignore[arg-type]  # the mistake that is tested
    await channel.send({})
    assert await peer.receive_some() == b"{}\n"


async def test_a_cancelled_receive_loses_nothing() -> None:
    channel, peer = channel_and_peer()
    await peer.send_all(b'{"a": ')
    with trio.move_on_after(0) as scope:
        await channel.receive()
    assert scope.cancelled_caught
    await peer.send_all(b"1}\n")
    assert await channel.receive() == {"a": 1}


async def test_a_cancelled_send_breaks_the_sending_end_alone() -> None:
    """Half a line may be out: whatever followed it would be nonsense to the peer."""
    near, far = trio.testing.lockstep_stream_pair()
    channel = StreamChannel(near)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, {"a": "x" * 100})
            assert await far.receive_some(10) == b'{"a":"xxxx'
            scope.cancel()
    with pytest.raises(trio.BrokenResourceError, match="sent only in part"):
        await channel.send({})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.send_all, b"{}\n")
        assert await channel.receive() == {}


async def test_several_tasks_may_send_at_once() -> None:
    near, far = trio.testing.lockstep_stream_pair()
    sender, receiver = StreamChannel(near), StreamChannel(far)
    messages = [{"number": number, "text": "x" * 50} for number in range(20)]
    async with trio.open_nursery() as nursery:
        for message in messages:
            nursery.start_soon(sender.send, message)
        received = [await receiver.receive() for _ in messages]
    assert sorted(received, key=json.dumps) == sorted(messages, key=json.dumps)


async def test_a_peer_that_is_gone_breaks_it_and_closing_it_closes_the_stream() -> None:
    channel, peer = channel_and_peer()
    await peer.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await channel.send({})
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()
    await channel.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive()


async def test_sending_and_receiving_are_checkpoints() -> None:
    near, far = trio.testing.memory_stream_pair()
    sender, receiver = StreamChannel(near), StreamChannel(far)
    with trio.testing.assert_checkpoints():
        await sender.send({"a": 1})
    await sender.send({"a": 2})
    await receiver.receive()
    with trio.testing.assert_checkpoints():
        await receiver.receive()
    with trio.testing.assert_checkpoints(), pytest.raises(PayloadError):
        await sender.send({"a": "x" * 60_000_000})


def test_the_bound_on_a_line_is_positive() -> None:
    near, _ = trio.testing.memory_stream_pair()
    with pytest.raises(ValueError, match="positive"):
        StreamChannel(near, max_line_bytes=0)
    with pytest.raises(ValueError, match="max_line_values must be positive"):
        StreamChannel(near, max_line_values=0)


async def test_its_repr_is_a_status_line() -> None:
    channel, peer = channel_and_peer()
    assert repr(channel).startswith("<StreamChannel open over")
    await peer.aclose()
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()
    assert repr(channel).startswith("<StreamChannel ended over")
