"""Pipes that are drained by hand."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
import trio.testing

from spindle_trio.launchers._local._output import LINE_BYTES, LineLog, OutputPipe, OutputTail
from spindle_trio.launchers._local._output_drains import PIPES_AT_A_TIME, OutputDrains


class _RefusingEpoll:
    """An epoll instance of a kernel without memory for another descriptor."""

    def register(self, fd: int, events: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        return []

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


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


@pytest.fixture
async def drains() -> AsyncIterator[OutputDrains]:
    drains = OutputDrains()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drains.run)
        yield drains
        nursery.cancel_scope.cancel()
    drains.close()


async def test_a_pipe_is_drained_until_its_end(pipe: tuple[OutputPipe, int], drains: OutputDrains) -> None:
    output, write = pipe
    drains.add(output)
    await trio.testing.wait_all_tasks_blocked()
    os.write(write, b"one\n")
    await trio.testing.wait_all_tasks_blocked()
    assert output.tail.text() == "one\n"
    os.write(write, b"\xfftwo")
    os.close(write)
    await trio.testing.wait_all_tasks_blocked()
    assert output.tail.text() == "one\n\ufffdtwo"
    assert output.at_end


async def test_more_pipes_than_are_read_at_a_time_are_all_drained(drains: OutputDrains) -> None:
    pipes = [os.pipe() for _ in range(3 * PIPES_AT_A_TIME)]
    outputs = [OutputPipe(read, "stdout", LineLog("p-1")) for read, _ in pipes]
    for output, (_, write) in zip(outputs, pipes, strict=True):
        drains.add(output)
        os.write(write, b"x")
        os.close(write)
    while not all(output.at_end for output in outputs):
        await trio.lowlevel.checkpoint()
    assert [output.tail.text() for output in outputs] == ["x"] * len(pipes)
    for output in outputs:
        output.close()


async def test_a_flood_leaves_other_tasks_and_pipes_their_turns(drains: OutputDrains) -> None:
    flooding, flood = os.pipe()
    quiet, say = os.pipe()
    os.set_blocking(flood, False)
    outputs = [OutputPipe(fd, "stdout", LineLog("p-1")) for fd in (flooding, quiet)]
    for output in outputs:
        drains.add(output)
    for turn in range(200):
        try:
            os.write(flood, bytes(65536))
        except BlockingIOError:
            pass
        if turn == 100:
            os.write(say, b"heard")
        await trio.lowlevel.checkpoint()
    assert outputs[0].tail.dropped > 0
    assert outputs[1].tail.text() == "heard"
    for output, fd in zip(outputs, (flood, say), strict=True):
        output.close()
        os.close(fd)


async def test_ctrl_c_hits_no_drain(pipe: tuple[OutputPipe, int], drains: OutputDrains, monkeypatch) -> None:
    """It would end the output of all processes, and with it the launcher."""
    output, write = pipe
    seen: list[bool] = []
    monkeypatch.setattr(output, "read_once", lambda: seen.append(trio.lowlevel.currently_ki_protected()))
    drains.add(output)
    os.write(write, b"x")
    while not seen:
        await trio.lowlevel.checkpoint()
    output.close()
    assert all(seen)


async def test_a_pipe_that_is_closed_is_left_alone_even_if_a_copy_lives_on(drains: OutputDrains) -> None:
    read, write = os.pipe()
    copy = os.dup(read)
    output = OutputPipe(read, "stdout", LineLog("p-1"))
    drains.add(output)
    await trio.testing.wait_all_tasks_blocked()
    output.close()
    os.write(write, b"nobody reads this")
    await trio.testing.wait_all_tasks_blocked()
    assert os.read(copy, 64) == b"nobody reads this"
    os.close(copy)
    os.close(write)


async def test_a_pipe_is_drained_although_the_system_refuses_to_watch_it(
    pipe: tuple[OutputPipe, int], drains: OutputDrains, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, write = pipe
    monkeypatch.setattr(drains, "_epoll", _RefusingEpoll())
    drains.add(output)
    os.write(write, b"one\n")
    with trio.fail_after(5):
        while output.tail.text() != "one\n":
            await trio.lowlevel.checkpoint()
    output.close()


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


async def test_a_limit_on_the_lines_that_are_logged_may_be_another_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spindle_trio.process")
    log = LineLog("p-1", lines_per_second=150)
    log.write(logging.getLogger("spindle_trio.process.stdout"), [b"a"] * 200)
    assert len(caplog.records) == 150


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
