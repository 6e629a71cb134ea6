"""`spindle-trio run --restart`: a process that is followed by another one."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

CRASHING = "def run(process):\n    process.ready()\n    raise ValueError('no luck')\n"
SECOND_TIME_LUCKY = """
from pathlib import Path
def run(process):
    process.ready()
    if not Path("tried").exists():
        Path("tried").touch()
        raise ValueError("no luck")
    process.send("lucky")
    return "done"
"""
ASKS = """
def run(process):
    process.ready()
    process.send({"got": process.receive()})
    raise ValueError("next")
"""


def entry(folder: Path, text: str) -> str:
    (folder / "entry.py").write_text(text, encoding="utf-8")
    return "entry.py"


def what(line: str) -> str:
    return line.split()[1]


@pytest.mark.slow
def test_a_process_that_fails_is_followed_by_another_one(folder, run) -> None:
    done = run("run", entry(folder, SECOND_TIME_LUCKY), "--restart", "on_failure")
    assert done.status == 0, done.stderr
    told = [what(line) for line in done.lines]
    assert told[:5] == ["starting", "running", "failed", "waiting", "starting"]
    assert set(told[5:7]) == {"running", "message"}, "which travel on different lanes"
    assert told[7:] == ["completed"]
    ids = [line.split()[3] for line in done.lines]
    assert len(set(ids[:4])) == 1, "a wait is told of the process that has ended"
    assert len(set(ids[4:])) == 1
    assert ids[0] != ids[4]
    assert "next start in 0." in done.lines[3]
    assert done.lines[3].endswith("after 1 failure")
    times = [float(line.split()[0]) for line in done.lines]
    assert times == sorted(times), "times are those since the first start"
    assert times[4] - times[3] > 0.35
    assert done.stderr == ""


@pytest.mark.slow
def test_a_crash_loop_ends_with_the_status_and_the_post_mortem_of_the_last(folder, run) -> None:
    done = run("run", entry(folder, CRASHING), "--restart", "on_failure", "--give-up-after", "2")
    assert done.status == 1
    assert [what(line) for line in done.lines if what(line) != "starting"] == [
        *("running", "failed", "waiting"),
        *("running", "failed"),
    ]
    assert done.stderr.startswith("ValueError: no luck")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("spindle-trio run: the service entry.py has given up after 2 failure")
    assert "ValueError: no luck" in last


def test_a_loop_of_missed_deadlines_is_124(folder, run_here) -> None:
    wedged = "def run(process):\n    process.ready()\n    while True: pass\n"
    name = entry(folder, wedged)
    options = ["--restart", "on_failure", "--give-up-after", "1", "--heartbeat-timeout", "0.3"]
    done = run_here("run", name, *options)
    assert done.status == 124
    assert "has given up" in done.stderr


def test_an_end_that_always_is_followed_by_a_start_is_a_failure_in_the_end(folder, run_here) -> None:
    brief = "def run(process):\n    process.ready()\n    return 6\n"
    done = run_here("run", entry(folder, brief), "--restart", "always", "--give-up-after", "1", "--json")
    assert done.status == 1
    assert [json.loads(line)["event"]["state"] for line in done.lines] == ["starting", "running", "completed"]
    assert "has given up" in done.stderr


def test_a_process_that_completes_is_not_a_failure(folder, run_here) -> None:
    brief = "def run(process):\n    process.ready()\n    return 6\n"
    done = run_here("run", entry(folder, brief), "--restart", "on_failure")
    assert (done.status, done.stderr) == (0, "")
    assert [what(line) for line in done.lines] == ["starting", "running", "completed"]


def test_a_first_start_that_fails_is_not_repeated(folder, run_here) -> None:
    done = run_here("run", entry(folder, "raise ValueError('no luck')\n"), "--restart", "always")
    assert done.status == 1
    assert [what(line) for line in done.lines] == ["starting", "failed"]


@pytest.mark.slow
async def test_a_signal_beats_a_restart_that_is_pending(folder, start) -> None:
    async with start("run", entry(folder, CRASHING), "--restart", "always", "--give-up-after", "100") as command:
        await command.wait_printed("after 3 failures")
        command.signal(signal.SIGTERM)
        done = await command.finish()
    assert done.status == 143
    assert what(done.lines[-1]) == "waiting"


@pytest.mark.slow
async def test_each_line_of_stdin_goes_to_the_process_that_runs(folder, start) -> None:
    async with start("run", entry(folder, ASKS), "--restart", "on_failure", "--give-up-after", "3") as command:
        for line in ("one", "two", "three"):
            await command.write(f"{line}\n")
            await command.wait_printed(f'{{"got": "{line}"}}')
            if line != "three":
                await command.wait_printed("after 1 failure" if line == "one" else "after 2 failures")
        done = await command.finish()
    assert done.status == 1
    assert "was not sent" not in done.stderr


@pytest.mark.parametrize(
    ("options", "to_type"),
    [
        (["--restart", "sometimes"], "--restart"),
        (["--give-up-after", "3"], "add --restart on_failure"),
        (["--restart", "never", "--give-up-after", "3"], "add --restart on_failure"),
        (["--restart", "always", "--give-up-after", "0"], "--give-up-after 8"),
        (["--restart", "always", "--give-up-after", "many"], "--give-up-after 8"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, run_here, options: list[str], to_type: str) -> None:
    done = run_here("run", entry(folder, CRASHING), *options)
    assert (done.status, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert to_type in line
