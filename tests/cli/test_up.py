"""`spindle-trio up`, on real processes, in pipes and in real terminals."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from cli.conftest import GUARD_SECONDS, command_line, live_children_of_init_with

PATIENT = """
import trio
async def run(process):
    process.ready()
    process.beat_while_running()
    print(f"here is {process.kind}", flush=True)
    notice = await process.wait_stop()
    process.send_nowait("asked to stop")
"""
STUBBORN = """
import trio
async def run(process):
    process.on_stop(lambda notice: process.send_nowait({"asked": notice.reason}))
    process.ready()
    process.beat_while_running()
    await trio.sleep_forever()
"""
BRIEF = "def run(process):\n    process.ready()\n    process.send('hello')\n    return 'done'\n"
CRASHING = "def run(process):\n    process.ready()\n    raise ValueError('no luck')\n"
ONCE = """
from pathlib import Path
import trio
async def run(process):
    process.ready()
    process.beat_while_running()
    while not Path("go").exists():
        await trio.sleep(0.01)
    if not Path("tried").exists():
        Path("tried").touch()
        raise ValueError("no luck")
    await process.wait_stop()
"""
COUNTING = """
from pathlib import Path
async def run(process):
    process.ready()
    process.beat_while_running()
    with Path("starts").open("a+") as starts:
        starts.write(".")
        print("start", starts.tell(), flush=True)
    await process.wait_stop()
"""
FLOOD = """
def run(process):
    process.ready()
    while True:
        process.send("x" * 1000)
"""
SAYS_ALL = """
import os, sys
def run(process):
    process.ready()
    print(process.payload, sys.argv[1:], os.environ["PORT"], os.path.basename(os.getcwd()), process.key, flush=True)
    print("careful", file=sys.stderr)
    process.send({"n": 1})
"""
THREE = """
[services.db]
entry = "patient.py"
[services.api]
entry = "patient.py"
[services.frontend]
entry = "patient.py"
"""


class Terminal:
    """A command in a terminal of its own, whose keys a test presses."""

    def __init__(self, process: trio.Process, master: int) -> None:
        self.process = process
        self.master = master
        self.seen = b""

    def press_ctrl_c(self) -> None:
        os.write(self.master, b"\x03")

    def close(self) -> None:
        """Close the terminal, as by the button of its window."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    async def wait_printed(self, text: str) -> None:
        while text.encode() not in self.seen:
            assert await self._read(), f"{text!r} never came; it was {self.seen.decode()!r}"

    async def finish(self) -> list[str]:
        """Read to the end, and return the lines."""
        while await self._read():
            pass
        return self.seen.decode().splitlines()

    async def _read(self) -> bool:
        await trio.lowlevel.wait_readable(self.master)
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # the other side is closed
            return False
        self.seen += data
        return bool(data)


IN_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture
def in_terminal(folder: Path) -> Callable[..., AbstractAsyncContextManager[Terminal]]:
    """Start a command in a terminal; at the end nothing of it may be left."""

    @asynccontextmanager
    async def started(*arguments: str, **variables: str) -> AsyncIterator[Terminal]:
        environment = {**os.environ, "TMPDIR": str(folder), **variables}
        master, slave = pty.openpty()
        with trio.fail_after(GUARD_SECONDS):
            process = await trio.lowlevel.open_process(
                [sys.executable, "-c", IN_TERMINAL, *command_line(arguments)[1:]],
                cwd=folder,
                env=environment,
                stdin=slave,
                stdout=slave,
                stderr=slave,
            )
            os.close(slave)
            terminal = Terminal(process, master)
            try:
                yield terminal
            finally:
                with trio.CancelScope(shield=True):
                    process.kill()
                    await process.wait()
                    terminal.close()
            await all_gone(folder, 10)

    return started


async def all_gone(folder: Path, seconds: float) -> None:
    """Wait until nothing of a command is left."""
    with trio.move_on_after(seconds):
        while live_children_of_init_with(f"TMPDIR={folder}\0"):  # noqa: ASYNC110  # no event tells
            await trio.sleep(0.02)
    assert not live_children_of_init_with(f"TMPDIR={folder}\0")


