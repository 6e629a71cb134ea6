"""Shared by the tests of the wire: real traffic of both lanes, seeded damage to it, and the expected outcome.

One *scenario* is what one process writes to one lane, made of real frames and a seed. Three things are known of it
without any code of the library that reads frames: into which bodies its bytes are to be cut, which of these are to be
refused, and what the others say. `expected_bodies`, `expected_payload` and `expected_frame` say it, slowly and plainly.
"""

from __future__ import annotations

import functools
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import attrs
import trio

from spindle_trio import Limits
from spindle_trio._errors import PayloadError
from spindle_trio._protocol._call_answers import Answer, CallFrame, Failure, Item, StreamEnd
from spindle_trio._protocol._call_frames import encode_answer, encode_end, encode_failure, encode_item
from spindle_trio._protocol._control_frames import (
    Complete,
    Exiting,
    Fail,
    Heartbeat,
    Ready,
    Stopped,
    TakesCalls,
    encode_init,
    encode_stop,
)
from spindle_trio._protocol._frames import HEADER_BYTES, encode_body
from spindle_trio._protocol._payload import PayloadBounds, bounds_of, check_payload
from spindle_trio.abc import FrameLane, LaunchOrder
from spindle_trio.testing import MemoryLauncher

Lane: TypeAlias = Literal["control", "messages", "calls"]

LIMITS: Final = Limits(frame_bytes=1024 * 1024)
"""Narrower than the default, so that a scenario can be over the bound in a mebibyte."""

BOUNDS: Final = bounds_of(LIMITS)
_AROUND_AN_ANSWER: Final = PayloadBounds(BOUNDS.depth + 1, BOUNDS.values + 2)
_AROUND_A_RESULT: Final = PayloadBounds(BOUNDS.depth + 1, BOUNDS.values + 64)

SHAPES: Final[list[object]] = [
    None,
    True,
    0,
    -(2**63),
    2**64 - 1,
    1.5e-7,
    "",
    "plain text",
    'ünïcödé, 漢字, 🧵 and "quotes" \\ backslashes\n',
    [],
    {},
    [1, 2, 3],
    {"done": 12, "words": 340},
    {"a": {"b": [{"c": None}, [[]], "d"]}},
    [[[[[[[[[[[[7]]]]]]]]]]]],
    {f"key {number}": [number, str(number), number / 7] for number in range(30)},
    list(range(200)),
    "x" * 2_000,
]


@attrs.frozen
class Traffic:
    """The bodies of the frames that real children have sent."""

    control: Sequence[bytes]
    messages: Sequence[bytes]
    calls: Sequence[bytes]


@functools.cache
def traffic() -> Traffic:
    """Run three entries to their ends, and return all that they have sent. Not to be called within a Trio run."""
    return trio.run(_record)


async def _record() -> Traffic:
    async def completes(process: Any) -> object:
        for shape in SHAPES:
            await process.send(shape)
        process.ready()
        return {"results": SHAPES}

    async def fails(process: Any) -> None:
        process.ready()
        raise ValueError("no such document: ünïcödé")

    async def waits(process: Any) -> None:
        process.ready()
        await trio.sleep_forever()

    root = Path("/somewhere")
    launcher = MemoryLauncher({"completes": completes, "fails": fails, "waits": waits})
    # Said by children that have no shared page, and by real ones as their last words.
    control = [b'{"type":"heartbeat"}', b'{"type":"exiting","messages":3,"code":0}']
    control += [b'{"type":"ready","protocol":2,"calls":true}', b'{"type":"calls"}']
    control += [b'{"type":"ready","protocol":2,"calls":true,"concurrency":16}', b'{"type":"calls","concurrency":4}']
    messages: list[bytes] = []
    for name in ("completes", "fails", "waits"):
        order = LaunchOrder(name, launcher.resolve(name, root), root, {}, LIMITS)
        async with launcher.launch(order) as process, trio.open_nursery() as nursery:
            init = encode_init(
                process_id=name,
                entry=name,
                kind=name,
                key=None,
                user_id="ada",
                payload=SHAPES,
                metadata=None,
                heartbeat_timeout=math.inf,
                limits=LIMITS,
            )
            assert process.control.send_nowait(init)
            if name == "waits":
                assert process.control.send_nowait(encode_stop("enough"))
            nursery.start_soon(_read_all, process.control, control)
            nursery.start_soon(_read_all, process.messages, messages)
    # Tracebacks name files; where those lie must not change what a seed stands for.
    control = [body.replace(f"{Path(__file__).parent}/".encode(), b"") for body in control]
    kinds = {json.loads(body)["type"] for body in control}
    assert kinds == {"ready", "calls", "heartbeat", "complete", "fail", "stopped", "exiting"}, kinds
    assert messages == list(map(encode_body, SHAPES))
    return Traffic(control, messages, _call_frames())


