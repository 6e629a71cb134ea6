"""`spindle-trio call`, on real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.javascript import needs_node

TOOLS = """
import os
import sys
import time


def square(payload):
    return payload["n"] ** 2


def echo(payload):
    return payload


def count(payload):
    for number in range(payload["to"]):
        yield number
    if payload.get("fails"):
        raise ValueError("no more \\x1b[2J")


def fail(payload):
    raise ValueError("no luck \\x1b[2J")


def strange(payload):
    return {1, 2}


def leave(payload):
    os._exit(7)


def hang(payload):
    print("here", file=sys.stderr, flush=True)
    while True:
        pass


calls = {function.__name__: function for function in (square, echo, count, fail, strange, leave, hang)}
"""
PATIENT = """
import trio


async def wait(payload):
    await trio.sleep_forever()


async def drip(payload):
    try:
        yield "here"
        await trio.sleep_forever()
    finally:
        with open("cleaned-up", "w") as file:
            file.write("yes")


calls = {"wait": wait, "drip": drip}
"""


@pytest.fixture
def tools(folder: Path) -> str:
    (folder / "tools.py").write_text(TOOLS, encoding="utf-8")
    return "tools.py"


@pytest.fixture
def patient(folder: Path) -> str:
    (folder / "patient.py").write_text(PATIENT, encoding="utf-8")
    return "patient.py"


def test_the_answer_is_one_line_of_json(tools, run_here) -> None:
    done = run_here("call", tools, "square", '{"n": 3}')
    assert (done.status, done.stdout, done.stderr) == (0, "9\n", "")


def test_without_json_the_argument_is_null(tools, run_here) -> None:
    assert run_here("call", tools, "echo").stdout == "null\n"


@pytest.mark.slow
def test_the_argument_may_come_from_stdin(tools, run) -> None:
    text = json.dumps({"text": "größer\n" + "x" * 200_000}, ensure_ascii=False)
    done = run("call", tools, "echo", "-", stdin=f"  {text}\n")
    assert (done.status, done.stdout) == (0, f"{text}\n")


def test_an_argument_from_stdin_that_is_no_json_is_refused(tools, run) -> None:
    done = run("call", tools, "echo", "-", stdin="")
    assert done.status == 2
    (line,) = done.stderr.splitlines()
    assert "wants JSON on standard input, such as" in line
    assert "type: spindle-trio call ENTRY METHOD JSON" in line


@pytest.mark.parametrize("options", [[], ["--stream"]])
def test_the_items_of_a_stream_are_a_line_each(tools, run_here, options: list[str]) -> None:
    done = run_here("call", *options, tools, "count", '{"to": 100}')
    assert (done.status, done.stderr) == (0, "")
    assert done.lines == [str(number) for number in range(100)]


def test_a_function_that_is_no_stream_is_refused_as_one(tools, run_here) -> None:
    done = run_here("call", tools, "square", '{"n": 1}', "--stream")
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.endswith("; to print its answer, leave out --stream\n")


def test_a_handler_that_raises_the_words_of_a_refusal_is_called_once(folder, run_here) -> None:
    (folder / "sly.py").write_text(
        "def sly(payload):\n"
        "    with open('called', 'a') as file:\n"
        "        file.write('once ')\n"
        "    raise TypeError(\"'sly' is a generator: read it with stream(), not with call()\")\n"
        "calls = {'sly': sly}\n"
    )
    done = run_here("call", "sly.py", "sly")
    assert done.status == 1
    assert (folder / "called").read_text() == "once "


def test_a_method_that_is_not_there_shows_those_that_are(tools, run_here) -> None:
    done = run_here("call", tools, "sqare")
    assert (done.status, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("spindle-trio call: process ")
    assert "has no handler of 'sqare'; it has 'count', 'echo'," in line
    assert line.endswith("; type: spindle-trio call tools.py square")


def test_an_entry_that_takes_no_calls_is_told_what_it_lacks(folder, run_here) -> None:
    (folder / "silent.py").write_text("def run(process):\n    process.ready()\n    process.receive()\n")
    done = run_here("call", "silent.py", "square")
    assert done.status == 2
    assert "takes no calls" in done.stderr
    assert "process.on_call" in done.stderr


def test_a_failure_is_1_and_shows_its_traceback_without_control_characters(tools, run_here) -> None:
    done = run_here("call", tools, "fail")
    assert (done.status, done.stdout) == (1, "")
    first, *others = done.stderr.splitlines()
    assert first.startswith("spindle-trio call: 'fail' failed in process ")
    assert first.endswith(r"(tools.py): ValueError: no luck \x1b[2J")
    assert any('tools.py", line ' in line for line in others)
    assert "\x1b" not in done.stderr


def test_an_answer_that_is_not_json_is_1(tools, run_here) -> None:
    done = run_here("call", tools, "strange")
    assert (done.status, done.stdout) == (1, "")
    assert "PayloadError" in done.stderr


def test_the_items_before_a_failure_are_printed(tools, run_here) -> None:
    done = run_here("call", tools, "count", '{"to": 3, "fails": true}', "--stream")
    assert (done.status, done.lines) == (1, ["0", "1", "2"])
    assert "ValueError: no more" in done.stderr


def test_a_process_that_ends_before_it_answers_is_3(tools, run_here) -> None:
    done = run_here("call", tools, "leave")
    assert (done.status, done.stdout) == (3, "")
    assert "its call of 'leave' may have begun, and is not repeated" in done.stderr
    assert "exit status: exited with code 7" in done.stderr


def test_an_entry_that_does_not_load_is_3(folder, run_here) -> None:
    (folder / "broken.py").write_text("calls = {'a': 1 / 0}\n")
    done = run_here("call", "broken.py", "a")
    assert (done.status, done.stdout) == (3, "")
    assert "ZeroDivisionError" in done.stderr


def test_a_call_whose_time_is_over_is_124(patient, run_here) -> None:
    done = run_here("call", patient, "wait", "--timeout", "0.2")
    assert (done.status, done.stdout) == (124, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("spindle-trio call: 'wait' was not answered by process ")
    assert line.endswith("(patient.py) within 0.2 s, and was cancelled")


def test_a_hung_call_is_124_and_shows_its_stack(tools, run_here) -> None:
    done = run_here("call", tools, "hang", "--timeout", "0.2", "--grace", "3600")
    assert (done.status, done.stdout) == (124, "")
    assert "within 0.2 s, and was cancelled" in done.stderr.splitlines()[0]
    assert " in hang" in done.stderr


@pytest.mark.slow
def test_a_process_that_is_never_ready_is_124(folder, run_here) -> None:
    (folder / "slow.py").write_text("while True: pass\n")
    done = run_here("call", "slow.py", "a", "--startup-timeout", "0.5")
    assert (done.status, done.stdout) == (124, "")
    assert "slow.py" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "number", "status"),
    [([], signal.SIGINT, 130), (["--stream", "--grace", "3600"], signal.SIGTERM, 143)],
)
async def test_items_are_printed_as_they_come_and_the_first_signal_cancels_the_call(
    patient, start, folder, options: list[str], number: signal.Signals, status: int
) -> None:
    async with start("call", patient, "drip", *options) as command:
        await command.wait_printed('"here"\n')
        command.signal(number)
        done = await command.finish()
    assert (done.status, done.stderr) == (status, "")
    assert (folder / "cleaned-up").read_text() == "yes", "the generator was closed, not killed"


async def test_the_second_signal_kills_a_hung_call(folder, start) -> None:
    text = "def hang(payload):\n    yield 'here'\n    while True: pass\ncalls = {'hang': hang}\n"
    (folder / "hung.py").write_text(text)
    async with start("call", "hung.py", "hang", "--stream", "--grace", "3600") as command:
        await command.wait_printed("here")
        command.signal(signal.SIGINT)
        command.signal(signal.SIGTERM)
        assert (await command.finish()).status in (130, 143)  # the two may be heard in either order


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_stream(tools, folder) -> None:
    command = f'"{sys.executable}" -m spindle_trio call {tools} count \'{{"to": 1000000000}}\' --stream'
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 3; echo ${{PIPESTATUS[0]}}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=40,
    )
    assert done.stdout.splitlines() == ["0", "1", "2", "141"]
    assert done.stderr == ""


async def test_a_reader_that_pauses_holds_up_the_generator_and_ends_with_two_signals(tools, start) -> None:
    async with start("call", tools, "count", '{"to": 1000000000}', "--stream", "--grace", "3600") as command:
        await command.wait_printed("100\n")
        command.signal(signal.SIGINT)
        command.signal(signal.SIGTERM)
        assert await command.wait() in (130, 143)


def test_options_reach_the_entry(folder, run_here) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "asked.py").write_text(
        "def run(process):\n"
        "    process.on_call('tell', lambda payload: [process.payload, process.user_id, process.heartbeat_timeout])\n"
        "    process.ready()\n"
    )
    options = ["--root", "below", "--payload", "[1]", "--user", "ada", "--heartbeat-timeout", "7.5"]
    done = run_here("call", "asked.py", "tell", *options)
    assert (done.stdout, done.stderr, done.status) == ('[[1], "ada", 7.5]\n', "", 0)


def test_an_argument_that_cannot_be_sent_is_refused(tools, run_here) -> None:
    done = run_here("call", tools, "echo", str(2**70))
    assert (done.status, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_name_longer_than_any_method_is_refused(tools, run_here) -> None:
    done = run_here("call", tools, "a" * 2000)
    assert (done.status, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_an_entry_that_resembles_none_gets_no_other(folder, run_here) -> None:
    (folder / "notes.py").write_text("calls = {}\n")
    done = run_here("call", "nosuch.py", "square")
    assert done.status == 2
    assert "notes.py" not in done.stderr


def test_the_traceback_of_an_entry_that_cannot_be_loaded_keeps_its_lines(folder, run_here) -> None:
    (folder / "unfit.py").write_text("import nothing_of_the_kind\n")
    done = run_here("call", "unfit.py", "square")
    said, *lines = done.stderr.splitlines()
    assert done.status == 3
    assert "ModuleNotFoundError" in said
    assert any(line.strip() == "import nothing_of_the_kind" for line in lines)


def test_an_argument_that_is_no_json_is_shown(tools, run_here) -> None:
    done = run_here("call", tools, "square", "{n: 3}")
    assert done.status == 2
    assert """such as '{"n": 3}' or '"text"', not '{n: 3}' (""" in done.stderr


def test_a_misspelt_entry_gets_the_nearest_one(tools, run_here) -> None:
    done = run_here("call", "tolls.py", "square")
    assert done.status == 2
    assert done.stderr.endswith("type: spindle-trio call tools.py square\n")


@pytest.mark.slow
@needs_node
def test_a_javascript_entry_answers_and_streams(folder, run_here) -> None:
    (folder / "tools.mjs").write_text(
        "export const calls = {\n"
        "  square: ({ n }) => n * n,\n"
        "  *count({ to }) { for (let n = 1; n <= to; n += 1) yield n; },\n"
        "  made: () => (function* () { yield 1; })(),\n"
        "  *dated() { yield new Date(0); yield Buffer.from([1, 255]); },\n"
        "};\n"
    )
    assert run_here("call", "tools.mjs", "square", '{"n": 3}').stdout == "9\n"
    assert run_here("call", "tools.mjs", "count", '{"to": 3}').lines == ["1", "2", "3"]
    dated = run_here("call", "tools.mjs", "dated")
    assert dated.status == 0
    assert [type(json.loads(line)) for line in dated.lines] == [str, str]
    refused = run_here("call", "tools.mjs", "made")  # it has been called by then
    assert refused.status == 1
    assert "; to print its items, add --stream" in refused.stderr
    assert run_here("call", "tools.mjs", "made", "--stream").lines == ["1"]
