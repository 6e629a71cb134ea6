"""Every example runs, as its first lines say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.javascript import needs_node
from support.programs import needed

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "notes" / "examples"
GUARD_SECONDS = 60


def run(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, with the arguments given."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=GUARD_SECONDS,
    )


def run_entry(name: str, *options: str, cwd: Path = ROOT, root: str = ".") -> tuple[int, list[dict[str, object]]]:
    """Run an example by the command line, and return the exit status and the wire form of what it printed."""
    done = run("-m", "spindle_trio", "run", "--root", root, name, "--json", *options, cwd=cwd)
    assert done.stderr == ""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_word_index_counts_the_words_of_text_files_alone(tmp_path: Path) -> None:
    (tmp_path / "word_index.py").write_bytes((EXAMPLES / "word_index.py").read_bytes())
    texts = tmp_path / "texts"
    for folder in ("inner", ".hidden", "somebodys-venv", "__pycache__"):
        (texts / folder).mkdir(parents=True)
    (texts / "somebodys-venv" / "pyvenv.cfg").touch()
    for passed_over in (".hidden/a.txt", ".secret", "somebodys-venv/b.txt", "__pycache__/c.txt"):
        (texts / passed_over).write_text("wrong")
    (texts / "one.txt").write_text("The cat and the dog\n")
    (texts / "inner" / "two.txt").write_text("the größe, 42 times")
    (texts / "binary").write_bytes(b"wrong\0wrong")
    (texts / "latin").write_bytes(b"wrong \xe9")
    (texts / "huge.txt").write_text("wrong " * 200_000)
    status, said = run_entry("word_index.py", "--payload", '{"folder": "texts"}', cwd=tmp_path)
    assert status == 0
    assert said[-1]["event"]["result"] == {
        "files": 2,
        "words": 8,
        "distinct": 6,
        "most": [["the", 3], ["and", 1], ["cat", 1], ["dog", 1], ["größe", 1]],
    }
    assert [notice["payload"] for notice in said if "payload" in notice] == [{"done": 4, "of": 4, "distinct": 6}]


def test_word_index_goes_over_this_repository() -> None:
    """The first command of the README."""
    status, said = run_entry("notes/examples/word_index.py", "--payload", '{"folder": "."}')
    assert status == 0
    assert said[-1]["event"]["result"]["files"] > 10


@pytest.mark.quick(1)
@pytest.mark.parametrize("payload", ["null", '{"folder": "nowhere"}', '{"folder": 7}'])
def test_word_index_says_no_to_a_wrong_payload(payload: str) -> None:
    status, said = run_entry("notes/examples/word_index.py", "--payload", payload)
    assert status == 1
    assert "ValueError" in said[-1]["event"]["error"]


def test_wedge_is_ended_by_the_watchdog() -> None:
    status, said = run_entry("notes/examples/wedge.py", "--heartbeat-timeout", "0.5")
    assert status == 124
    assert said[-1]["event"]["state"] == "timed_out"
    assert [notice["payload"] for notice in said if "payload" in notice] == ["about to hang"]


def test_primes_counts_primes_and_beats_meanwhile() -> None:
    status, said = run_entry("notes/examples/primes.py", "--payload", '{"below": 100000}', "--heartbeat-timeout", "5")
    assert status == 0
    assert said[-1]["event"]["result"] == 9592
    looked_at = [notice["payload"]["looked_at"] for notice in said if "payload" in notice]
    assert looked_at == [20_000, 40_000, 60_000, 80_000, 100_000]


def test_three_entries_supervises_three_ends() -> None:
    done = run(EXAMPLES / "three_entries.py")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^word_index.py: completed after \d+ message\(s\), result \{'files': ", done.stdout, re.MULTILINE)
    assert "primes.py: completed after 5 message(s), result 9592" in done.stdout
    assert "wedge.py: timed_out after 1 message(s), result None" in done.stdout
    assert len(re.findall(r"- -> starting", done.stdout)) == 3


def test_socket_worker_uses_a_host_behind_a_socket() -> None:
    done = run(EXAMPLES / "socket_worker.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "ready: primes.py, key 'demo'",
        "message: {'looked_at': 20000, 'primes': 2262}",
        "message: {'looked_at': 40000, 'primes': 4203}",
        "message: {'looked_at': 60000, 'primes': 6057}",
        "completed with 6057",
    ]


def test_slow_reader_holds_up_the_generator_and_not_its_process() -> None:
    done = run(EXAMPLES / "slow_reader.py")
    assert done.returncode == 0, done.stderr
    *progress, last = done.stdout.splitlines()
    assert last == "the process is gone, and so is its generator"
    counts = [re.fullmatch(r"read (\d+), made (\d+)", line).groups() for line in progress]
    assert [int(read) for read, _ in counts] == [10, 20, 30, 40, 50]
    assert all(int(read) <= int(made) <= int(read) + 8 for read, made in counts), counts


def test_endless_rows_ends_with_the_reader_of_the_command() -> None:
    call = f"{sys.executable} -m spindle_trio call notes/examples/endless_rows.py rows"
    done = subprocess.run(
        ["sh", "-c", f"{call} | head -n 2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=GUARD_SECONDS,
    )
    assert (done.stdout, done.stderr) == ('{"row": 1}\n{"row": 2}\n', "")


def test_surviving_pool_answers_whatever_its_calls_do_to_its_processes() -> None:
    done = run(EXAMPLES / "surviving_pool.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "  3  crash: lost: killed by SIGABRT while it took calls",
        "  3  grow: MemoryError",
        "  3  hang: not answered in time",
        " 81  square: answered",
        "3 processes have crashed",
    ]


def test_store_and_users_stop_and_start_in_order() -> None:
    done = run(EXAMPLES / "store_and_users.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *("store running", "writer running", "reader running"),
        "written: green",
        "the store is lost: killed by SIGABRT while it took calls",
        *("store ended", "store restart_scheduled"),
        *("reader ended", "reader restart_scheduled", "writer ended", "writer restart_scheduled"),
        *("store started", "store running", "writer started", "writer running", "reader started", "reader running"),
        "read: green",
        *("reader ended", "reader stopped", "writer ended", "writer stopped", "store ended", "store stopped"),
    ]


@needs_node
def test_javascript_backend_calls_its_tools_and_outlives_one_that_hangs() -> None:
    done = run(EXAMPLES / "javascript_backend" / "serve_backend.py")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("message: ")] == ["message: hello, Ada"]
    assert [line for line in lines if re.match("square|word", line)] == [
        "square: 9",
        *(f"word: {word}" for word in ["wait", "for", "the", "reader"]),
    ]
    # Both ends watch the time of a call, and either may be the first to tell.
    assert re.search(r"^CallTimeoutError: .hangs. was not answered by process …", done.stdout, re.MULTILINE)
    assert re.search(r"^timed_out: its handler of 'hangs' went on for 0.2 s", done.stdout, re.MULTILINE)
    assert lines[-1] == "host: 0 of its processes are left"


def test_crash_loop_gives_up_and_says_what_the_last_process_died_of() -> None:
    done = run(EXAMPLES / "crash_loop.py")
    assert done.returncode == 0, done.stderr
    *waits, error = done.stdout.splitlines()[:4]
    cause = done.stdout.splitlines()[-1]
    assert waits == [
        f"generation {generation} has failed; the next one starts in {seconds} s"
        for generation, seconds in [(1, 0.1), (2, 0.2), (3, 0.4)]
    ]
    assert "has given up after 4 failure(s) in a row" in error
    assert cause.strip() == "ConnectionRefusedError: nobody listens on db.internal:5432"


def test_crash_loop_in_a_test_takes_a_week_of_virtual_time_and_passes() -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "test_crash_loop.py")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_mcp_server_is_called_and_comes_back_after_a_crash() -> None:
    done = run(EXAMPLES / "mcp_server.py")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["tiny is up", "tools: add wait crash"]
    assert sorted(lines[2:5]) == ["1 + 1 = 2", "2 + 2 = 4", "3 + 3 = 6"]
    logged = {"level": "info", "data": "request 6 was cancelled"}
    assert lines[5:] == [
        "wait: not answered in time",
        f"the server says: {{'method': 'notifications/message', 'params': {logged}}}",
        "no such tool: error -32602: there is no such tool, or no such method: tools/call",
        "crash: exited with code 3",
        "tiny is up",
        "20 + 22 = 42",
    ]


def test_mcp_server_keeps_up_a_server_that_nobody_here_wrote() -> None:
    done = run(EXAMPLES / "mcp_server.py", needed("mcp-server-time"), "--local-timezone", "UTC")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "mcp-time is up\ntools: get_current_time convert_time\n"


@needs_node
def test_tool_runner_answers_each_call_in_time_and_leaves_nothing() -> None:
    done = run(EXAMPLES / "tool_runner.py")
    assert (done.returncode, done.stderr) == (0, "")
    answers = [json.loads(line[2:]) for line in done.stdout.splitlines() if line.startswith("←")]
    assert [answer["ok"] for answer in answers[:3]] == [True, True, True]
    assert [answer["output"] for answer in answers[:3]] == ["7\n", "45\n", "1,4,9\n"]
    shadow, network, memory, time, chatter = answers[3:]
    assert "Permission denied" in shadow["output"]
    assert "PermissionError: [Errno 1]" in network["output"]
    assert "its limit on memory: 256 MiB used of 256 MiB" in memory["error"] or "MemoryError" in memory["output"]
    assert time["error"] == "ran for longer than run_seconds=3"
    assert chatter["error"] == "it wrote too much"


@pytest.mark.skipif(
    not (shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))),
    reason="PostgreSQL is not installed",
)
def test_postgres_for_tests_answers_and_is_gone() -> None:
    done = run(EXAMPLES / "postgres_for_tests.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the database says ['42']\nand is gone: True\n"