CALLS: Final[Mapping[int, int | None]] = {1: None, 2: None, 3: 3, 4: 1}
"""What a process has been asked before it writes a scenario of the calls lane: ids, and the windows of streams."""


def _call_frames() -> list[bytes]:
    """Write what a process says about these calls, as the runtime does."""
    frames = []
    for number, window in CALLS.items():
        values: list[object] = [number, *SHAPES]
        if window is None:
            frames += [encode_answer(number, value, LIMITS.frame_bytes) for value in values]
        else:
            frames += [encode_item(number, value, LIMITS.frame_bytes) for value in values]
            frames += [encode_end(number)] * 12
        for about in (
            {"error": "ValueError", "text": "no such document: ünïcödé", "traceback": "Traceback: …"},
            {"error": "PayloadError", "text": "answer: not JSON-safe"},
            {"known": ["index", "square"]},
            {"cancelled": True},
        ):
            frames += [encode_failure(number, dict(about))] * 2
    return frames


async def _read_all(lane: FrameLane, bodies: list[bytes]) -> None:
    try:
        while True:
            bodies += await lane.receive(100)
    except trio.EndOfChannel:
        pass


# ---- damage

_SMALL: Final = [
    *(b"NaN", b"-Infinity", b"1e999", b"-1e999", b"1e-999", b"-0", b"-0.0", b"01", b"1.", b".5", b"+1", b"0x10"),
    *(b"18446744073709551615", b"18446744073709551616", b"-9223372036854775808", b"-9223372036854775809"),
    *(b"9" * 19, b"9" * 20, b"9" * 400, b"9" * 5_000, b"-" + b"9" * 30, b"1" * 300 + b".5", b"1e308", b"1e309"),
    *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83e\\uddf5"', b'"\xed\xa0\x80"', b'"\\u0000"', b'"\x00"', b'"\n"'),
    *(b'"\\', b'"open', b"'single'", b'"\\x"', b'"\\u12"', b"\xff\xfe", b"\xef\xbb\xbf1", b"\xc0\x80", b"\x00"),
    *(b"", b" ", b"null", b"true", b"tru", b"[]", b"{}", b"[1,]", b"{,}", b"[", b"]", b"{", b"}", b",", b":", b"-1"),
    *(
        b'{"a":1,"a":2}',
        b"{1:2}",
        b'{"a"}',
        b'{"a":}',
        b"1 2",
        b"[1 2]",
        b"// 1",
        b"1.5",
        b"1e5",
        b'"ready"',
        b'"fail"',
    ),
    *(b'{"type":"ready","type":"complete"}', b'{"type":["ready"]}', b'{"type":null}', b'{"messages":3}', b'["ready"]'),
    *(b'{"type":"complete"}', b'{"type":"complete","messages":true}', b'{"type":"stopped","messages":-1}'),
    *(b'{"type":"fail","messages":0,"error":null}', b'{"type":"exiting","messages":0,"code":1.0}', b'{"type":"stop"}'),
    *(b'{"type":"stopped","messages":1e2}', b'{"type":"fail","messages":0,"error":"  "}', b'{"type":"init"}'),
]
"""Wrong or odd, and as short as it gets: stands for a value, or for a whole body."""

