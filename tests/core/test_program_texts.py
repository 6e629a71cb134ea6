"""What a shim reads and says, without a program."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio.program._ending import Ending, judge
from spindle_trio.program._notify import BrokenNotificationError, read_notification
from spindle_trio.program._output import LineCutter


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_lines_are_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    cutter = LineCutter(1_000)
    lines = []
    begin = 0
    for end in [*sorted(cuts), len(data)]:
        lines += cutter.feed(data[begin:end])
        begin = max(begin, end)
    *expected, rest = data.split(b"\n")
    assert lines == [line.removesuffix(b"\r") for line in expected]
    assert cutter.take_rest() == rest


def test_a_line_that_has_begun_is_too_long_above_the_bound_only() -> None:
    cutter = LineCutter(10)
    assert cutter.feed(b"x" * 100 + b"\n" + b"y" * 10) == [b"x" * 100]
    assert not cutter.is_too_long
    assert cutter.feed(b"y") == []
    assert cutter.is_too_long


@given(st.binary(max_size=300))
def test_a_notification_is_read_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        fields, numbers = read_notification(data)
    except BrokenNotificationError:
        return
    assert fields
    assert all(0 <= number < 2**64 for number in numbers.values())


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"READY=1", {"READY": "1"}),
        (b"READY=1\0", {"READY": "1"}),
        (b"A=1\nA=2\n\nnonsense\nB==x", {"A": "2", "B": "=x"}),
        ("STATUS=läuft".encode(), {"STATUS": "läuft"}),
    ],
)
def test_the_last_value_of_each_field_counts(data: bytes, fields: dict[str, str]) -> None:
    assert read_notification(data).fields == fields


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("status", "is_ready", "stopped_by", "expected"),
    [
        (exited(0), True, None, Ending("completed")),
        (exited(0), True, signal.SIGTERM, Ending("completed")),
        (exited(0), False, signal.SIGTERM, Ending("stopped")),
        (exited(3), True, None, Ending("failed", "exited with code 3", 3)),
        (exited(3), True, signal.SIGTERM, Ending("failed", "exited with code 3", 3)),
        (exited(143), True, None, Ending("failed", "exited with code 143", 143)),
        (exited(143), True, signal.SIGTERM, Ending("stopped")),
        (exited(130), True, signal.SIGTERM, Ending("failed", "exited with code 130", 130)),
        (signal.SIGTERM, True, None, Ending("failed", "killed by SIGTERM", 143)),
        (signal.SIGTERM, True, signal.SIGTERM, Ending("stopped")),
        (signal.SIGTERM, False, signal.SIGTERM, Ending("stopped")),
        (signal.SIGSEGV, True, signal.SIGTERM, Ending("failed", "killed by SIGSEGV", 139)),
        (signal.SIGSEGV | 0x80, True, None, Ending("failed", "killed by SIGSEGV", 139)),
    ],
)
def test_an_end_is_judged_by_how_the_program_ended_and_whether_it_was_told_to(
    status: int, is_ready: bool, stopped_by: int | None, expected: Ending
) -> None:
    assert os.WIFEXITED(status) or os.WIFSIGNALED(status)
    assert judge(status, is_ready=is_ready, stopped_by=stopped_by, error_number=None) == expected


def test_an_error_number_is_named_with_a_failure() -> None:
    ending = judge(exited(1), is_ready=True, stopped_by=None, error_number=98)
    assert ending.error == "exited with code 1 (ERRNO=98: EADDRINUSE, Address already in use)"
    ending = judge(exited(1), is_ready=True, stopped_by=None, error_number=77_777)
    assert ending.error == "exited with code 1 (ERRNO=77777: Unknown error 77777)"
