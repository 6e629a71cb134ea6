"""The commands when nobody reads their output, or when it cannot be written."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

GUARD_SECONDS = 40

PIPE_CLOSED = 141
"""128 and the number of SIGPIPE: what a shell shows of a program whose reader went away."""
FEW = """
def run(process):
    process.ready()
    for n in range(20):
        process.send({"n": n})
    return "done"
"""
SAYS_MUCH_AND_FAILS = """
def run(process):
    process.ready()
    for n in range(20):
        process.send("x" * 1000)
    raise ValueError("over")
"""


@pytest.fixture
def few(folder: Path) -> str:
    (folder / "few.py").write_text(FEW, encoding="utf-8")
    return "few.py"


def command_line(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "spindle_trio", *arguments]


def run_with_stdout(folder: Path, descriptor: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(list(arguments)),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=descriptor,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=GUARD_SECONDS,
    )


def test_a_reader_that_goes_away_after_the_end_is_no_error(folder: Path) -> None:
    """The last lines wait in the pipe while the worker has closed: there is no process to stop any more."""
    (folder / "much.py").write_text(SAYS_MUCH_AND_FAILS, encoding="utf-8")
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen(
        command_line(["run", "much.py"]), cwd=folder, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.PIPE
    ) as command:
        os.close(writing)
        assert command.stderr is not None
        assert b"over" in command.stderr.readline(), "the post-mortem, which comes when the host has closed"
        os.close(reading)
        assert b"Exception Group" not in command.stderr.read()
        assert command.wait(GUARD_SECONDS) == PIPE_CLOSED


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 4, 3])
def test_a_reader_that_takes_a_few_lines_ends_the_command_quietly(folder: Path, few: str, lines: int) -> None:
    script = f'"{sys.executable}" -m spindle_trio run {few} | head -n {lines}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False, timeout=GUARD_SECONDS
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == lines
    assert done.returncode in {PIPE_CLOSED, 0}, "0 where all was in the pipe before its reader left"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["run", "few.py"], ["doctor"], ["types"], ["--help"], ["run", "--help"]])
def test_a_reader_that_is_gone_already_is_told_by_the_exit_status_alone(
    folder: Path, few: str, arguments: list[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run_with_stdout(folder, writing, *arguments)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (PIPE_CLOSED, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["run", "few.py"], ["doctor"], ["types"], ["--help"], ["run", "few.py", "--json"], ["--version"]]
)
def test_output_that_finds_the_disk_full_is_a_failure_that_says_so(
    folder: Path, few: str, arguments: list[str]
) -> None:
    with open("/dev/full", "wb") as full:
        done = run_with_stdout(folder, full.fileno(), *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == f"spindle-trio: the output cannot be written: {os.strerror(errno.ENOSPC)}"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["run", "failing.py"], ["run", "failing.py", "--verbose"], ["run", "gone.py"]])
def test_a_closed_standard_error_changes_no_exit_status(folder: Path, arguments: list[str]) -> None:
    text = "import sys\ndef run(process):\n    print('x', file=sys.stderr)\n    raise ValueError\n"
    (folder / "failing.py").write_text(text, encoding="utf-8")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command_line(arguments),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=writing,
            check=False,
            timeout=GUARD_SECONDS,
        )
    finally:
        os.close(writing)
    assert done.returncode == (2 if "gone.py" in arguments else 1)
