"""The lines of `spindle-trio up`, without services."""

from __future__ import annotations

import logging
import os
import re

import pytest
import trio

from spindle_trio.cli._output import Output
from spindle_trio.cli._service_lines import ServiceLines, Sign, what_processes_print

TIME = re.compile(r"\d\d:\d\d:\d\d\.\d\d\d")


class Pipe:
    """An output into a pipe that is read when the test asks for it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.output = Output(self.writing)

    async def lines(self) -> list[str]:
        """Read all that was written so far, with `TIME` for each time."""
        data = bytearray()

        async def read() -> None:
            while True:
                await trio.lowlevel.wait_readable(self.reading)
                data.extend(os.read(self.reading, 1 << 16))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.output.run)
            nursery.start_soon(read)
            await self.output.flush()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return TIME.sub("TIME", data.decode()).splitlines()


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    os.close(pipe.reading)
    os.close(pipe.writing)


def log(stream: str, kind: str, line: str) -> None:
    extra = {"process_id": "1a2b", "kind": kind, "stream": stream}
    logging.getLogger(f"spindle_trio.process.{stream}").info("%s: %s", "1a2b", line, extra=extra)


async def test_each_line_has_its_time_and_its_service_below_one_another(pipe: Pipe) -> None:
    lines = ServiceLines(pipe.output, ["db", "frontend"], is_coloured=False)
    lines.put("db", Sign.EVENT, "running")
    lines.put("frontend", Sign.STDOUT, "one\ntwo")
    lines.put("db", Sign.STDERR, "")
    assert await pipe.lines() == [
        "TIME db       * running",
        "TIME frontend | one",
        "TIME frontend | two",
        "TIME db       ! ",
    ]


async def test_each_service_has_a_colour_of_its_own_on_its_prefix_alone(pipe: Pipe) -> None:
    names = [f"s{number}" for number in range(10)]
    lines = ServiceLines(pipe.output, names, is_coloured=True)
    for name in names:
        lines.put(name, Sign.MESSAGE, "text")
    printed = await pipe.lines()
    assert printed[0] == "\x1b[36mTIME s0 >\x1b[0m text"
    assert len({line.partition("m")[0] for line in printed}) == 10


async def test_what_a_service_prints_cannot_rewrite_the_terminal(pipe: Pipe) -> None:
    lines = ServiceLines(pipe.output, ["db"], is_coloured=False)
    lines.put("db", Sign.STDOUT, "\x1b[2J\x9b\rgone\x85\u2028\ttab")
    assert await pipe.lines() == ["TIME db | \\x1b[2J\\x9b\\rgone\\x85\\u2028\ttab"]


async def test_lines_of_processes_come_from_the_log_without_their_ids(pipe: Pipe) -> None:
    lines = ServiceLines(pipe.output, ["db"], is_coloured=False)
    with what_processes_print(lines):
        log("stdout", "db", "1a2b: hello\r")
        log("stderr", "db", "oh")
    log("stdout", "db", "nobody listens")
    assert await pipe.lines() == ["TIME db | 1a2b: hello", "TIME db ! oh"]


async def test_lines_that_nobody_reads_are_counted_instead_of_kept(pipe: Pipe) -> None:
    lines = ServiceLines(pipe.output, ["db", "api"], is_coloured=False)
    for _ in range(2000):
        lines.put_if_read("db", Sign.STDOUT, "x" * 1000)
    kept = len(await pipe.lines())
    assert kept < 1100
    lines.put_if_read("api", Sign.STDOUT, "fine")
    lines.put_if_read("db", Sign.STDOUT, "again")
    assert await pipe.lines() == [
        "TIME api | fine",
        f"TIME db  * ({2000 - kept} of its lines were not shown: nobody read)",
        "TIME db  | again",
    ]
