"""Rule 3 of the contract, as a person at a keyboard meets it: whole programs that get SIGINT, once and twice.

The same programs on both kinds of process, in real time for both: a signal has no place in virtual time.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

POLITE = """
import trio

async def run(process):
    process.ready()
    try:
        await trio.sleep_forever()
    finally:
        process.send_nowait("cleaned up")
"""

STUBBORN = """
import trio

async def run(process):
    process.on_stop(lambda notice: process.send_nowait("was told"))
    process.ready()
    await trio.sleep_forever()
"""

NEVER_READY = """
import trio

async def run(process):
    process.on_stop(lambda notice: None)
    process.send_nowait("begun")
    await trio.sleep_forever()
"""

PROGRAM = """
import json, sys, trio
from pathlib import Path
from types import ModuleType
from spindle_trio import open_host
from spindle_trio.launchers import PythonLauncher
from spindle_trio.testing import MemoryLauncher

ROOT = Path(__file__).parent / "entries"

def load(path):
    module = ModuleType(path.stem)
    exec(path.read_text(), module.__dict__)
    return module.run

def launcher(kind):
    if kind == "python":
        return PythonLauncher()
    return MemoryLauncher({{path.name: load(path) for path in ROOT.glob("*.py")}})

def say(**what):
    print(json.dumps(what), flush=True)

def follow(worker):
    processes = worker.backend_processes
    processes.on_lifecycle(lambda event: say(state=event.state, reason=event.exit_reason))
    processes.on_message(lambda message: say(message=message.payload))

async def main():
    {body}

try:
    trio.run(main)
except BaseException as error:
    say(raised=type(error).__name__)
    raise
"""

WAITS = """
    async with open_host(launcher(sys.argv[1]), grace_period=float(sys.argv[2])) as host:
        async with host.open_worker("tests", root=ROOT, user_id="ada") as worker:
            follow(worker)
            for entry in sys.argv[3:]:
                handle = await worker.backend_processes.spawn(entry)
                say(pid=handle.pid)
            say(spawned=True)
            await trio.sleep_forever()
"""

LEAVES = WAITS.replace("await trio.sleep_forever()", "pass")

TWO_WORKERS = """
    async with (
        open_host(launcher(sys.argv[1]), grace_period=float(sys.argv[2])) as host,
        host.open_worker("first", root=ROOT, user_id="ada") as first,
        host.open_worker("second", root=ROOT, user_id="bob") as second,
    ):
        for worker in (first, second):
            follow(worker)
            handle = await worker.backend_processes.spawn(sys.argv[3])
            say(pid=handle.pid)
        say(spawned=True)
        await trio.sleep_forever()
"""

SPAWNS = """
    async with open_host(launcher(sys.argv[1]), grace_period=float(sys.argv[2])) as host:
        async with host.open_worker("tests", root=ROOT, user_id="ada") as worker:
            follow(worker)
            await worker.backend_processes.spawn(sys.argv[3])
"""

IN_A_NURSERY = """
    async def use(task_status=trio.TASK_STATUS_IGNORED):
        async with host.open_worker("tests", root=ROOT, user_id="ada") as worker:
            follow(worker)
            handle = await worker.backend_processes.spawn(sys.argv[3])
            say(pid=handle.pid)
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with open_host(launcher(sys.argv[1]), grace_period=float(sys.argv[2])) as host:
            await nursery.start(use)
            say(spawned=True)
            await trio.sleep_forever()
"""


GROUP = """
    from spindle_trio import open_group

    async with (
        open_host(launcher(sys.argv[1]), grace_period=float(sys.argv[2])) as host,
        host.open_worker("tests", root=ROOT, user_id="ada") as worker,
        open_group(worker) as group,
    ):
        follow(worker)
        for entry in sys.argv[3:]:
            service = await group.start(entry, name=str(len(group.services)))
            say(pid=service.process.pid)
        say(spawned=True)
        await trio.sleep_forever()
"""


class Program:
    """A program under way, the lines that it has printed, and the processes that it has named."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[dict[str, object]] = []
        self._rest = b""

    async def wait_for(self, **wanted: object) -> None:
        """Read until the program has printed this."""
        while wanted.items() - {item for line in self.lines for item in line.items()}:
            assert await self._read(), f"it has ended without {wanted}: {self.lines}"

    async def wait(self) -> int:
        """Read to the end, and return the exit status."""
        while await self._read():
            pass
        return await self.process.wait()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def said(self, name: str) -> list[object]:
        return [line[name] for line in self.lines if name in line]

    async def _read(self) -> bool:
        assert self.process.stdout is not None
        data = await self.process.stdout.receive_some()
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.lines += map(json.loads, lines)
        return bool(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    entries = tmp_path / "entries"
    entries.mkdir()
    for name, source in {"polite": POLITE, "stubborn": STUBBORN, "never": NEVER_READY}.items():
        (entries / f"{name}.py").write_text(source)
    return tmp_path


@asynccontextmanager
async def running(folder: Path, body: str, *arguments: str) -> AsyncIterator[Program]:
    """Run a program; afterwards no process that it has named may be left."""
    file = folder / "program.py"
    file.write_text(PROGRAM.format(body=textwrap.dedent(body).strip().replace("\n", "\n    ")))
    with (folder / "stderr").open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            [sys.executable, str(file), *arguments], stdout=subprocess.PIPE, stderr=stderr
        )
    program = Program(process)
    try:
        with trio.fail_after(20):
            yield program
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
    for pid in program.said("pid"):
        assert pid is None or not Path(f"/proc/{pid}").exists()


