"""What a JavaScript entry may send, and the errors for anything else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio.testing

from spindle_trio import REFERENCE_LIMITS, Limits, PayloadError, StreamChannel, connect_worker
from spindle_trio.javascript import RUNTIME
from support.javascript import ECHO, Stage, body, outcome

HEAD = """
class Point { x = 1; }
const nested = (depth) => { let value = 1; for (; depth > 0; depth -= 1) value = [value]; return value; };
const cycle = () => { const value = { list: [] }; value.list.push(value); return value; };
const repeated = (count, value) => Array.from({ length: count }, () => value);
const named = (count) => Object.fromEntries(repeated(count, 0).map((value, index) => [index, value]));
const attempt = (action) => {
  try { action(); } catch (error) { return [error.name, error instanceof TypeError, error.message]; }
  return null;
};
"""

ADVICE = "raise Limits(frame_bytes=…), or write it to a file and send its path"

REFUSED = {
    "undefined": "payload: undefined is not JSON-safe",
    "NaN": "payload: NaN is not JSON-safe",
    "[1, -Infinity]": "payload[1]: -Infinity is not JSON-safe",
    "10n": "payload: bigint is not JSON-safe",
    "Symbol('s')": "payload: symbol is not JSON-safe",
    "() => 1": "payload: function is not JSON-safe",
    "Point": "payload: function is not JSON-safe",
    "({ items: [0, 1, 2, new Set([3])] })": "payload.items[3]: Set is not JSON-safe",
    "({ a: { 'b c': new Map() } })": "payload.a['b c']: Map is not JSON-safe".replace("'", '"'),
    "({ ['n'.repeat(99)]: NaN })": 'payload["' + "n" * 36 + "...]: NaN is not JSON-safe",
    "new Date(NaN)": "payload: the Date is no valid time",
    "[new Date(-62135596800001)]": "payload[0]: the Date is outside of the years 1 to 9999",
    "new Date(253402300800000)": "payload: the Date is outside of the years 1 to 9999",
    "new Point()": "payload: Point is not JSON-safe",
    "/x/": "payload: RegExp is not JSON-safe",
    "new Error('e')": "payload: Error is not JSON-safe",
    "new Blob(['x'])": "payload: Blob is not JSON-safe",
    "Promise.resolve(1)": "payload: Promise is not JSON-safe",
    "new String('boxed')": "payload: String is not JSON-safe",
    "Object.create({ __proto__: { inherited: 1 } })": "payload: Object is not JSON-safe",
    "({ toJSON() { return 1; } })": "payload.toJSON: function is not JSON-safe",
    "cycle()": "nested more than 64 deep (does it contain itself?)",
    "nested(65)": "nested more than 64 deep (does it contain itself?)",
    "'\\ud800'": "payload: the text has a lone surrogate",
    "['ok', 'half \\udfff']": "payload[1]: the text has a lone surrogate",
    "({ '\\ud800': 1 })": 'payload["\\ud800"]: the text has a lone surrogate',
    "repeated(100_000, 0)": "more than 100000 values in all",
    "'x'.repeat(2 ** 24 - 1)": f"payload: 16777217 bytes of JSON, more than 16777216 in one frame; {ADVICE}",
    "'ü'.repeat(2 ** 23)": f"payload: 16777218 bytes of JSON, more than 16777216 in one frame; {ADVICE}",
    "'\\n'.repeat(2 ** 23)": f"payload: 16777218 bytes of JSON, more than 16777216 in one frame; {ADVICE}",
    "({ get a() { throw new TypeError('a getter'); } })": "a getter",
    "new Proxy({}, { ownKeys() { throw new TypeError('a trap'); } })": "a trap",
    "new Proxy([], { get(list, name) { return name === 'length' ? 1e9 : 0; } })": "more than 100000 values in all",
}

SENT = {
    "null": None,
    "true": True,
    "-(2 ** 63)": -(2**63),
    "-(2 ** 63) + 1024": -9223372036854775000,
    "2 ** 63": 9223372036854776000,
    "2 ** 64 - 2048": 18446744073709550000,
    "2 ** 64": 2.0**64,
    "({ n: -1e20 })": {"n": -1e20},
    "1.5": 1.5,
    "5e-324": 5e-324,
    "1e21": 1e21,
    "Number.MAX_VALUE": 1.7976931348623157e308,
    "''": "",
    "'\\0 \\n \\u2028 ü \\u{1f600} \\\\ \"'": '\0 \n \u2028 ü \U0001f600 \\ "',
    "[[], {}, [{}]]": [[], {}, [{}]],
    "({ '': [null, { 'a.b': 1 }], type: 'stop', __proto__: null })": {"": [None, {"a.b": 1}], "type": "stop"},
    'JSON.parse(\'{"__proto__": 1, "constructor": 2}\')': {"__proto__": 1, "constructor": 2},
    "({ a: undefined, b: 1, [Symbol('s')]: 2 })": {"b": 1},
    "[1, undefined]": [1, None],
    "[, 1]": [None, 1],
    "({ $date: '2026-03-01T12:00:00.000Z' })": {"$date": "2026-03-01T12:00:00.000Z"},
    "[{ $$bytes: 'aGk=' }, { $: { $set: 1 } }]": [{"$$bytes": "aGk="}, {"$": {"$set": 1}}],
    "[{ a: undefined, $a: 1 }, { $a: 1, $b: 2 }]": [{"$a": 1}, {"$a": 1, "$b": 2}],
    "'$'": "$",
    "Object.defineProperty({ seen: 1 }, 'hidden', { value: 2 })": {"seen": 1},
    "({ get read() { return 'once'; } })": {"read": "once"},
    "Object.assign([1], { more: 2 })": [1],
    "new Proxy({ a: 1 }, {})": {"a": 1},
    "({ asked: 0, get n() { this.asked += 1; return this.asked === 1 ? 'first' : NaN; } })": {"asked": 0, "n": "first"},
    "nested(64).length": 1,
    "repeated(99_999, 0)": [0] * 99_999,
    "'x'.repeat(2 ** 24 - 2)": "x" * (2**24 - 2),
    "'ü'.repeat(2 ** 19 - 1)": "ü" * (2**19 - 1),
}


def tries(sources: Iterable[str]) -> str:
    """Make an entry that tries to send each value, and completes with the error of each."""
    cases = ", ".join(f"() => {source}" for source in sources)
    return f"{HEAD}\n{body(f'p.ready(); p.complete([{cases}].map((make) => attempt(() => p.send(make()))));')}"


LIMITS = "{ frameBytes: 2 ** 24, depth: 64, values: 100_000, textBytes: null, containerEntries: null }"


async def test_what_is_not_json_safe_is_refused_with_its_path(stage: Stage) -> None:
    cases = ", ".join(f"() => {source}" for source in REFUSED)
    payload_module = RUNTIME.with_name("payload.mjs")
    head = f"import {{ encodePayload }} from '{payload_module}';\nconst limits = {LIMITS};\n{HEAD}"
    ask = f"[{cases}].map((make) => attempt(() => encodePayload(make(), limits)))"
    source = body(f"p.ready(); p.complete({ask});", head)
    async with stage.host():
        result = await stage.result(source)
    for (source, says), (name, is_type_error, message) in zip(REFUSED.items(), result, strict=True):
        assert (name, is_type_error) in {("PayloadError", True), ("TypeError", True)}, source
        assert message.endswith(says), (source, message)
        assert name == "TypeError" or message.startswith("payload"), (source, message)


SWALLOWED = {
    "p.send({ items: [0, new Set()] })": "payload.items[1]: Set is not JSON-safe",
    "p.send([NaN])": "payload[0]: NaN is not JSON-safe",
    "p.send(undefined)": "payload: undefined is not JSON-safe",
    "p.send(cycle())": "payload" + ".list[0]" * 32 + ".list: nested more than 64 deep (does it contain itself?)",
    "p.complete([new Map()])": "result[0]: Map is not JSON-safe",
    "p.complete(10n)": "result: bigint is not JSON-safe",
}


async def test_what_is_no_json_fails_the_process_although_the_error_is_swallowed(stage: Stage) -> None:
    """The caller at the other end waits for it, and has to hear that it does not come."""

    async def run(code: str) -> tuple[object, list[object]]:
        handle = await stage.spawn(body(f"p.ready(); p.send('before'); attempt(() => {code}); p.send('after');", HEAD))
        messages = [payload async for payload in handle.messages()]
        assert handle.post_mortem is not None
        assert "at async run" in str(handle.post_mortem.traceback) or "at run" in str(handle.post_mortem.traceback)
        assert not handle.post_mortem.stderr
        return await outcome(handle), messages

    async with stage.host():
        ends = await stage.for_each({code: code for code in SWALLOWED}, run)
    assert ends == {code: (("failed", f"PayloadError: {says}"), ["before"]) for code, says in SWALLOWED.items()}


async def test_what_is_only_too_large_may_be_sent_in_parts(stage: Stage) -> None:
    async with stage.host(limits=Limits(frame_bytes=1_000)):
        handle = await stage.spawn(
            body(
                "p.ready(); p.send(attempt(() => p.send('x'.repeat(999)))); attempt(() => p.complete('x'.repeat(999)));"
                "p.complete('short');",
                HEAD,
            )
        )
        (told,) = [payload async for payload in handle.messages()]
    text = f"payload: 1001 bytes of JSON, more than 1000 in one frame; {ADVICE}"
    assert told == ["PayloadError", True, text]
    assert handle.result == "short"


NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)

RICH = {
    "new Date('2026-03-01T12:00:00.250Z')": NOON,
    "[new Date(-62135596800000), new Date(253402300799999)]": [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    ],
    "({ when: new (class Special extends Date {})(0) })": {"when": datetime(1970, 1, 1, tzinfo=UTC)},
    "Buffer.from('gr\u00fcn')": "grün".encode(),
    "[new Uint8Array([0, 255]).buffer, new ArrayBuffer(0)]": [b"\0\xff", b""],
    "new Uint8Array([9, 8, 7, 6]).subarray(1, 3)": b"\x08\x07",
    "new Float64Array([1])": b"\0\0\0\0\0\0\xf0\x3f",
    "new DataView(new Uint8Array([1, 2, 3]).buffer, 1)": b"\x02\x03",
    "[{ $date: 1 }, new Date(0), undefined, { $bytes: Buffer.from('x') }]": [
        {"$date": 1},
        datetime(1970, 1, 1, tzinfo=UTC),
        None,
        {"$bytes": b"x"},
    ],
    "Buffer.alloc(500_000, 7)": b"\x07" * 500_000,
}


async def test_dates_and_bytes_arrive_as_what_they_are(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(tries(RICH))
        payloads = [payload async for payload in handle.messages()]
        assert handle.result == [None] * len(RICH)
        result = await stage.result(body("p.ready(); p.complete({ at: new Date(0), data: [Buffer.from('x')] });"))
    for (source, value), came in zip(RICH.items(), payloads, strict=True):
        assert came == value, source
        assert type(came) is type(value), source
    assert result == {"at": datetime(1970, 1, 1, tzinfo=UTC), "data": [b"x"]}


async def test_dates_and_bytes_reach_a_worker_in_another_program(stage: Stage) -> None:
    source = body("p.ready(); p.send([new Date(0), Buffer.from('x')]); p.complete({ at: new Date(0) });")
    async with stage.host() as host, trio.open_nursery() as nursery:
        far, near = map(StreamChannel, trio.testing.memory_stream_pair())
        nursery.start_soon(lambda: host.serve_worker(near, "far", root=stage.root, user_id="ada"))
        async with connect_worker(far) as worker:
            handle = await worker.backend_processes.spawn(stage.write(source))
            messages = [payload async for payload in handle.messages()]
            await handle.wait_ended()
    assert messages == [[datetime(1970, 1, 1, tzinfo=UTC), b"x"]]
    assert handle.result == {"at": datetime(1970, 1, 1, tzinfo=UTC)}


async def test_what_is_json_safe_arrives_as_json_says_it(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(tries(SENT))
        payloads = [payload async for payload in handle.messages()]
        assert handle.result == [None] * len(SENT)
    for (source, value), came in zip(SENT.items(), payloads, strict=True):
        assert came == value, source


async def test_what_is_json_safe_comes_back_from_javascript(stage: Stage) -> None:
    payloads = [
        None,
        True,
        2**53,
        1.5,
        "\0 ü \U0001f600 \u2028",
        [],
        {},
        {"": [None, {"a.b": [[], {}]}]},
        {"type": "stop"},
    ]
    payloads += ["x" * (2**20 - 2), [0] * 99_999]
    async with stage.host():
        handle = await stage.spawn(ECHO)
        messages = handle.messages()
        for payload in payloads:
            await handle.send(payload)
            assert await messages.receive() == payload
        deep = await stage.result(body("p.ready(); p.complete(p.payload);"), payload=[[[{"a": [1]}]]])
        assert deep == [[[{"a": [1]}]]]


REFERENCE = {
    "'x'.repeat(2 ** 18)": "'x'.repeat(2 ** 18 + 1)",
    "'ü'.repeat(2 ** 17)": "'ü'.repeat(2 ** 17) + 'x'",
    "({ name: ['x'.repeat(2 ** 18 - 4)] })": "({ name: ['x'.repeat(2 ** 18 - 3)] })",
    "repeated(1_000, 0)": "repeated(1_001, 0)",
    "named(1_000)": "named(1_001)",
    "nested(32)": "nested(33)",
    "[...repeated(9, repeated(999, 0)), repeated(998, 0)]": "repeated(10, repeated(999, 0))",
}


async def test_the_reference_limits_hold_at_each_bound_and_one_over_it(stage: Stage) -> None:
    async with stage.host(limits=REFERENCE_LIMITS):
        within = await stage.end(tries(REFERENCE))
        beyond = await stage.end(tries(REFERENCE.values()))
    assert within.result == [None] * len(REFERENCE)
    assert within.statistics().messages_received == len(REFERENCE)
    assert [told[2] for told in beyond.result] == [
        "payload: more than 262144 bytes of text in all",
        "payload: more than 262144 bytes of text in all",
        "payload.name[0]: more than 262144 bytes of text in all",
        "payload: 1001 entries, more than 1000 in one container",
        "payload: 1001 entries, more than 1000 in one container",
        "payload" + "[0]" * 33 + ": nested more than 32 deep (does it contain itself?)",
        "payload[9][998]: more than 10000 values in all",
    ]


async def test_a_failure_fits_into_a_frame_however_little_it_may_have(stage: Stage) -> None:
    async with stage.host(limits=Limits(frame_bytes=2_000)):
        handle = await stage.end(body("p.ready(); throw new Error('\\u0001'.repeat(100_000));"))
        assert handle.state == "failed"
        assert str(handle.info.error).startswith("Error: \u0001\u0001")
    async with stage.host(limits=REFERENCE_LIMITS):
        handle = await stage.end(body("p.ready(); p.fail('ü'.repeat(100_000));"))
        assert handle.state == "failed"
        assert handle.info.error


async def test_the_host_refuses_what_it_cannot_send_before_anything_leaves(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(ECHO)
        with pytest.raises(PayloadError, match="payload: set is not JSON-safe"):
            await handle.send({1})
        messages = handle.messages()
        await handle.send("still here")
        assert await messages.receive() == "still here"


def test_the_command_line_prints_dates_and_bytes_as_texts(tmp_path: Path) -> None:
    (tmp_path / "entry.mjs").write_text(body("p.ready(); p.send([new Date(0), Buffer.from('x')]); p.complete();"))
    command = [sys.executable, "-m", "spindle_trio", "run", "entry.mjs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert '["1970-01-01T00:00:00.000Z", "eA=="]\n' in done.stdout