@pytest.fixture
def file(folder: Path) -> Callable[..., str]:
    """Write a file of services, and the entries that they may have."""
    entries = {
        "patient.py": PATIENT,
        "stubborn.py": STUBBORN,
        "brief.py": BRIEF,
        "crashing.py": CRASHING,
        "says_all.py": SAYS_ALL,
        "once.py": ONCE,
        "counting.py": COUNTING,
        "flood.py": FLOOD,
        "never_ready.py": "import trio\nasync def run(process):\n    await trio.sleep_forever()\n",
    }
    for name, text in entries.items():
        (folder / name).write_text(text, encoding="utf-8")

    def written(text: str) -> str:
        (folder / "up.toml").write_text(text, encoding="utf-8")
        return "up.toml"

    return written


def words(line: str) -> str:
    """Return a line without its time, and without more space than one."""
    time, *others = line.split()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d\d\d", time), line
    return " ".join(others)


def told(lines: list[str], what: str) -> list[str]:
    """List the services that have said something, in its order."""
    return [words(line).split()[0] for line in lines if words(line).split(" ", 1)[1].startswith(what)]


# ---- what it prints


@pytest.mark.slow
def test_each_service_starts_when_the_one_before_is_ready_and_all_end_by_themselves(folder, file, run) -> None:
    done = run("up", file('[services.one]\nentry = "brief.py"\n[services.second]\nentry = "brief.py"\n'))
    assert (done.status, done.stderr) == (0, "")
    lines = [words(line) for line in done.lines]
    assert lines.index("one * running") < lines.index("second * starting")
    for name in ("one", "second"):
        own = [line.partition(" ")[2] for line in lines if line.startswith(name)]
        assert sorted(own) == ['* completed result "done"', "* running", "* starting", '> "hello"']
        assert own[-1].startswith("* completed"), "an end is told after all messages"
    assert len({line.index(line.split()[2]) for line in done.lines}) == 1, "names are aligned"


def test_what_the_file_says_reaches_the_service_and_what_it_prints_is_shown(folder, file, run) -> None:
    (folder / "data").mkdir()
    done = run(
        "up",
        file("""
[services.db]
entry = "says_all.py"
payload = { size = 3, names = ["a", "b"] }
environment = { PORT = "5432" }
arguments = ["--fast", "1"]
folder = "data"
key = "main"
"""),
    )
    assert done.status == 0, done.stderr
    lines = [words(line) for line in done.lines]
    assert "db | {'size': 3, 'names': ['a', 'b']} ['--fast', '1'] 5432 data main" in lines
    assert "db ! careful" in lines
    assert 'db > {"n": 1}' in lines
    assert "\x1b" not in done.stdout, "colours are for terminals"


async def test_in_a_terminal_each_service_has_a_colour(file, in_terminal) -> None:
    async with in_terminal("up", file(THREE), NO_COLOR="") as terminal:
        await terminal.wait_printed("here is frontend")
        terminal.press_ctrl_c()
        lines = await terminal.finish()
    colours = {re.match(r"\x1b\[(\d+)m[\d:.]+ (\w+)", line) for line in lines if "*" in line}
    assert {match.group(2): match.group(1) for match in colours if match} == {"db": "36", "api": "33", "frontend": "32"}


async def test_no_color_turns_colours_off(file, in_terminal) -> None:
    async with in_terminal("up", file(THREE), NO_COLOR="1") as terminal:
        await terminal.wait_printed("here is frontend")
        terminal.press_ctrl_c()
        assert "\x1b" not in "".join(await terminal.finish())


@pytest.mark.parametrize("only", [["--only", "three,one"], ["--only", "three", "--only", "one"]])
def test_only_those_that_are_named_start(file, run_here, only: list[str]) -> None:
    text = "".join(f'[services.{name}]\nentry = "brief.py"\n' for name in ("one", "two", "three"))
    done = run_here("up", file(text), *only)
    assert done.status == 0, done.stderr
    assert told(done.lines, "* starting") == ["one", "three"], "in the order of the file"