@pytest.fixture(params=["python", pytest.param("memory", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def assert_interrupted(program: Program, folder: Path, status: int) -> None:
    """It has ended as Python programs do that Ctrl-C has ended, with the bare exception."""
    assert status == -signal.SIGINT
    assert program.said("raised") == ["KeyboardInterrupt"]
    assert b"ExceptionGroup" not in (folder / "stderr").read_bytes()


async def test_one_ctrl_c_is_a_graceful_end(folder: Path, kind: str) -> None:
    """Clean-up code runs, and a stubborn process has the grace period."""
    async with running(folder, WAITS, kind, "0.5", "polite.py", "stubborn.py") as program:
        await program.wait_for(spawned=True)
        asked_at = trio.current_time()
        program.interrupt()
        await program.wait_for(message="was told")
        status = await program.wait()
        assert 0.5 <= trio.current_time() - asked_at < 0.5 + 2
        assert_interrupted(program, folder, status)
        assert sorted(program.said("message")) == ["cleaned up", "was told"]
        assert program.said("reason")[-2:] == ["backend_unloaded"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param(WAITS, "memory", marks=pytest.mark.slow, id="in one task, in memory"),
        pytest.param(WAITS, "python", id="in one task"),
        pytest.param(IN_A_NURSERY, "python", id="with the worker in another task"),
    ],
)
async def test_a_second_ctrl_c_while_leaving_skips_the_grace_period(folder: Path, kind: str, body: str) -> None:
    async with running(folder, body, kind, "60", "stubborn.py") as program:
        await program.wait_for(spawned=True)
        program.interrupt()
        await program.wait_for(message="was told")
        asked_at = trio.current_time()
        program.interrupt()
        status = await program.wait()
        assert trio.current_time() - asked_at < 2
        if body is WAITS:  # a program's own nursery makes a group of it
            assert_interrupted(program, folder, status)
        assert program.said("reason")[-1] == "backend_unloaded"


@pytest.mark.slow
async def test_a_group_stops_in_reverse_at_one_ctrl_c_and_is_killed_by_the_second(folder: Path, kind: str) -> None:
    async with running(folder, GROUP, kind, "60", "stubborn.py", "stubborn.py", "polite.py") as program:
        await program.wait_for(spawned=True)
        program.interrupt()
        await program.wait_for(message="was told")
        assert program.said("message") == ["cleaned up", "was told"]
        assert program.said("state")[-3:] == ["stopping", "stopped", "stopping"]
        asked_at = trio.current_time()
        program.interrupt()
        status = await program.wait()
        assert trio.current_time() - asked_at < 2
        assert_interrupted(program, folder, status)


async def test_a_second_ctrl_c_reaches_the_processes_of_all_workers(folder: Path) -> None:
    """Their blocks are left one after another, and only the innermost is being left when it comes.

    In memory only: it is about who is told, and what a kill does to real processes others show.
    """
    async with running(folder, TWO_WORKERS, "memory", "60", "stubborn.py") as program:
        await program.wait_for(spawned=True)
        program.interrupt()
        await program.wait_for(message="was told")
        program.interrupt()
        asked_at = trio.current_time()
        status = await program.wait()
        assert trio.current_time() - asked_at < 2
        assert_interrupted(program, folder, status)
        assert program.said("reason").count("backend_unloaded") == 2


@pytest.mark.slow
async def test_when_it_leaves_by_itself_it_takes_two_as_well(folder: Path, kind: str) -> None:
    """The first Ctrl-C while the block is left may be one for the program; the second skips the grace period."""
    async with running(folder, LEAVES, kind, "60", "stubborn.py") as program:
        await program.wait_for(message="was told")
        program.interrupt()
        with trio.move_on_after(0.2) as scope:
            await program.wait()
        assert scope.cancelled_caught
        assert program.said("raised") == []
        program.interrupt()
        asked_at = trio.current_time()
        status = await program.wait()
        assert trio.current_time() - asked_at < 2
        assert_interrupted(program, folder, status)


@pytest.mark.slow
async def test_ctrl_c_in_a_spawn_kills_what_nobody_will_hold(folder: Path, kind: str) -> None:
    """A spawn that is left in whatever way leaves no process, and its caller is gone: no grace period either."""
    async with running(folder, SPAWNS, kind, "60", "never.py") as program:
        await program.wait_for(message="begun")
        asked_at = trio.current_time()
        program.interrupt()
        status = await program.wait()
        assert trio.current_time() - asked_at < 2
        assert_interrupted(program, folder, status)
        assert program.said("state") == ["starting", "stopped"]
        assert program.said("reason")[-1] == "stopped"


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.15])
async def test_ctrl_c_at_any_moment_of_a_start_leaves_no_process(folder: Path, seconds: float) -> None:
    """On real processes: between a fork and its registration there is no gap. What survives would be found by name."""
    async with running(folder, WAITS, "python", "0", "polite.py", "polite.py") as program:
        await program.wait_for(state="starting")
        await trio.sleep(seconds)
        program.interrupt()
        assert await program.wait() == -signal.SIGINT
        for commands in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert str(folder / "entries").encode() not in commands.read_bytes(), commands
            except (FileNotFoundError, ProcessLookupError):
                pass