_LARGE: Final[list[Callable[[], bytes]]] = [
    lambda: b"9" * 100_000,
    lambda: b"[" * 100_000,
    lambda: b'{"a":' * 100_000,
    lambda: b"[" * 100_000 + b"]" * 100_000,
    lambda: b"[" * 64 + b"]" * 64,
    lambda: b"[" * 65 + b"]" * 65,
    lambda: b"[" * 65 + b"1" + b"]" * 65,
    lambda: b'{"a":' * 65 + b"1" + b"}" * 65,
    lambda: b"[" + b"[]," * 60_000 + b"[]]",
    lambda: b"[" + b"0," * 99_998 + b"0]",
    lambda: b"[" + b"0," * 120_000 + b"0]",
    lambda: b'["' + b"[," * 60_000 + b'"]',
    lambda: b"[" + b'"",' * 340_000 + b'""]',
    lambda: b"[" + b'",",' * 250_000 + b'","]',
    lambda: b"{" + b",".join(b'"%d":[]' % number for number in range(75_000)) + b"}",
    lambda: b'"' + b"\\" * 99_999 + b'"',
    lambda: b'"' + b"\\\\" * 50_000 + b'"',
    lambda: b"\xf0\x9f\xa7\xb5" * 5_000,
    lambda: b'"' + b"\xf0\x9f\xa7\xb5" * 25_000 + b'"',
    lambda: b"[" + b'"\\ud800",' * 1_000 + b"1]",
    lambda: b"x" * (LIMITS.frame_bytes + 1),
    lambda: b" " * LIMITS.frame_bytes,
]
"""Bodies meant to cost the reader much more than their sender. Rare among scenarios, since they do cost something."""

_LENGTHS: Final = [0, 1, 2**16, LIMITS.frame_bytes, LIMITS.frame_bytes + 1, 2**31, 2**32 - 1]

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][-+.0-9eE]*|true|false|null|\[\]|\{\}')


class Damage:
    """Does to real bodies what a hostile or broken peer may do to them."""

    def __init__(self, random_: random.Random, real: Sequence[bytes], other: Sequence[bytes] = ()) -> None:
        """Begin.

        Args:
            random_: decides.
            real: bodies as they are sent.
            other: bodies that are sent elsewhere, to mix in.
        """
        self._random = random_
        self._real = real
        self._other = other or real

    def bodies(self, most: int) -> list[bytes]:
        """Choose some bodies, most of them damaged, in any order, some of them twice."""
        bodies = [self.body() for _ in range(self._random.randrange(1, most))]
        if self._random.random() < 0.2:
            bodies.append(self._random.choice(bodies))
        return bodies

    def body(self) -> bytes:
        """Choose one body: as it is, damaged, or one that nobody in their right mind would send."""
        choose = self._random.random()
        body = self._random.choice(self._real)
        if choose < 0.35:
            return body
        if choose < 0.36:
            return self._random.choice(_LARGE)()
        if choose < 0.45:
            return self._random.choice(_SMALL)
        damages = (self._flip, self._cut_off, self._insert, self._leave_out, self._splice, self._retype, self._wrap)
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            body = self._random.choice(damages)(body)
        return body

    def _place(self, body: bytes) -> int:
        return self._random.randrange(len(body) + 1)

    def _flip(self, body: bytes) -> bytes:
        flipped = bytearray(body or b" ")
        for _ in range(self._random.randrange(1, 4)):
            flipped[self._random.randrange(len(flipped))] ^= 1 << self._random.randrange(8)
        return bytes(flipped)

    def _cut_off(self, body: bytes) -> bytes:
        return body[: self._place(body)]

    def _insert(self, body: bytes) -> bytes:
        at = self._place(body)
        what = self._random.choice(_SMALL) if self._random.random() < 0.7 else self._random.randbytes(3)
        return body[:at] + what + body[at:]

    def _leave_out(self, body: bytes) -> bytes:
        first, end = sorted((self._place(body), self._place(body)))
        return body[:first] + body[end:]

    def _splice(self, body: bytes) -> bytes:
        other = self._random.choice(self._real if self._random.random() < 0.6 else self._other)
        return body[: self._place(body)] + other[self._place(other) :]

    def _retype(self, body: bytes) -> bytes:
        """Put something else in the place of one value: mostly still JSON, and so looked at further."""
        tokens = list(_TOKEN.finditer(body[:20_000]))
        if not tokens:
            return self._random.choice(_SMALL)
        token = self._random.choice(tokens)
        replacement = self._random.choice(_SMALL) if self._random.random() < 0.6 else self._random.choice(tokens)[0]
        return body[: token.start()] + replacement + body[token.end() :]

    def _wrap(self, body: bytes) -> bytes:
        depth = self._random.choice((1, 2, 50, 63, 64, 65, 1_100))
        if self._random.random() < 0.5:
            return b"[" * depth + body + b"]" * depth
        return b'{"type":' * depth + body + b"}" * depth