@pytest.mark.slow
def test_a_burst_of_lines_is_shown_whole(folder, file, run) -> None:
    text = "def run(process):\n    process.ready()\n    print('\\n'.join(map(str, range(900))))\n"
    (folder / "burst.py").write_text(text, encoding="utf-8")
    done = run("up", file('[services.db]\nentry = "burst.py"\n'))
    assert [words(line) for line in done.lines if "|" in line] == [f"db | {number}" for number in range(900)]


# ---- what ends it


async def test_ctrl_c_stops_all_in_reverse_order(file, in_terminal) -> None:
    async with in_terminal("up", file(THREE), NO_COLOR="1") as terminal:
        await terminal.wait_printed("here is frontend")
        terminal.press_ctrl_c()
        lines = [line.removeprefix("^C") for line in await terminal.finish()]  # the terminal shows the key
        assert await terminal.process.wait() == 130
    stops = [words(line) for line in lines if re.search(r"stopping|asked|completed|stopped", line)]
    assert [line.split()[0] for line in stops] == ["frontend"] * 3 + ["api"] * 3 + ["db"] * 3
    assert stops[0].startswith("frontend * stopping")
    assert stops[1] == 'frontend > "asked to stop"'
    assert stops[2].startswith("frontend * completed")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_stops_all_in_reverse_order(file, start, number: signal.Signals, status: int) -> None:
    async with start("up", file(THREE)) as command:
        await command.wait_printed("here is frontend")
        command.signal(number)
        done = await command.finish()
    assert (done.status, done.stderr) == (status, "")
    assert told(done.lines, "* completed") == ["frontend", "api", "db"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["up", "up.toml"], ["run", "patient.py"]])
