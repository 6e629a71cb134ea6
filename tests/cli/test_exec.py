"""`spindle-trio exec`, on real programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

GUARD_SECONDS = 40


def execute(*words: str, given: bytes = b"", **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command with bytes on its stdin."""
    return subprocess.run(
        [sys.executable, "-m", "spindle_trio", "exec", *words],
        input=given, capture_output=True, timeout=GUARD_SECONDS, check=False, **options,
    )  # type: ignore[call-overload]  # fmt: skip


def test_bytes_pass_through_as_they_are() -> None:
    """Also what is no text, and what has no end of line."""
    given = bytes(range(256)) * 4_000
    done = execute("--", "sh", "-c", "cat; printf 'to stderr\\377' >&2", given=given)
    assert done.returncode == 0
    assert done.stdout == given
    assert done.stderr == b"to stderr\xff"


def test_a_failure_is_told_after_the_programs_own_words() -> None:
    done = execute("--", "sh", "-c", "echo hi; echo sorry >&2; exit 3")
    assert (done.returncode, done.stdout) == (1, b"hi\n")
    said = done.stderr.decode().splitlines()
    assert said[:2] == ["sorry", "spindle-trio exec: sh failed: exited with code 3"]
    assert "  exit status: exited with code 3" in said


@pytest.mark.slow
def test_a_program_that_is_not_there_is_refused() -> None:
    done = execute("--", "no-such-program-here")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"the program 'no-such-program-here' of a command is in no folder of the PATH" in done.stderr


@pytest.mark.slow
def test_time_that_is_over_is_124_and_told() -> None:
    done = execute("--time", "0.3", "--", "sleep", "60")
    assert done.returncode == 124
    assert done.stderr.startswith(b"spindle-trio exec: sleep ran out of time: ran for longer than run_seconds=0.3")


async def test_a_signal_stops_the_program_and_what_it_has_started(start) -> None:
    script = "trap 'echo asked; exit 0' TERM; sleep 600 & echo here; wait"
    async with start("exec", "--", "sh", "-c", script) as command:
        await command.wait_printed("here")
        command.signal(signal.SIGTERM)
        done = await command.finish()
    assert done.status == 143
    assert done.stdout.splitlines() == ["here", "asked"]


@pytest.mark.slow
async def test_a_reader_that_has_enough_ends_it(start) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-m", "spindle_trio", "exec", "--", "yes"], stdout=writing)
    os.close(writing)
    assert os.read(reading, 2) == b"y\n"
    os.close(reading)
    assert process.wait(GUARD_SECONDS) == 141


@pytest.mark.slow
def test_a_program_sees_only_the_variables_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s")
    monkeypatch.setenv("WANTED", "w")
    done = execute("--env", "WANTED", "--env", "NEW=n=1", "--", "env")
    shown = done.stdout.decode().splitlines()
    assert {"WANTED=w", "NEW=n=1"} <= set(shown)
    assert not any("SECRET" in line for line in shown)


@pytest.mark.slow
def test_words_after_the_dashes_are_the_programs_own() -> None:
    assert execute("--time", "60", "--", "echo", "--json", "--", "x").stdout == b"--json -- x\n"


@pytest.mark.slow
def test_a_program_without_options_needs_no_dashes() -> None:
    assert execute("echo", "x").stdout == b"x\n"


@pytest.mark.parametrize(
    ("words", "to_type"),
    [
        (["exec"], "type: spindle-trio exec -- PROGRAM ARG…"),
        (["exec", "--"], "type: spindle-trio exec -- PROGRAM ARG…"),
        (["exec", "ls", "-l"], "--help"),
        (["exec", "--memory", "lots", "--", "ls"], "--memory 512M"),
        (["exec", "--memory", "0", "--", "ls"], "--memory 512M"),
        (["exec", "--memory", "1e400", "--", "ls"], "--memory 512M"),
        (["exec", "--pids", "0", "--", "ls"], "--pids 64"),
        (["exec", "--cpus", "nan", "--", "ls"], "--cpus 1.5"),
        (["exec", "--time", "-1", "--", "ls"], "--time 30"),
        (["exec", "--read", "/nowhere", "--", "ls"], "there is no '/nowhere'"),
        (["exec", "--env", "=1", "--", "ls"], "NAME=VALUE"),
        (["exec", "--env", "NOT_SET_ANYWHERE", "--", "ls"], "there is no NOT_SET_ANYWHERE"),
        (["exec", "--sandbox", "tight", "--", "ls"], "read-only"),
        (["exec", "--read", "/usr", "--read", "/usr/lib", "--", "ls"], "name only '/usr'"),
    ],
)
def test_a_wrong_word_is_refused_with_what_to_type(words: list[str], to_type: str, run_here) -> None:
    done = run_here(*words)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert to_type in done.stderr