class CallDamage(Damage):
    """The same to frames of the calls lane: the kind may be another, or the JSON behind it may be damaged."""

    def body(self) -> bytes:
        """Choose one body."""
        real = self._random.choice(self._real)
        choose = self._random.random()
        if choose < 0.45:
            return real
        if choose < 0.55:
            return self._random.choice(_KINDS) + real[1:]
        if choose < 0.65:
            return super().body()
        inner = Damage(self._random, [real[1:]], [body[1:] for body in self._other])
        return real[:1] + inner.body()


_KINDS: Final = [bytes([kind]) for kind in (0, 1, 2, 3, 4, 5, 6, 7, 36, 255)] + [b""]
"""What may stand before the JSON of a frame on the calls lane."""


class Scenario:
    """The bytes that one process writes to one lane, by a seed."""

    def __init__(self, seed: int, lane: Lane, recorded: Traffic) -> None:
        self.seed = seed
        self.lane = lane
        self._random = random.Random(f"{lane} {seed}")
        damage = {
            "control": lambda: Damage(self._random, recorded.control, recorded.messages),
            "messages": lambda: Damage(self._random, recorded.messages, recorded.control),
            "calls": lambda: CallDamage(self._random, recorded.calls, recorded.control),
        }[lane]()
        self.bodies: list[bytes] = damage.bodies(8)
        self.stream: bytes = self._stream()

    def __repr__(self) -> str:
        shown = self.stream if len(self.stream) <= 3_000 else self.stream[:1_500] + b" ... " + self.stream[-1_500:]
        return f"<scenario of the {self.lane} lane, seed {self.seed}, {len(self.stream)} bytes: {shown!r}>"

    def reads(self) -> list[bytes]:
        """Cut the stream as it might arrive: byte by byte, at once, or at any places."""
        stream, random_ = self.stream, self._random
        if len(stream) <= 100 and random_.random() < 0.2:
            return [stream[at : at + 1] for at in range(len(stream))]
        cuts = sorted(random_.randrange(len(stream) + 1) for _ in range(random_.randrange(6)))
        parts = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        return [part for part in parts if part]

    def _stream(self) -> bytes:
        """Put the frames behind one another; in some scenarios a header lies, or the end is missing."""
        lies = self._random.random() < 0.15
        liar = self._random.randrange(len(self.bodies)) if lies else None
        parts: list[bytes] = []
        for number, body in enumerate(self.bodies):
            length = len(body)
            if number == liar:
                length = self._random.choice((*_LENGTHS, length + 1, max(0, length - 1), length * 256 % 2**32))
            parts += (length.to_bytes(HEADER_BYTES, "big"), body)
        stream = b"".join(parts)
        if self._random.random() < 0.1:
            stream = stream[: self._random.randrange(len(stream) + 1)]
        return stream


# ---- what should become of it


def expected_bodies(stream: bytes, max_bytes: int) -> tuple[list[bytes], bool]:
    """Cut a stream into bodies, and say whether what follows them is a frame that is too long."""
    bodies = []
    while len(stream) >= HEADER_BYTES:
        size = int.from_bytes(stream[:HEADER_BYTES], "big")
        if size > max_bytes:
            return bodies, True
        if len(stream) < HEADER_BYTES + size:
            break
        bodies.append(stream[HEADER_BYTES : HEADER_BYTES + size])
        stream = stream[HEADER_BYTES + size :]
    return bodies, False


