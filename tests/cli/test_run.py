"""`spindle-trio run`, on real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from spindle_trio import ProcessLifecycle, ProcessMessage, ProcessState
from spindle_trio.wire import parse_notice

COUNTING = """
def run(process):
    process.ready()
    process.send({"n": 1})
    return {"payload": process.payload, "has": process.has_payload, "kind": process.kind, "key": process.key,
            "user": process.user_id, "metadata": process.metadata, "watch": process.heartbeat_timeout}
"""
ECHO = """
def run(process):
    process.ready()
    while True:
        message = process.receive()
        if message == "quit":
            return "done"
        process.send({"got": message})
"""
PATIENT = """
import trio
async def run(process):
    process.ready()
    process.beat_while_running()
    await process.send("here")
    try:
        await trio.sleep_forever()
    finally:
        process.send_nowait("cleaned up")
"""
STUBBORN = """
import trio
async def run(process):
    process.on_stop(lambda notice: process.send_nowait({"asked": notice.reason}))
    process.ready()
    process.beat_while_running()
    await process.send("here")
    await trio.sleep_forever()
"""
FLOOD = """
def run(process):
    process.ready()
    while True:
        process.send("x" * 1000)
"""


def entry(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name


def test_a_completed_run_prints_each_event_and_message_and_its_result(folder, run) -> None:
    done = run("run", entry(folder, "counting.py", COUNTING))
    assert done.status == 0, done.stderr
    assert done.stderr == ""
    what = [line.split()[1] for line in done.lines]
    assert sorted(what) == sorted(["starting", "running", "message", "completed"])
    assert what[0] == "starting"
    assert what[-1] == "completed", "the terminal event comes after all messages"
    assert '{"n": 1}' in done.stdout
    assert '"has": false' in done.lines[-1]
    assert len({line.split()[3] for line in done.lines}) == 1, "each line names the same process"


def test_an_entry_that_never_says_ready_has_failed_with_the_words_of_spawn(folder, run_here) -> None:
    done = run_here("run", entry(folder, "hasty.py", "def run(process):\n    return 6\n"))
    assert done.status == 1
    assert [line.split()[1] for line in done.lines] == ["starting", "completed"]
    assert done.lines[-1].endswith("6"), "the result is not lost"
    assert "it never called process.ready(); call that as soon as the entry can work" in done.stderr


async def test_an_entry_that_only_takes_calls_is_told_how_to_call_it(folder, start) -> None:
    name = entry(folder, "tools.py", 'def square(n):\n    return n * n\ncalls = {"square": square}\n')
    async with start("run", name) as command:
        await command.wait_printed("running")
        command.signal(signal.SIGTERM)
        done = await command.finish()
    assert done.status == 143
    assert done.stderr == "spindle-trio run: tools.py only answers calls; type: spindle-trio call tools.py NAME\n"


def test_every_option_reaches_the_entry(folder, run_here) -> None:
    (folder / "below").mkdir()
    name = entry(folder / "below", "counting.py", COUNTING)
    options = {
        "--root": "below",
        "--payload": "null",
        "--kind": "counter",
        "--key": "k1",
        "--user": "ada",
        "--metadata": '{"ticket": 7}',
        "--startup-timeout": "20",
        "--heartbeat-timeout": "7.5",
        "--grace": "1",
    }
    done = run_here("run", name, *(word for option in options.items() for word in option), "--json")
    assert done.status == 0, done.stderr
    event = json.loads(done.lines[-1])["event"]
    assert event["result"] == {
        "payload": None,
        "has": True,
        "kind": "counter",
        "key": "k1",
        "user": "ada",
        "metadata": {"ticket": 7},
        "watch": 7.5,
    }
    assert (event["kind"], event["key"], event["userId"], event["metadata"]) == ("counter", "k1", "ada", {"ticket": 7})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("here", "options", "name"),
    [
        (".", [], "below/counting.py"),
        ("below", [], "counting.py"),
        ("elsewhere", [], "counting.py"),
        ("elsewhere", ["--root", ".."], "below/counting.py"),
        ("link", [], "below/counting.py"),
    ],
)
def test_an_entry_may_be_an_absolute_path(folder, run_here, here: str, options: list[str], name: str) -> None:
    """Below this folder or the root it is made relative; without a root, its own folder is one."""
    (folder / "below").mkdir()
    (folder / "elsewhere").mkdir()
    (folder / "link").symlink_to(folder)
    entry(folder / "below", "counting.py", COUNTING)
    done = run_here("run", str(folder / "below" / "counting.py"), *options, cwd=folder / here)
    assert done.status == 0, done.stderr
    assert done.lines[-1].split()[2] == name


def test_json_lines_are_the_wire_form(folder, run_here) -> None:
    """Readers of the output of `--json` can use the same parser as a worker."""
    done = run_here("run", entry(folder, "counting.py", COUNTING), "--json")
    notices = [parse_notice(json.loads(line)) for line in done.lines]
    states = [notice.event.state for notice in notices if isinstance(notice, ProcessLifecycle)]
    assert states == [ProcessState.STARTING, ProcessState.RUNNING, ProcessState.COMPLETED]
    assert [notice.payload for notice in notices if isinstance(notice, ProcessMessage)] == [{"n": 1}]


def test_a_failure_is_1_and_shows_its_error(folder, run_here) -> None:
    done = run_here("run", entry(folder, "failing.py", "def run(process):\n    raise ValueError('no luck')\n"))
    assert done.status == 1
    assert "ValueError: no luck (Traceback: failing.py:2 in run)" in done.lines[1]
    assert done.lines[1].split()[1] == "failed"
    assert len(done.lines) == 2
    said = done.stderr.splitlines()
    assert said[0] == "ValueError: no luck (Traceback: failing.py:2 in run)"
    assert said[-1] == "    ValueError: no luck"


@pytest.mark.slow
def test_a_wedged_process_is_124(folder, run) -> None:
    wedged = "def run(process):\n    process.ready()\n    while True: pass\n"
    done = run("run", entry(folder, "wedged.py", wedged), "--heartbeat-timeout", "0.3")
    assert done.status == 124
    assert done.lines[-1].split()[1] == "timed_out"
    assert done.lines[-1].endswith("no heartbeat for 0.3 s")
    assert done.stderr.startswith("no heartbeat for 0.3 s\n")
    assert done.stderr.endswith('wedged.py", line 3 in run\n')


def test_a_post_mortem_is_shown_as_an_object_where_lines_are_objects(folder, run_here) -> None:
    wedged = "def run(process):\n    process.ready()\n    while True: pass\n"
    done = run_here("run", entry(folder, "wedged.py", wedged), "--heartbeat-timeout", "0.3", "--json")
    assert done.status == 124
    assert done.stderr == ""
    post_mortem = json.loads(done.lines[-1])["event"]["postMortem"]
    assert post_mortem["error"] == "no heartbeat for 0.3 s"
    assert post_mortem["stacks"].endswith('wedged.py", line 3 in run')


def test_a_post_mortem_cannot_rewrite_a_terminal(folder, run_here) -> None:
    rude = "import sys\ndef run(process):\n    print('\\x1b[2Jgone', file=sys.stderr)\n    process.fail('no')\n"
    done = run_here("run", entry(folder, "rude.py", rude))
    assert "\\x1b[2Jgone" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.slow
def test_a_process_that_is_never_ready_is_124(folder, run_here) -> None:
    done = run_here(
        "run", entry(folder, "slow.py", "def run(process):\n    while True: pass\n"), "--startup-timeout", "0.5"
    )
    assert done.status == 124
    assert done.lines[-1].split()[1] == "timed_out"


def test_each_line_of_stdin_is_a_message_and_its_end_is_none(folder, run) -> None:
    """Lines that parse as JSON go as that, others as strings; the last one needs no line end."""
    lines = '{"a": [1, 2]}\nplain text\n\n"quoted"\nNaN\nquit'
    done = run("run", entry(folder, "echo.py", ECHO), "--json", stdin=lines)
    assert done.status == 0, done.stderr
    got = [json.loads(line)["payload"]["got"] for line in done.lines if '"payload"' in line]
    assert got == [{"a": [1, 2]}, "plain text", "", "quoted", "NaN"]


def test_a_line_that_cannot_be_sent_is_reported_and_the_next_one_goes_on(folder, run) -> None:
    done = run("run", entry(folder, "echo.py", ECHO), stdin=f"{2**70}\nhello\nquit\n")
    assert done.status == 0
    assert "line 1 of the input was not sent" in done.stderr
    assert '{"got": "hello"}' in done.stdout


async def test_stdin_that_stays_open_keeps_nothing_alive(folder, start) -> None:
    async with start("run", entry(folder, "counting.py", COUNTING)) as command:
        assert (await command.finish()).status == 0


async def test_stdin_that_is_closed_altogether_harms_nothing(folder) -> None:
    """Its number would be given to the first socket, and that would be read in its place."""
    name = entry(folder, "counting.py", COUNTING)
    done = await trio.run_process(
        ["sh", "-c", f'"{sys.executable}" -m spindle_trio run {name} <&-'],
        cwd=folder,
        capture_stdout=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


async def test_lines_arrive_one_by_one_while_the_process_runs(folder, start) -> None:
    async with start("run", entry(folder, "echo.py", ECHO)) as command:
        await command.write("one\n")
        await command.wait_printed('{"got": "one"}')
        await command.write("two\n")
        await command.wait_printed('{"got": "two"}')
        await command.write("quit\n")
        assert (await command.finish()).status == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_the_first_signal_stops_gracefully(folder, start, number: signal.Signals, status: int) -> None:
    async with start("run", entry(folder, "patient.py", PATIENT)) as command:
        await command.wait_printed('"here"')
        command.signal(number)
        done = await command.finish()
    assert done.status == status
    assert "cleaned up" in done.stdout
    assert [line.split()[1] for line in done.lines if "message" not in line][-2:] == ["stopping", "stopped"]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
async def test_the_second_signal_kills(folder, start) -> None:
    async with start("run", entry(folder, "stubborn.py", STUBBORN), "--grace", "3600") as command:
        await command.wait_printed('"here"')
        command.signal(signal.SIGINT)
        await command.wait_printed('"asked"')
        command.signal(signal.SIGINT)
        done = await command.finish()
    assert done.status == 130
    assert done.lines[-1].split()[1] == "stopped"


@pytest.mark.slow
async def test_a_signal_while_the_process_is_starting_stops_it(folder, start) -> None:
    never_ready = "import trio\nasync def run(process):\n    await trio.sleep_forever()\n"
    async with start("run", entry(folder, "never_ready.py", never_ready), "--startup-timeout", "100") as command:
        await command.wait_printed("starting")
        command.signal(signal.SIGINT)
        done = await command.finish()
    assert done.status == 130
    assert done.lines[-1].split()[1] == "stopped"


@pytest.mark.slow
async def test_a_reader_that_pauses_holds_up_neither_watching_nor_ending(folder, start) -> None:
    """Like a pager: nobody reads, the pipe is full, and two signals still end it all."""
    async with start("run", entry(folder, "flood.py", FLOOD), "--grace", "3600") as command:
        await command.wait_printed("xxx")
        command.signal(signal.SIGINT)
        command.signal(signal.SIGTERM)
        assert await command.wait() in (130, 143)  # the two may be heard in either order


def test_a_reader_that_goes_away_ends_the_process(folder) -> None:
    name = entry(folder, "flood.py", FLOOD)
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m spindle_trio run {name} | head -n 3'],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=40,
    )
    assert len(done.stdout.splitlines()) == 3
    assert "Traceback" not in done.stderr


def test_errors_show_no_control_characters(folder, run_here) -> None:
    """A child's text must not be able to rewrite a viewer's terminal."""
    name = entry(folder, "rude.py", "def run(process):\n    process.fail('\\x1b[2Jgone')\n")
    done = run_here("run", name)
    assert "\x1b" not in done.stdout
    assert r"\x1b[2Jgone" in done.stdout
