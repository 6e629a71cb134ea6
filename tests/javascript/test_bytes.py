"""Bytes to a JavaScript entry, in messages and calls, and back."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from spindle_trio import CallFailedError, Limits, PayloadError
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


SENDS = """
export default (process) => {
  process.onCall("view", () => [new Uint8Array([1, 2, 3]).subarray(1), new Uint16Array([1]).buffer]);
  process.onCall("changed", () => {
    const data = Buffer.alloc(3_000_000, 1);
    process.send({ data });
    data.fill(2);
    return [data.subarray(0, 2), new Date(0)];
  });
  process.onCall("many", (count) => Array.from({ length: count }, (_, index) => Buffer.alloc(index % 7, index)));
  process.onCall("zeros", (size) => [Buffer.alloc(size)]);
  process.onCall("parts", function* (data) {
    for (let at = 0; at < data.length; at += 10) yield { at, data: data.subarray(at, at + 10) };
  });
  process.onCall("end", () => process.complete({ data: Buffer.alloc(3, 5) }));
  process.ready();
};
"""


async def test_a_javascript_entry_sends_bytes_behind_its_frames(stage: Stage) -> None:
    async with stage.host(limits=Limits(binary_bytes=4_000_000, frame_bytes=100_000)):
        handle = await stage.spawn(SENDS)
        assert await handle.call("view") == [b"\x02\x03", b"\x01\x00"]
        async with handle.messages() as messages:
            data, date = await handle.call("changed")  # type: ignore[misc]  # a list
            assert (data, date) == (b"\x02\x02", datetime.fromtimestamp(0, UTC))
            assert await messages.receive() == {"data": b"\x01" * 3_000_000}
        assert await handle.call("many", 1_000) == [bytes([number % 256]) * (number % 7) for number in range(1_000)]
        async with handle.stream("parts", LARGE[:95]) as items:
            found = [item async for item in items]
        assert b"".join(item["data"] for item in found) == LARGE[:95]  # type: ignore[call-overload, index, misc]
        with pytest.raises(CallFailedError, match="more than 4000000 bytes in buffers; raise Limits"):
            await handle.call("zeros", 4_000_001)
        assert await handle.call("zeros", 4_000_000) == [bytes(4_000_000)]
        await handle.call("end")
        await handle.wait_ended()
        assert handle.result == {"data": b"\x05\x05\x05"}
