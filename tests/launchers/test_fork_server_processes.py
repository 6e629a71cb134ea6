"""Processes of a fork server that are cancelled, end in a burst, outlive what they should, or are hostile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio

from spindle_trio import Containment, LaunchError
from spindle_trio.launchers._local import _containment, _process_pool, _server_launcher
from support.fork_server import BUSY, ENDS, WAITS, children_of, fork_host, state_of, wait_until
from support.leftovers import open_descriptors

pytestmark = pytest.mark.usefixtures("no_survivors")


# ---- cancellation


@pytest.mark.parametrize("spares", [0, 2])
async def test_a_spawn_that_is_cancelled_at_any_moment_leaves_nothing(tmp_path: Path, spares: int) -> None:
    async with fork_host(tmp_path, spares=spares) as forked:
        (tmp_path / "entry.py").write_text(WAITS)
        await forked.wait_spares(spares)
        before = len(open_descriptors())

        async def cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            scope.cancel()

        for checkpoints in range(40):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, checkpoints, nursery.cancel_scope)
                await forked.worker.backend_processes.spawn("entry.py")
                await trio.sleep_forever()
            assert [info for info in await forked.worker.backend_processes.list() if info.state == "starting"] == []
            for info in await forked.worker.backend_processes.list():
                await forked.worker.backend_processes.stop(info.process_id)
        for step in range(40):
            with trio.move_on_after(step * 0.0002):
                await forked.worker.backend_processes.spawn("entry.py")
            for info in await forked.worker.backend_processes.list():
                await forked.worker.backend_processes.stop(info.process_id)
        await forked.wait_spares(spares)
        await wait_until(lambda: len(children_of(forked.server_pid)) == spares and len(open_descriptors()) == before)


async def test_a_hundred_spawns_at_once_a_third_of_them_cancelled(tmp_path: Path) -> None:
    async with fork_host(tmp_path, spares=3) as forked:
        (tmp_path / "entry.py").write_text(WAITS)
        await forked.wait_spares(3)
        before = len(open_descriptors())
        ready = 0

        async def spawn(number: int) -> None:
            nonlocal ready
            with trio.CancelScope() as scope:
                if number % 3 == 0:
                    scope.deadline = trio.current_time() + number * 0.001
                await forked.worker.backend_processes.spawn("entry.py")
                ready += 1

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(spawn, number)
        assert ready >= 66
        assert len(await forked.worker.backend_processes.list(state="running")) == ready
        await forked.wait_spares(3)
        await wait_until(lambda: len(children_of(forked.server_pid)) == ready + 3)
        async with trio.open_nursery() as nursery:
            for info in await forked.worker.backend_processes.list():
                nursery.start_soon(forked.worker.backend_processes.stop, info.process_id)
        await wait_until(lambda: len(children_of(forked.server_pid)) == 3 and len(open_descriptors()) == before)


@pytest.mark.slow
async def test_statuses_are_known_although_the_server_is_busy_with_a_burst(tmp_path: Path) -> None:
    """It answers in turn, and a process is reaped behind all that were asked for before."""
    async with fork_host(tmp_path) as forked:
        (tmp_path / "entry.py").write_text("import os\ndef run(process):\n    process.ready()\n    os._exit(3)")
        errors: list[str | None] = []

        async def spawn() -> None:
            handle = await forked.worker.backend_processes.spawn("entry.py")
            await handle.wait_ended()
            errors.append(handle.info.error)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(spawn)
        assert [error for error in errors if "exited with code 3" not in str(error)] == []


# ---- ends


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("os._exit(3)", "exited with code 3"),
        ("os._exit(255)", "exited with code 255"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("os.kill(os.getpid(), 15)", "killed by SIGTERM"),
        ("os.abort()", "killed by SIGABRT"),
        ("ctypes.string_at(0)", "killed by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 1)", "killed by SIGRTMIN+1"),
    ],
)
async def test_an_end_without_a_word_is_told_as_the_system_tells_it(tmp_path: Path, statement: str, told: str) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await forked.spawn(
            f"import ctypes, os, signal\ndef run(process):\n    process.ready()\n    {statement}"
        )
        await handle.wait_ended()
    assert told in str(handle.info.error)


@pytest.mark.slow
@pytest.mark.parametrize("number", [60, 180])
async def test_processes_that_have_ended_leave_nothing_in_the_server_and_the_host(tmp_path: Path, number: int) -> None:
    def size(pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async with fork_host(tmp_path, spares=2) as forked:

        async def cycle(number: int) -> None:
            (tmp_path / "entry.py").write_text(ENDS)
            for _ in range(number):
                handle = await forked.worker.backend_processes.spawn("entry.py")
                await handle.wait_ended()
            await forked.wait_spares(2)
            await wait_until(lambda: len(children_of(forked.server_pid)) == 2)
            await wait_until(lambda: state_of(forked.server_pid) == "S")  # it has closed what it handed over
            await trio.testing.wait_all_tasks_blocked()

        await cycle(20)
        server = Path(f"/proc/{forked.server_pid}/fd")
        before, server_before, memory = len(open_descriptors()), len(list(server.iterdir())), size(forked.server_pid)
        await cycle(number)
        assert len(open_descriptors()) == before
        assert len(list(server.iterdir())) == server_before
        assert size(forked.server_pid) - memory < 256 * 1024


# ---- processes


@pytest.mark.slow
async def test_a_process_that_withstands_its_kill_is_reaped_by_the_server_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Simulated, as for the exec launcher."""
    async with fork_host(tmp_path) as forked:
        handle = await forked.spawn(BUSY)
        pid = handle._process.record.launched.pid  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            for tree in (_containment.NamespaceTree, _containment.ControlGroupTree, _containment.GroupTree):
                patch.setattr(tree, "kill", lambda tree: None)
            await handle.stop()
        assert f"(pid {pid}) survived SIGKILL" in caplog.text or "abandoned" in str(handle.info.error)
        assert state_of(pid) == "R"
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: children_of(forked.server_pid) == [])