def expected_payload(body: bytes, bounds: PayloadBounds = BOUNDS) -> object:
    """Read a body with the standard library.

    Raises:
        ValueError: it is to be refused.
    """
    tagged = body.removeprefix(b"$")
    try:
        value = json.loads(tagged.decode(), parse_constant=_refuse, object_pairs_hook=_last_of_each_name)
        check_payload(value, bounds)
    except RecursionError:
        raise ValueError("too deep") from None
    if tagged != body and _TAG.search(tagged):
        raise ValueError("a tag, which no frame recorded has, and no mutation makes whole")
    return value


_TAG: Final = re.compile(rb'{\s*"\$')


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _last_of_each_name(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of a name that comes twice the last value counts, and yet no value before it may be one that nobody can read."""
    values = dict(pairs)
    if len(values) < len(pairs):
        for name, value in pairs:
            if value is not values[name]:
                _check_readable(value)
    return values


def _check_readable(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is no finite one")
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, list):
        for item in value:
            _check_readable(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_readable(name)
            _check_readable(item)


def _expected_concurrency(frame: dict[str, object]) -> int | None:
    concurrency = frame.get("concurrency")
    if concurrency is None or (type(concurrency) is int and concurrency >= 1):
        return concurrency  # type: ignore[return-value]
    raise PayloadError("no concurrency")


def expected_frame(body: bytes) -> object:
    """Read a control frame of a child as `notes/protocol.md` has it.

    Raises:
        ValueError: it is to be refused.
    """
    frame = expected_payload(body, _AROUND_A_RESULT)
    if not isinstance(frame, dict):
        raise PayloadError("no object")
    match frame:
        case {"type": "ready"}:
            protocol, calls = frame.get("protocol", 1), frame.get("calls", False)
            takes_bytes = frame.get("bytes", protocol == 2)
            flags = (calls, takes_bytes)
            if type(protocol) is int and 1 <= protocol <= 2 and all(type(flag) is bool for flag in flags):
                if protocol == 1 and any(flags):
                    raise PayloadError("no ready")
                return Ready(protocol, calls, _expected_concurrency(frame) if calls else None, takes_bytes)
            raise PayloadError("no ready")
        case {"type": "heartbeat"}:
            return Heartbeat()
        case {"type": "calls"}:
            return TakesCalls(_expected_concurrency(frame))
    messages = frame.get("messages")
    if type(messages) is int and messages >= 0:
        match frame:
            case {"type": "complete"}:
                check_payload(frame.get("result"), BOUNDS)
                return Complete(frame.get("result"), messages)
            case {"type": "fail", "error": str(error)} if isinstance(frame.get("traceback", ""), str | None):
                traceback = frame.get("traceback")
                return Fail(error.strip() or "the process failed and gave no reason", messages, traceback)
            case {"type": "stopped"}:
                return Stopped(messages)
            case {"type": "exiting", "code": int(code)} if type(code) is int and 0 <= code <= 255:
                return Exiting(messages, code)
    raise PayloadError("no frame of a child")


def expected_call_frame(body: bytes) -> CallFrame:
    """Read a frame of the calls lane as `notes/protocol.md` has it.

    Raises:
        ValueError: it is to be refused.
    """
    kind, value = body[:1], expected_payload(body[1:], _AROUND_AN_ANSWER)
    if not isinstance(value, list) or not value or type(value[0]) is not int or value[0] < 1:
        raise PayloadError("no array that begins with an id")
    match kind, value:
        case b"\2", [_, answer]:
            return Answer(value[0], answer)
        case b"\3", [_, item]:
            return Item(value[0], item)
        case b"\4", [_]:
            return StreamEnd(value[0])
        case b"\6", [_, {**about}]:
            if about.get("cancelled") is True:
                return Failure(value[0], is_cancelled=True)
            known = about.get("known")
            if isinstance(known, list) and all(isinstance(name, str) for name in known):
                return Failure(value[0], known=tuple(known))
            match about:
                case {"error": str(error), "text": str(text)} if known is None:
                    if isinstance(traceback := about.get("traceback"), str | None):
                        return Failure(value[0], error, text, traceback)
    raise PayloadError("no frame of the calls lane")
