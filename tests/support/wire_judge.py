"""Holds what the host reads of a scenario against what should become of it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from spindle_trio._errors import PeerProtocolError
from spindle_trio._protocol._call_answers import CallReader
from spindle_trio._protocol._control_frames import parse_child_frame
from spindle_trio._protocol._frames import HEADER_BYTES, FrameDecoder
from spindle_trio._protocol._json_codec import BodyReader
from support.wire import (
    BOUNDS,
    LIMITS,
    Lane,
    Scenario,
    expected_bodies,
    expected_call_frame,
    expected_frame,
    expected_payload,
)

_EXPECTED: Mapping[Lane, Callable[[bytes], object]] = {
    "control": expected_frame,
    "messages": expected_payload,
    "calls": expected_call_frame,
}
_READ: Mapping[Lane, Callable[[bytes], object]] = {
    "control": partial(parse_child_frame, bounds=BOUNDS),
    "messages": BodyReader(BOUNDS).read,
    "calls": lambda body: CallReader(BOUNDS).read(body),
}
_REFUSED = object()
_LONGEST_REASON = 10_000
"""Characters of a reason, at most, with the path to the fault: not a megabyte because the frame has one."""


def judge(scenario: Scenario) -> Counter[str]:
    """Read a scenario as the host does, and make sure of what comes out of it.

    Returns:
        How many frames were taken in, how many refused, and how many were too long.

    Raises:
        AssertionError: the host reads something else, or fails in another way; names the seed and the bytes.
    """
    try:
        return _judge(scenario)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} in {scenario!r}") from error


def _judge(scenario: Scenario) -> Counter[str]:
    bodies, is_too_long = _cut(scenario)
    assert (bodies, is_too_long) == expected_bodies(scenario.stream, LIMITS.frame_bytes), "cut elsewhere"
    found = Counter({"too long": int(is_too_long)})
    for body in bodies:
        try:
            expected = _EXPECTED[scenario.lane](body)
        except ValueError:
            expected = _REFUSED
        got = _read(scenario, body)
        assert (got is _REFUSED) == (expected is _REFUSED), f"{got}, and should be {expected}: {body[:300]!r}"
        assert _written(got) == _written(expected), f"read as something else: {body[:300]!r}"
        found["refused" if got is _REFUSED else "taken in"] += 1
    return found


def read_as_host(scenario: Scenario) -> None:
    """Read a scenario as the host does, and let go of what comes out of it."""
    bodies, _ = _cut(scenario)
    for body in bodies:
        _read(scenario, body)


def _read(scenario: Scenario, body: bytes) -> object:
    try:
        return _READ[scenario.lane](body)
    except PeerProtocolError as error:
        _check_reason(error)
        return _REFUSED


def _cut(scenario: Scenario) -> tuple[list[bytes], bool]:
    """Cut the bytes of a scenario as a lane does, and say whether a frame that is too long follows."""
    decoder = FrameDecoder(LIMITS.frame_bytes)
    most = random.Random(scenario.seed).choice((1, 3, 1_000))
    bodies: list[bytes] = []
    for data in scenario.reads():
        decoder.feed(data)
        held = sum(map(len, decoder._pieces))
        assert held <= LIMITS.frame_bytes + HEADER_BYTES + len(data), f"{held} bytes are held"
        while True:
            try:
                taken = decoder.take(most)
            except PeerProtocolError as error:
                _check_reason(error)
                return bodies, True
            assert len(taken) <= most
            if not taken:
                break
            bodies += taken
    return bodies, False


def _check_reason(error: PeerProtocolError) -> None:
    reason = str(error)
    assert reason, "no reason"
    assert len(reason) <= _LONGEST_REASON, f"a reason of {len(reason)} characters"
    reason.encode()  # it travels in an event


def _written(value: object) -> str:
    """Write a value so that 1, 1.0 and true are told apart."""
    return json.dumps(value, default=repr)