@pytest.mark.parametrize("server", ["", "os.kill(launcher.server_pid, signal.SIGSTOP)"])
def test_nothing_is_left_of_a_host_that_was_killed_with_busy_processes(tmp_path: Path, server: str) -> None:
    """The fixture gives them two seconds (reliability, rows 1 and 2)."""
    (tmp_path / "entry.py").write_text(BUSY)
    (tmp_path / "in_c.py").write_text("def run(process):\n    process.ready()\n    sum(range(10**15))")
    (tmp_path / "in_trio.py").write_text("async def run(process):\n    process.ready()\n    while True: pass")
    (tmp_path / "host.py").write_text(
        textwrap.dedent(f"""
        import os, signal, sys, trio
        from spindle_trio import ForkServerLauncher, open_host
        async def main():
            launcher = ForkServerLauncher(spares=2)
            async with open_host(launcher) as host, host.open_worker("w", root=sys.argv[1], user_id="ada") as worker:
                for entry in ("entry.py", "in_c.py", "in_trio.py", "entry.py"):
                    await worker.backend_processes.spawn(entry, heartbeat_timeout=float("inf"))
                {server or "pass"}
                print("up", flush=True)
                await trio.sleep_forever()
        trio.run(main)
    """)
    )
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "host.py"), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "up\n"
        host.kill()


HOSTILE = {
    "closes everything": "os.closerange(0, 256)\n    while True: pass",
    "closes its lanes": "os.closerange(3, 256)\n    while True: pass",
    "kills its server": "os.kill(os.getppid(), 9)\n    while True: pass",
    "double-forks": "if os.fork() == 0:\n        os.fork()\n        while True: pass\n    os._exit(3)",
    "stops itself": "os.kill(os.getpid(), 19)",
    "ignores what it can": "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)]\n    while True: pass",
    "takes another user": "os.geteuid() == 0 and os.setuid(65534)\n    while True: pass",
    "becomes another program": "os.execv(sys.executable, [sys.executable, '-S', '-c', 'while True: pass'])",
    "takes its server's signals": "os.kill(os.getppid(), 2)\n    while True: pass",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "what"),
    [
        *[("def", what) for what in HOSTILE],
        *[("async def", what) for what in ("closes everything", "double-forks", "kills its server")],
    ],
)
async def test_what_a_hostile_process_does_is_bounded_and_hurts_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, what: str
) -> None:
    monkeypatch.setattr(_server_launcher, "FIRST_PAUSE", 0.01)
    async with fork_host(tmp_path, preload=("trio",), spares=1, seconds=15) as forked:
        source = f"import os, signal, sys\n{head} run(process):\n    process.ready()\n    {HOSTILE[what]}"
        handle = await forked.spawn(source, heartbeat_timeout=0.5)
        await handle.wait_ended()
        assert handle.state in ("failed", "timed_out")
        assert forked.ends() == [handle.process_id]
        await wait_until(lambda: forked.launcher.server_pid is not None)
        assert await forked.result(ENDS) is None


