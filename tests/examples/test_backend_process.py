"""The example of a backend in a process of its own: host, backend, and entries in two languages."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from support.javascript import needs_node

HOST = Path(__file__).parents[2] / "notes" / "examples" / "backend_process" / "host.py"
GUARD_SECONDS = 60
PATIENT = "600"
"""Seconds: no watchdog ends anything while one of these tests looks."""
HANGS = "{'looking_for': '(a+)+$'}\n"
"""The last that is heard of the matcher, with the end of the line, since lines may be written in pieces."""

pytestmark = [needs_node, pytest.mark.usefixtures("no_survivors")]


class Running:
    """The example while it runs."""

    def __init__(self, host: trio.Process) -> None:
        self.host = host
        self.said = ""

    async def read_until(self, text: str) -> None:
        """Read the output until a text appears."""
        assert self.host.stdout is not None
        while text not in self.said:
            data = await self.host.stdout.receive_some()
            assert data, f"{text!r} never came, but {self.said!r}"
            self.said += data.decode()

    async def read_to_the_end(self) -> str:
        """Read the rest, until neither host nor backend prints any more."""
        assert self.host.stdout is not None
        async for data in self.host.stdout:
            self.said += data.decode()
        return self.said

    @property
    def backend_pid(self) -> int:
        """The number of the backend, once the host has said it."""
        match = re.search(r"^host: the backend is process (\d+)$", self.said, re.MULTILINE)
        assert match is not None, self.said
        return int(match[1])


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[Running]:
    """Run the example, and have it ended at the end of the block if it has not ended by itself."""
    with trio.fail_after(GUARD_SECONDS):
        command = [sys.executable, str(HOST), *arguments]
        host = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            yield Running(host)
        finally:
            with trio.CancelScope(shield=True):
                host.kill()
                await host.wait()
                assert host.stdout is not None
                await host.stdout.aclose()


@pytest.mark.slow
async def test_a_backend_has_entries_in_two_languages_run_and_sees_one_of_them_end_by_the_watchdog() -> None:
    async with running("2") as example:  # seconds, of which beats take a half
        said = await example.read_to_the_end()
        assert await example.host.wait() == 0, said
    lines = said.splitlines()
    assert [line for line in lines if "counter.py" in line] == [
        "backend: counter.py: - -> starting",
        "backend: counter.py: starting -> running",
        "backend: counter.py: 'the cat and the dog' has {'words': 5}",
        "backend: counter.py: 'a dog and a bone' has {'words': 5}",
        "backend: counter.py: 'aaaaaaaaaaaaaaaaaaaa' has {'words': 1}",
        "backend: counter.py: running -> completed",
        "backend: counter.py: completed with {'words': 11}",
    ]
    assert [line for line in lines if "matcher.js" in line] == [
        "backend: matcher.js: - -> starting",
        "backend: matcher.js: starting -> running",
        "backend: matcher.js: {'looking_for': 'dog'}",
        "backend: matcher.js: {'found': 2}",
        "backend: matcher.js: {'looking_for': 'c.t'}",
        "backend: matcher.js: {'found': 1}",
        "backend: matcher.js: {'looking_for': '(a+)+$'}",
        "backend: matcher.js: running -> timed_out",
        "backend: matcher.js: timed_out, no heartbeat for 2 s; JavaScript leaves no stacks",
    ]
    assert lines[-1] == "host: the backend exited with 0, and 0 of its processes are left"


async def test_a_backend_that_is_killed_loses_its_processes() -> None:
    async with running(PATIENT) as example:
        await example.read_until(HANGS)
        os.kill(example.backend_pid, signal.SIGKILL)
        said = await example.read_to_the_end()
        assert await example.host.wait() == 0, said
    assert said.splitlines()[-1] == "host: the backend was killed by SIGKILL, and 0 of its processes are left"


async def test_a_backend_whose_host_is_killed_ends_too() -> None:
    async with running(PATIENT) as example:
        await example.read_until(HANGS)
        example.host.kill()
        await example.read_to_the_end()  # the backend has the other end of the pipe until it ends
