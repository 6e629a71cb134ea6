"""The command line as a user has it: another process, with real pipes and real signals.

`run_here` calls it in this program instead, which spares an interpreter where only text and status matter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from spindle_trio.cli import main

GUARD_SECONDS = 40
"""How long a command may take before its test fails: generous, since the machine may be busy."""


@attrs.frozen
class Finished:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """What was printed, line by line."""
        return self.stdout.splitlines()


class Running:
    """A command that runs, with pipes that the test reads and writes."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._seen = b""
        self._errors = b""

    async def wait_printed(self, text: str) -> None:
        """Read stdout until it has contained a text."""
        assert self._process.stdout is not None
        while text.encode() not in self._seen:
            data = await self._process.stdout.receive_some()
            assert data, f"{text!r} never came; stdout was {self._seen.decode()!r}"
            self._seen += data

    async def write(self, text: str) -> None:
        """Write to stdin, and leave it open."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(text.encode())

    def signal(self, number: signal.Signals) -> None:
        """Send the command a signal."""
        self._process.send_signal(number)

    async def finish(self) -> Finished:
        """Read to the end of both outputs, and wait for the command to exit."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_errors)
            async for data in self._process.stdout:
                self._seen += data
        return Finished(await self._process.wait(), self._seen.decode(), self._errors.decode())

    async def wait(self) -> int:
        """Wait for the command to exit, without reading what it prints."""
        return await self._process.wait()

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        async for data in self._process.stderr:
            self._errors += data


def command_line(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "spindle_trio", *arguments]


def live_children_of_init_with(marker: str) -> list[str]:
    """List the command lines of processes that have the marker in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if marker.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to run the commands in."""
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Callable[..., AbstractAsyncContextManager[Running]]:
    """Start a command whose stdin stays open; at the end nothing of it may be left."""

    @asynccontextmanager
    async def started(*arguments: str) -> AsyncIterator[Running]:
        # The runtime passes TMPDIR on, so that the process that it starts can be told from others.
        environment = {**os.environ, "TMPDIR": str(folder)}
        with trio.fail_after(GUARD_SECONDS):
            process = await trio.lowlevel.open_process(
                command_line(arguments),
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            try:
                yield Running(process)
            finally:
                with trio.CancelScope(shield=True):
                    process.kill()
                    await process.wait()
                    for stream in (process.stdin, process.stdout, process.stderr):
                        assert stream is not None
                        await stream.aclose()
            assert not live_children_of_init_with(f"TMPDIR={folder}\0")

    return started


@pytest.fixture
def run(folder: Path) -> Callable[..., Finished]:
    """Run a command to its end, with nothing on stdin unless something is given."""

    def ran(*arguments: str, stdin: str | None = None, cwd: Path | None = None) -> Finished:
        done = subprocess.run(
            command_line(arguments),
            cwd=cwd or folder,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=GUARD_SECONDS,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return ran


@pytest.fixture
def run_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """Run a command to its end in this program, with nothing on stdin."""

    def ran(*arguments: str, cwd: Path | None = None) -> Finished:
        monkeypatch.chdir(cwd or folder)
        capfd.readouterr()
        try:
            status = main(arguments)
        except SystemExit as exited:
            assert isinstance(exited.code, int)
            status = exited.code
        return Finished(status, *capfd.readouterr())

    return ran