@pytest.mark.slow
async def test_a_process_that_stops_its_server_holds_up_later_ones_until_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it can: in a namespace a process has no pid for processes outside."""
    monkeypatch.setattr(_process_pool, "ANSWER_SECONDS", 0.2)
    async with fork_host(tmp_path, containment=Containment.KILLPG) as forked:
        handle = await forked.spawn("import os\ndef run(process):\n    process.ready()\n    os.kill(os.getppid(), 19)")
        await handle.wait_ended()
        assert handle.state == "completed"
        with pytest.raises(LaunchError, match="has not answered"):
            await forked.spawn(ENDS)
        os.kill(forked.server_pid, signal.SIGCONT)
        assert await forked.result(ENDS) is None


@pytest.mark.quick(1)
@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("head", ["def", "async def"])
async def test_a_forked_copy_of_a_process_that_comes_out_of_the_entry_says_nothing(
    tmp_path: Path, head: str, spares: int
) -> None:
    async with fork_host(tmp_path, preload=("trio",), spares=spares) as forked:
        await forked.wait_spares(spares)
        source = f"""
import os
{head} run(process):
    process.ready()
    copy = os.fork()
    if copy == 0:
        return "the copy"
    os.waitpid(copy, 0)
    return "the process"
"""
        assert await forked.result(source) == "the process"


FORKS_AT_THE_MODULE_LEVEL = """
import os, sys
copy = os.fork()
if copy == 0:
    sys.exit(5)
status = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
{head} run(process):
    process.ready()
    return status
"""

FORKS_AND_GOES_ON = """
import os, sys, trio
async def run(process):
    channel = process.messages()
    process.ready()
    await channel.receive()
    copy = os.fork()
    if copy == 0:
        {end}
    status = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
    answer = await trio.to_thread.run_sync(lambda: "from a thread")
    notice = await channel.receive()
    return [status, answer, notice]
"""


@pytest.mark.quick(1)
@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("head", ["def", "async def"])
async def test_a_forked_copy_that_comes_out_of_the_entrys_file_ends_there(
    tmp_path: Path, head: str, spares: int
) -> None:
    async with fork_host(tmp_path, preload=("trio",), spares=spares) as forked:
        await forked.wait_spares(spares)
        assert await forked.result(FORKS_AT_THE_MODULE_LEVEL.format(head=head)) == 5


@pytest.mark.quick(1)
@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize(
    ("end", "status"),
    [("sys.exit(5)", 5), ("sys.exit()", 0), ("return 'the copy'", 0), ("raise ValueError('of the copy')", 1)],
)
async def test_a_forked_copy_that_comes_out_of_an_async_entry_leaves_the_process_its_ears(
    tmp_path: Path, end: str, status: int, spares: int
) -> None:
    """The copy shares the instance of epoll that the process waits with, and must not unregister anything there."""
    async with fork_host(tmp_path, preload=("trio",), spares=spares) as forked:
        await forked.wait_spares(spares)
        handle = await forked.spawn(FORKS_AND_GOES_ON.format(end=end))
        await handle.send("fork")
        await handle.send("go on")
        await handle.wait_ended()
        assert handle.result == [status, "from a thread", "go on"], handle.info.error


async def test_a_process_cannot_leave_its_session(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        with pytest.raises(AssertionError, match="PermissionError"):
            await forked.result("import os\ndef run(process):\n    process.ready()\n    os.setsid()")
