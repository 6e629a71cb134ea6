"""Pipes that are drained by hand."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from spindle_trio.launchers._local._output import LINE_BYTES, LineLog, OutputPipe, OutputTail


@pytest.fixture
def pipe() -> Iterator[tuple[OutputPipe, int]]:
    read, write = os.pipe()
    pipe = OutputPipe(read, "stderr", LineLog("p-1"))
    yield pipe, write
    pipe.close()
    try:
        os.close(write)
    except OSError:
        pass


def test_a_tail_keeps_the_last_bytes_and_counts_the_others() -> None:
    tail = OutputTail(10)
    for _ in range(3):
        tail.feed(b"0123456789ABC")
    assert tail.text() == "3456789ABC"
    assert tail.dropped == 29


async def test_a_pipe_is_drained_until_its_end(pipe: tuple[OutputPipe, int]) -> None:
    output, write = pipe
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.drain)
        await trio.testing.wait_all_tasks_blocked()
        os.write(write, b"one\n")
        await trio.testing.wait_all_tasks_blocked()
        assert output.tail.text() == "one\n"
        os.write(write, b"\xfftwo")
        os.close(write)
    assert output.tail.text() == "one\n\ufffdtwo"
    with trio.testing.assert_checkpoints():
        await output.drain()


async def test_draining_what_is_there_does_not_wait_for_the_end(pipe: tuple[OutputPipe, int]) -> None:
    output, write = pipe
    os.write(write, b"still open")
    output.drain_nowait()
    assert output.tail.text() == "still open"
    output.close()
    output.drain_nowait()
    assert output.tail.text() == "still open"


async def test_lines_are_cut_joined_and_logged_where_somebody_listens(
    pipe: tuple[OutputPipe, int], caplog: pytest.LogCaptureFixture
) -> None:
    output, write = pipe
    os.write(write, b"before anybody listened\n")
    output.drain_nowait()
    caplog.set_level(logging.INFO, "spindle_trio.process.stderr")
    for piece in (b"first li", b"ne\nsecond\xff line\n", b"x" * (LINE_BYTES + 1), b"\nun", b"finished"):
        os.write(write, piece)
        output.drain_nowait()
    output.close()
    assert [record.getMessage() for record in caplog.records] == [
        "p-1: first line",
        "p-1: second\\xff line",
        "p-1: " + "x" * (LINE_BYTES + 1),
        "p-1: ",
        "p-1: unfinished",
    ]
    assert {record.name for record in caplog.records} == {"spindle_trio.process.stderr"}


async def test_no_more_than_a_hundred_lines_a_second_are_logged_and_the_others_counted(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spindle_trio.process")
    logger = logging.getLogger("spindle_trio.process.stdout")
    log = LineLog("p-1")
    log.write(logger, [b"a"] * 60)
    log.write(logger, [b"b"] * 60)
    mock_clock.jump(0.9)
    log.write(logger, [b"c"] * 60)
    assert len(caplog.records) == 100
    mock_clock.jump(0.2)
    log.write(logger, [b"d"])
    assert [record.getMessage() for record in caplog.records[100:]] == [
        "p-1: (80 more lines were not logged)",
        "p-1: d",
    ]