def test_a_signal_gives_its_status_though_stderr_is_closed(folder, file, words: list[str]) -> None:
    file('[services.db]\nentry = "patient.py"\n')
    with subprocess.Popen(
        ["bash", "-c", 'exec "$@" 2>&-', "bash", *command_line(words)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as command:
        assert command.stdout is not None
        while b"running" not in (line := command.stdout.readline()):
            assert line, "it ended before"
        command.terminate()
        assert "Traceback" not in command.stdout.read().decode()
        assert command.wait(GUARD_SECONDS) == 143


async def test_a_signal_while_services_start_stops_those_that_run(file, start) -> None:
    text = '[services.db]\nentry = "patient.py"\n[services.slow]\nentry = "never_ready.py"\nstartup_timeout = 100\n'
    async with start("up", file(text + '[services.last]\nentry = "patient.py"\n')) as command:
        await command.wait_printed("slow * starting")
        command.signal(signal.SIGTERM)
        done = await command.finish()
    assert done.status == 143
    assert told(done.lines, "* completed") == ["db"]
    assert told(done.lines, "* stopped") == ["slow"]
    assert not told(done.lines, "* starting")[2:]


async def test_the_second_signal_kills(file, start) -> None:
    text = "".join(f'[services.{name}]\nentry = "stubborn.py"\ngrace_period = 3600\n' for name in ("one", "two"))
    async with start("up", file(text)) as command:
        await command.wait_printed("two * running")
        command.signal(signal.SIGINT)
        await command.wait_printed('"asked"')
        command.signal(signal.SIGINT)
        done = await command.finish()
    assert done.status == 130
    assert told(done.lines, "* stopped") in (["one", "two"], ["two", "one"])


async def test_a_closed_terminal_leaves_nothing(folder, file, in_terminal) -> None:
    """As with `run`, the command itself ends at once, and what it has started with it."""
    async with in_terminal("up", file(THREE)) as terminal:
        await terminal.wait_printed("here is frontend")
        terminal.close()
        with trio.fail_after(7):
            await terminal.process.wait()
            await all_gone(folder, 7)


async def test_a_killed_command_leaves_nothing(folder, file, start) -> None:
    async with start("up", file(THREE.replace("patient", "stubborn"))) as command:
        await command.wait_printed("frontend * running")
        command.signal(signal.SIGKILL)
        with trio.fail_after(7):
            await command.wait()
            await all_gone(folder, 7)


async def test_services_that_do_not_stop_take_one_grace_period_in_all(folder, file, start) -> None:
    """Each is asked, though the others have not ended."""
    text = THREE.replace("patient.py", "stubborn.py").replace('y"\n', 'y"\ngrace_period = 1\n')
    async with start("up", file(text)) as command:
        await command.wait_printed("frontend * running")
        began = trio.current_time()
        command.signal(signal.SIGTERM)
        done = await command.finish()
        assert trio.current_time() - began < 3
    assert done.status == 143
    assert told(done.lines, '> {"asked": ')[0] == "frontend"
    assert set(told(done.lines, '> {"asked": ')) == {"db", "api", "frontend"}


@pytest.mark.slow
def test_the_others_take_one_grace_period_in_all_when_one_gives_up(file, run) -> None:
    text = THREE.replace("patient.py", "stubborn.py").replace('y"\n', 'y"\ngrace_period = 1\n')
    done = run(
        "up",
        file("restart = { give_up_after = 1 }\n" + text + '[services.last]\nentry = "crashing.py"\ngrace_period = 1\n'),
    )
    assert done.status == 1
    asked, killed = (
        [line for line in done.lines if re.search(f"(db|api|frontend) +{sign}", line)]
        for sign in ('> {"asked"', r"\* stopped")
    )
    assert len(asked) == len(killed) == 3
    seconds = [float(line.split()[0].rpartition(":")[2]) for line in (asked[0], killed[-1])]
    assert (seconds[1] - seconds[0]) % 60 < 3


@pytest.mark.slow
async def test_a_reader_that_pauses_holds_up_neither_watching_nor_ending(file, start) -> None:
    text = '[services.db]\nentry = "stubborn.py"\ngrace_period = 3600\n[services.flood]\nentry = "flood.py"\n'
    async with start("up", file(text)) as command:
        await command.wait_printed("xxx")
        command.signal(signal.SIGINT)
        command.signal(signal.SIGTERM)
        assert await command.wait() in (130, 143)  # the two may be heard in either order


def test_a_reader_that_goes_away_ends_all(folder, file) -> None:
    name = file(THREE + '[services.flood]\nentry = "flood.py"\n')
    script = f'"{sys.executable}" -m spindle_trio up {name} | head -n 3; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False, timeout=GUARD_SECONDS
    )
    assert (done.returncode, done.stderr) == (141, "")
    assert len(done.stdout.splitlines()) == 3


# ---- restarts


@pytest.mark.slow
def test_a_crash_loop_ends_all_with_the_status_and_the_reason_of_the_one_that_gave_up(file, run) -> None:
    text = """
restart = { give_up_after = 3, delay = 0.05 }
[services.db]
entry = "patient.py"
[services.api]
entry = "crashing.py"
[services.web]
entry = "patient.py"
"""
    done = run("up", file(text))
    assert done.status == 1
    assert told(done.lines, "* failed") == ["api"] * 3
    assert told(done.lines, "* next start in 0.") == ["api"] * 2
    assert told(done.lines, "* completed") == ["web", "db"], "the others stop in reverse"
    said = done.stderr.splitlines()
    assert said[0].startswith("ValueError: no luck")
    assert said[-1].startswith("spindle-trio up: api: the group has given up after 3 failure")
    assert "ValueError: no luck" in said[-1]


async def test_a_failure_takes_along_what_the_strategy_says(folder, file, start) -> None:
    text = """
strategy = "rest_for_one"
restart = { delay = 0.05 }
[services.db]
entry = "patient.py"
[services.api]
entry = "once.py"
[services.web]
entry = "counting.py"
"""
    async with start("up", file(text)) as command:
        await command.wait_printed("start 1")
        (folder / "go").touch()
        await command.wait_printed("start 2")
        command.signal(signal.SIGTERM)
        done = await command.finish()
    assert told(done.lines, "* starting") == ["db", "api", "web", "api", "web"]
    assert told(done.lines, "* failed") == ["api"]
    assert told(done.lines, "* completed") == ["web", "web", "api", "db"]


def test_a_crash_loop_of_missed_deadlines_is_124(folder, file, run_here) -> None:
    (folder / "wedged.py").write_text(
        "def run(process):\n    process.ready()\n    while True: pass\n", encoding="utf-8"
    )
    text = 'restart = { give_up_after = 1 }\n[services.api]\nentry = "wedged.py"\nheartbeat_timeout = 0.3\n'
    assert run_here("up", file(text)).status == 124


def test_a_service_that_failed_and_is_not_restarted_gives_its_status_when_all_are_over(file, run_here) -> None:
    text = '[services.a]\nentry = "crashing.py"\nrestart = "never"\n[services.b]\nentry = "brief.py"\n'
    done = run_here("up", file(text))
    assert done.status == 1
    assert told(done.lines, "* completed") == ["b"], "the other goes on"


def test_a_first_start_that_fails_stops_those_before_it(folder, file, run_here) -> None:
    (folder / "broken.py").write_text("raise ValueError('no luck')\n", encoding="utf-8")
    done = run_here("up", file('[services.db]\nentry = "patient.py"\n[services.api]\nentry = "broken.py"\n'))
    assert done.status == 1
    assert told(done.lines, "* completed") == ["db"]
    assert "spindle-trio up: api did not start: " in done.stderr
    assert "ValueError: no luck" in done.stderr


# ---- what is refused


def refused(done) -> str:
    assert (done.status, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up"], "type: spindle-trio up FILE.toml"),
        (["up", "nowhere.toml"], "spindle-trio up: nowhere.toml cannot be read: No such file or directory; type: "),
        (["up", "up.toml", "--only", "dbb"], "--only: there is no service dbb (did you mean db?); there are db, api a"),
        (["up", "up.toml", "--only", "db,"], "--only db,api"),
        (["up", "up.toml", "--olny", "db"], "type: --only"),
    ],
)
def test_wrong_words_are_refused(file, run_here, arguments: list[str], said: str) -> None:
    file(THREE)
    assert said in refused(run_here(*arguments))


