"""Bytes behind frames: what a sender writes is what a reader finds, and what a broken sender may write is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._model import Limits
from spindle_trio._protocol._binary import BinaryBody, encode_binary, gather_text
from spindle_trio._protocol._call_answers import Answer, CallReader
from spindle_trio._protocol._call_frames import ANSWER, CALL, encode_answer, read_call
from spindle_trio._protocol._frames import BYTES, encode_body
from spindle_trio._protocol._json_codec import BodyReader, write_body
from spindle_trio._protocol._payload import BinaryWalk, LentBytes, PayloadBounds, bounds_of, check_payload
from spindle_trio._supervision._intake import Intake

LIMITS = Limits(binary_bytes=2_000)
BOUNDS = bounds_of(LIMITS)
LONGEST = 60
"""Bytes of a body in most of these tests, so that there are many pieces."""


def random_value(chance: random.Random, depth: int = 0) -> object:
    """Make a payload, which may hold bytes anywhere, and names that look like tags."""
    kind = chance.randrange(8 if depth < 3 else 4)
    if kind < 2:
        return chance.randbytes(chance.choice((0, 0, 1, 5, 59, 60, 130)))
    if kind < 4:
        return chance.choice([None, 7, "text", '{"$raw":1}', 1.5, True])
    if kind < 6:
        return [random_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    names = chance.sample(["a", "$raw", "$$raw", "$date", "größe"], chance.randrange(4))
    return {name: random_value(chance, depth + 1) for name in names}


def written(value: object, kind: bytes = b"") -> list[bytes]:
    """Write a message, or an answer of call 1, as the bodies of its frames."""
    value = [1, value] if kind else value
    if not check_payload(value, BOUNDS, walk=BinaryWalk):
        return [kind + encode_body(value)]
    whole = encode_binary(value, 10_000, kind=kind, write=write_body)
    whole.piece = LONGEST - 1
    return list(whole.bodies())


def read_messages(bodies: Sequence[bytes], batch: int = 3) -> tuple[list[object], str | None]:
    """Read bodies as the host does, some at a time: the values before a fault, and the fault."""
    found: list[object] = []
    sizes: list[int] = []
    inbox = SimpleNamespace(put_many=lambda values, counts: (found.extend(values), sizes.extend(counts)))
    listener = SimpleNamespace(reads_on=False)
    intake = Intake(cast("Any", None), cast("Any", inbox), LIMITS, BOUNDS, BodyReader(BOUNDS), cast("Any", listener))
    try:
        for begin in range(0, len(bodies), batch):
            intake._take_messages(list(bodies[begin : begin + batch]))
    except PeerProtocolError as error:
        return found, str(error)
    finally:
        assert len(sizes) == len(found)
        assert sum(sizes) <= sum(map(len, bodies))
    return found, None


def read_answers(bodies: Sequence[bytes]) -> tuple[list[object], str | None]:
    """The same for answers."""
    reader = CallReader(BOUNDS)
    found: list[object] = []
    try:
        for body in bodies:
            frame = reader.read(body)
            if frame is not None:
                assert isinstance(frame, Answer)
                found.append(frame.value)
    except PeerProtocolError as error:
        return found, str(error)
    return found, None


def expected(bodies: Sequence[bytes], kind: bytes) -> tuple[list[object], bool]:
    """Read bodies by the words of `notes/protocol.md`: the values before a fault, and whether there is one."""
    found: list[object] = []
    rest = list(bodies)
    while rest:
        body = rest.pop(0)
        sizes: list[int] = []
        try:
            assert body.startswith(kind)
            text = body[len(kind) :]
            value = json.loads(text.removeprefix(b"$"))
            if text.startswith(b"$"):
                value = untagged(value, sizes)
            assert not kind or (type(value) is list and len(value) == 2 and type(value[0]) is int and value[0] > 0)
            assert sum(sizes) <= LIMITS.binary_bytes
            data = b""
            while len(data) < sum(sizes):
                if not rest:
                    return found, False
                piece = rest.pop(0)
                assert piece.startswith(BYTES)
                assert len(piece) > 1
                data += piece[1:]
            assert len(data) == sum(sizes)
        except (AssertionError, ValueError):
            return found, True
        cuts = iter([data[sum(sizes[:number]) : sum(sizes[: number + 1])] for number in range(len(sizes))])
        value = filled(value, cuts)
        found.append(value[1] if kind else value)  # type: ignore[index]  # a list, see above
    return found, False


class Hole:
    """The place of bytes."""


def untagged(value: object, sizes: list[int]) -> object:
    if isinstance(value, list):
        return [untagged(item, sizes) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, item),) = value.items()
        if name == "$raw":
            assert type(item) is int
            assert item >= 0
            sizes.append(item)
            return Hole()
        if name.startswith("$"):
            assert name.startswith("$$")
            return {name[1:]: untagged(item, sizes)}
    return {name: untagged(item, sizes) for name, item in value.items()}


def filled(value: object, cuts: Any) -> Any:
    if isinstance(value, list):
        return [filled(item, cuts) for item in value]
    if isinstance(value, dict):
        return {name: filled(item, cuts) for name, item in value.items()}
    return next(cuts) if isinstance(value, Hole) else value


def damaged(chance: random.Random, bodies: list[bytes]) -> list[bytes]:
    """Do to frames what a broken peer might."""
    bodies = list(bodies)
    for _ in range(chance.choice((0, 1, 1, 2))):
        at = chance.randrange(len(bodies))
        match chance.randrange(7):
            case 0:
                del bodies[at]
            case 1:
                bodies.insert(at, bodies[at])
            case 2:
                bodies.insert(at, chance.choice((BYTES, BYTES + b"x", b"", b"null", b'${"$raw":3}', b"\x02[1,2]")))
            case 3:
                bodies[at] += b"x"
            case 4:
                bodies[at] = bodies[at][: chance.randrange(len(bodies[at]) + 1)]
            case 5:
                new = chance.choice((b"-1", b"0", b"1.0", b'"1"', b"true", b"2001", b"1e2", b"99999999999999999999"))
                bodies[at] = bodies[at].replace(b'"$raw":1', b'"$raw":' + new, 1)
            case _:
                other = chance.randrange(len(bodies))
                bodies[at], bodies[other] = bodies[other], bodies[at]
        if not bodies:
            return [b"null"]
    return bodies


@pytest.mark.parametrize("seed", range(300))
def test_frames_with_bytes_are_read_as_on_the_page_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    kind, read = chance.choice([(b"", read_messages), (ANSWER, read_answers)])
    values = [random_value(chance) for _ in range(chance.randrange(1, 5))]
    bodies = [body for value in values for body in written(value, kind)]
    assert cast("Callable[..., object]", read)(bodies) == (values, None)
    bodies = damaged(chance, bodies)
    found, fault = cast("Callable[..., tuple[list[object], str | None]]", read)(bodies)
    assert (found, fault is not None) == expected(bodies, kind), (bodies, fault)


@pytest.mark.parametrize("seed", range(40))
def test_a_child_reads_what_the_host_writes(seed: int) -> None:
    value = random_value(random.Random(seed))
    head, *pieces = written(value)
    if head.startswith(b"$"):
        gathering = gather_text(head[1:])
        for piece in pieces:
            gathering.add(piece)
        assert gathering.value == value
        assert not gathering.left
    tagged = encode_binary([3, "m", None, [b"x", value]], 10_000, kind=CALL)
    head, *pieces = tagged.bodies()
    call = read_call(head)
    assert [call.add(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (call.call_id, call.method, call.payload) == (3, "m", [b"x", value])


def test_the_body_is_bounded_and_pieces_fit_into_frames() -> None:
    value = ["x" * 50, bytes(1_000)]
    whole = encode_binary(value, 90)
    assert isinstance(whole, BinaryBody)
    assert max(map(len, whole.bodies())) == 90
    with pytest.raises(PayloadError, match="more than 38 in one frame"):
        encode_binary(value, 39)


def test_bytes_are_lent_and_other_values_refused() -> None:
    check_payload([LentBytes(memoryview(b"abc")), b"", bytearray(2)], BOUNDS, walk=BinaryWalk)
    with pytest.raises(PayloadError):
        check_payload([object()], BOUNDS, walk=BinaryWalk)


def test_walks_over_plain_values_find_no_bytes() -> None:
    assert not check_payload({"a": [1, "x"]}, BOUNDS, walk=BinaryWalk)
    assert check_payload({"a": [1, b""]}, BOUNDS, walk=BinaryWalk)
    narrow = PayloadBounds(2, 3, text_bytes=5, binary_bytes=10)
    assert check_payload({"abc": b"0123456789"}, narrow, walk=BinaryWalk)
    assert encode_answer(1, 2, 100) == b"\x02[1,2]"
