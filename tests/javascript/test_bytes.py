"""Bytes to a JavaScript entry, in messages and calls, and back."""

from __future__ import annotations

import os

import pytest

from spindle_trio import PayloadError
from support.javascript import Stage

LARGE = os.urandom(1_000_003)

TOOLS = """
export default (process) => {
  process.onCall("echo", (payload) => payload);
  process.onCall("kinds", (payload) => payload.map((item) => [Buffer.isBuffer(item), item.length ?? null]));
  process.onCall("names", (payload) => Object.keys(payload));
  process.onCall("first", (payload) => payload[0].fill(7));
  process.onMessage((payload) => process.send(payload));
  process.ready();
};
"""

PAYLOADS = [
    b"",
    b"\x00\xff",
    LARGE,
    {"2": b"two", "1": b"first", "b": [b"", {"c": b"second" * 1000}, 3], "d": "text", "0": b"zero"},
    [bytes([number]) * number for number in range(256)],
    [LARGE, {"then": LARGE[:70_000]}, b"last"],
    {"$raw": 3, "data": b"12"},
    [{"$raw": 3}, {"$$raw": 3}, {"$date": "x"}, {"$raw": b"escaped"}, {"$__proto__": [b"y"]}, b"x"],
    {"$set": {"$raw": b"deep"}},
    ['{"$raw":5}', '"{\\"$raw\\":5}', b"12345"],
    {"größe": {"$raw": b"x"}},
]


async def test_bytes_arrive_as_buffers_in_calls_and_messages(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(TOOLS)
        async with handle.messages() as messages:
            for payload in PAYLOADS:
                assert await handle.call("echo", payload) == payload
                await handle.send(payload)
                assert await messages.receive() == payload
            handle.send_nowait([b"several", 1])
            handle.send_nowait("plain")
            handle.send_nowait(LARGE)
            handle.send_nowait("after")
            assert [await messages.receive() for _ in range(4)] == [[b"several", 1], "plain", LARGE, "after"]
        assert await handle.call("kinds", [b"", b"abc", bytearray(5), memoryview(LARGE), "text"]) == [
            [True, 0],
            [True, 3],
            [True, 5],
            [True, len(LARGE)],
            [False, 4],
        ]
        assert await handle.call("first", [b"abc"]) == b"\x07\x07\x07"
        assert await handle.call("names", {"__proto__": b"x", "a": 1}) == ["__proto__", "a"]


async def test_a_payload_at_spawn_has_no_bytes(stage: Stage) -> None:
    async with stage.host():
        with pytest.raises(PayloadError, match="send them in a message or a call once the process is ready"):
            await stage.spawn(TOOLS, payload=b"x")