def test_a_wrong_file_is_refused_with_a_line_for_each_thing(file, run_here) -> None:
    done = run_here("up", file(THREE + "entyr = 3\nkey = 4\n"))
    assert (done.status, done.stdout) == (2, "")
    assert [line.partition(" is ")[0] for line in done.stderr.splitlines()] == [
        "spindle-trio up: up.toml:8: services.frontend.entyr",
        "spindle-trio up: up.toml:9: services.frontend.key",
    ]


def test_an_entry_that_leads_out_of_the_root_is_refused_and_what_runs_is_stopped(folder, file, run_here) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "link.py").symlink_to(folder / "brief.py")
    (folder / "inner" / "patient.py").write_text(PATIENT, encoding="utf-8")
    text = 'root = "inner"\n[services.db]\nentry = "patient.py"\n[services.api]\nentry = "link.py"\n'
    done = run_here("up", file(text))
    assert done.status == 2
    assert told(done.lines, "* completed") == ["db"]
    assert "spindle-trio up: api was refused: " in done.stderr


# ---- its description


def test_the_help_and_the_page_have_each_field(run_here) -> None:
    page = (Path(__file__).parents[2] / "notes" / "services.md").read_text(encoding="utf-8")
    section = page.partition("## The file of `up`")[2].partition("\n## ")[0]
    for name in (
        *("root", "strategy", "restart", "entry", "payload", "environment", "arguments", "folder", "key"),
        *("startup_timeout", "heartbeat_timeout", "grace_period"),
    ):
        assert f"{name} = " in run_here("up", "--help").stdout
        assert f"`{name}`" in section


@pytest.mark.slow
async def test_a_program_is_a_service_with_its_readiness_limits_and_sandbox(folder, file, start) -> None:
    """Its output, its end and its restart are told as those of an entry."""
    text = """
restart = { when = "on_failure", delay = 0.01 }
[services.server]
command = ["sh", "-c", "echo up; touch there || echo kept out; sleep 600 & wait"]
ready = { line = "kept out" }
limits = { run_seconds = 1000 }
sandbox = "read-only"
[services.second]
entry = "patient.py"
"""
    async with start("up", file(text)) as command:
        await command.wait_printed("second * running")
        command.signal(signal.SIGTERM)
        done = await command.finish()
    assert done.status == 143
    assert told(done.lines, "| up") == told(done.lines, "| kept out") == ["server"]
    assert told(done.lines, "* stopping") == ["second", "server"]
    assert not (folder / "there").exists()
