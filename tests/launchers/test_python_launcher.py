"""Real processes as the host sees them: what they are given, how they are killed, and that nothing is left of them."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from spindle_trio._linux._shared_page import map_page
from spindle_trio._model import Containment, Limits
from spindle_trio.abc import ExitStatus, LaunchOrder
from spindle_trio.launchers import ForkServerLauncher, PythonLauncher
from spindle_trio.launchers._local import _local_process
from spindle_trio.launchers._local._containment import ControlGroupTree, GroupTree, NamespaceTree
from spindle_trio.launchers._local._heartbeat_page import HeartbeatPage
from spindle_trio.launchers._local._launch_thread import run_in_launch_thread
from support.leftovers import open_descriptors
from support.numbers import outside

if TYPE_CHECKING:
    from conftest import Launch, LaunchWith

pytestmark = pytest.mark.usefixtures("nothing_left")


async def wait_gone(pid: int) -> None:
    """Wait until there is no such process, or it is a zombie that somebody else has to reap."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


# ---- what a process is given


async def test_an_entry_finds_the_surroundings_that_the_contract_names(launch: Launch, tmp_path: Path) -> None:
    async with launch(
        """
        import json, os, sys
        def run(process):
            def is_inherited(fd):
                try:
                    return os.get_inheritable(fd) and fd > 2
                except OSError:
                    return False  # the one that the listing needed itself
            return {
                "cwd": os.getcwd(), "path": sys.path, "argv": sys.argv, "name": __name__, "file": __file__,
                "module": sys.modules[__name__].run is run, "environment": dict(os.environ), "stdin": sys.stdin.read(),
                "session": os.getsid(0) == os.getpid(), "encoding": [sys.stdout.encoding, sys.stderr.errors],
                "inherited": [name for name in os.listdir("/proc/self/fd") if is_inherited(int(name))],
            }
        """,
        entry="dist/word_index.py",
        environment={"LANG": "C", "SPINDLE": "yes"},
    ) as child:
        seen = (await child.frame_of_type("complete"))["result"]
    root = tmp_path.resolve()
    assert seen.pop("path") == [str(root / "dist"), *(str(Path(folder).absolute()) for folder in sys.path)]
    environment = seen.pop("environment")
    environment.pop("LC_CTYPE", None)  # the interpreter's own, if the locale is C
    assert environment == {"LANG": "C", "SPINDLE": "yes"}
    assert seen == {
        "cwd": str(root),
        "argv": ["dist/word_index.py"],
        "name": "word_index",
        "file": str(root / "dist" / "word_index.py"),
        "module": True,
        "stdin": "",
        "session": True,
        "encoding": ["utf-8", "backslashreplace"],
        "inherited": [],
    }


async def test_an_entry_named_like_a_standard_module_takes_nothing_away_from_it(launch: Launch) -> None:
    async with launch(
        """
        import types
        def run(process):
            return [__name__, hasattr(types, "ModuleType")]
    """,
        entry="types.py",
    ) as child:
        assert (await child.frame_of_type("complete"))["result"] == ["types", True]


async def test_an_entry_named_like_a_standard_module_hides_it_from_nobody_who_loads_it_later(launch: Launch) -> None:
    """Trio, for one, which an `async` entry is run by, and which is loaded when the entry has been."""
    async with launch("async def run(process): return __name__", entry="heapq.py") as child:
        assert (await child.frame_of_type("complete"))["result"] == "heapq"


async def test_a_failure_is_told_also_where_a_file_beside_the_entry_hides_a_standard_module(
    launch: Launch, tmp_path: Path
) -> None:
    (tmp_path / "collections.py").write_text("raise RuntimeError('not what you expected')")
    async with launch("def run(process): raise ValueError('no such folder')") as child:
        assert (await child.frame_of_type("fail"))["error"].startswith("ValueError: no such folder")


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def run(process:\n", "SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ValueError('at import')", "ValueError: at import"),
        ("run = 3", "defines neither a callable 'run' nor a callable 'default'"),
        ("# nothing here", "defines neither a callable 'run' nor a callable 'default'"),
    ],
)
async def test_an_entry_that_cannot_be_loaded_fails_with_its_name_and_the_problem(
    launch: Launch, source: str, text: str
) -> None:
    async with launch(source) as child:
        fail, exiting = await child.last_frames()
    assert fail["type"] == "fail"
    assert fail["error"].startswith("the entry 'entry.py' could not be loaded: ")
    assert text in fail["error"]
    assert exiting["code"] == 1


async def test_an_entry_file_that_vanished_after_it_was_resolved_fails(launch: Launch) -> None:
    async with launch("def run(process): ...", vanishes=True) as child:
        assert "FileNotFoundError" in (await child.frame_of_type("fail"))["error"]


@pytest.mark.parametrize(("code", "word"), [("0", ["complete"]), ("4", [])])
async def test_a_system_exit_while_loading_counts_as_one_of_the_entry(
    launch: Launch, code: str, word: list[str]
) -> None:
    async with launch(f"raise SystemExit({code})") as child:
        *frames, exiting = await child.last_frames()
    assert [frame["type"] for frame in frames] == word
    assert exiting["code"] == int(code)


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    "source",
    [
        "def default(process): return 1\ndef run(process): return 2",
        "default = 'not callable'\ndef run(process): return 1",
        "import functools\ndef work(process, number): return number\nrun = functools.partial(work, number=1)",
        "class Run:\n    def __call__(self, process): return 1\nrun = Run()",
        "async def run(process): return 1",
        "import functools\nasync def work(process, number): return number\nrun = functools.partial(work, number=1)",
        "class Run:\n    async def __call__(self, process): return 1\nrun = Run()",
        "class Work:\n    async def go(self, process): return 1\nrun = Work().go",
    ],
)
async def test_each_kind_of_callable_is_called_as_what_it_is(launch: Launch, source: str) -> None:
    async with launch(source) as child:
        assert (await child.frame_of_type("complete"))["result"] == 1


async def test_an_async_entry_hears_a_stop_that_came_in_one_piece_with_the_first_frame(launch: Launch) -> None:
    """Bytes read beyond the first frame go to Trio's side, and are not lost."""
    async with launch("async def run(process): raise RuntimeError", begin=False) as child:
        await child.process.control.send_pending([child.init, b'{"type":"stop","reason":"early"}'])
        assert [frame["type"] for frame in await child.last_frames()] == ["stopped", "exiting"]


async def test_an_async_entry_sends_receives_and_completes(launch: Launch) -> None:
    async with launch("""
        async def run(process):
            process.ready()
            async for message in process.messages():
                await process.send({"echo": message})
                if message == "enough":
                    return "done"
    """) as child:
        await child.frame_of_type("ready")
        assert child.process.last_heartbeat() <= trio.current_time()
        child.send("one")
        child.send("enough")
        assert [await child.payload() for _ in range(2)] == [{"echo": "one"}, {"echo": "enough"}]
        assert (await child.last_frames())[1:] == [
            {"type": "complete", "result": "done", "messages": 2},
            {"type": "exiting", "messages": 2, "code": 0},
        ]


# ---- the end of a process


async def test_exiting_comes_after_threads_atexit_functions_and_output(launch: Launch) -> None:
    async with launch("""
        import atexit, sys, threading, time
        def run(process):
            atexit.register(lambda: (print("at exit"), sys.stdout.write("no newline")))
            go = threading.Event()
            threading.Thread(target=lambda: (go.wait(), print("thread"))).start()
            atexit.register(lambda: 1 / 0)
            go.set()
    """) as child:
        await child.last_frames()
        child.process.kill()
        assert await child.process.wait() == ExitStatus(signal=signal.SIGKILL)
        assert child.process.stdout_tail() == "thread\nat exit\nno newline"
        assert "ZeroDivisionError" in child.process.stderr_tail()


async def test_a_child_that_is_left_alone_after_its_last_frame_exits_with_its_code(launch: Launch) -> None:
    async with launch("raise SystemExit(9)") as child:
        await child.last_frames()
        before = trio.current_time()
        assert await child.process.wait() == ExitStatus(code=9)
        assert 0.3 < trio.current_time() - before < 2


async def test_wait_says_the_same_each_time_and_looks_agree(launch: Launch) -> None:
    async with launch("import os; os._exit(3)") as child:
        process = child.process
        with trio.CancelScope() as scope:
            scope.cancel()
            await process.wait()
        assert scope.cancelled_caught
        assert await process.wait() == ExitStatus(code=3)
        assert process.has_exited()
        assert await process.wait() == ExitStatus(code=3)
        process.kill()
        process.request_stop()
        assert repr(process) == f"<LocalProcess exited with code 3 entry.py p-1 pid={process.pid}>"


async def test_leaving_the_block_kills_and_reaps(launch: Launch) -> None:
    async with launch("def run(process):\n    process.ready()\n    while True: pass") as child:
        await child.frame_of_type("ready")
        assert not child.process.has_exited()
        process = child.process
    assert process.has_exited()
    assert await process.wait() == ExitStatus(signal=signal.SIGKILL)
    assert process.last_heartbeat() <= trio.current_time()


async def test_an_error_of_the_body_leaves_the_block_as_it_is(launch: Launch) -> None:
    """No group is made of it, although a nursery is inside (design, errors)."""
    with pytest.raises(ZeroDivisionError):
        async with launch("def run(process): process.receive()"):
            raise ZeroDivisionError


async def test_a_cancelled_body_leaves_no_process(launch: Launch) -> None:
    with trio.CancelScope() as scope:
        async with launch("def run(process):\n    process.ready()\n    while True: pass") as child:
            await child.frame_of_type("ready")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert child.process.has_exited()


async def test_output_is_drained_while_the_owner_is_cancelled_and_gives_the_process_time(launch: Launch) -> None:
    """The grace period runs inside of a shield; a child that prints a lot then must not hang in `print`."""
    async with launch("""
        def run(process):
            process.ready()
            process.receive()
            print("x" * 1_000_000)
            return "printed"
    """) as child:
        with trio.CancelScope() as scope:
            await child.frame_of_type("ready")
            scope.cancel()
            with trio.CancelScope(shield=True):
                child.send("go")
                assert (await child.frame_of_type("complete"))["result"] == "printed"


@pytest.mark.parametrize("checkpoints", range(4))
async def test_a_launch_that_is_cancelled_leaves_nothing(launch: Launch, checkpoints: int) -> None:
    entered = False
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel_soon() -> None:
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(cancel_soon)
            async with launch("def run(process): process.receive()"):
                entered = True
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not entered or checkpoints


async def test_a_cancellation_while_the_thread_is_at_work_waits_for_what_it_makes() -> None:
    """So that something which comes into being belongs to somebody at every moment."""
    gate = trio.Event()
    token = trio.lowlevel.current_trio_token()
    made: list[str] = []

    def work() -> str:
        trio.from_thread.run(gate.wait, trio_token=token)
        return "made"

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel_and_go_on() -> None:
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                    gate.set()

            nursery.start_soon(cancel_and_go_on)
            made.append(await run_in_launch_thread(work, pytest.fail))
            await trio.lowlevel.checkpoint()
            raise AssertionError("not cancelled")
    assert scope.cancelled_caught
    assert made == ["made"]


async def test_what_the_launch_thread_finishes_too_late_is_disposed_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spindle_trio.launchers._local._launch_thread.PATIENCE", 0.01)
    gate = trio.Event()
    disposed = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def work() -> str:
        trio.from_thread.run(gate.wait, trio_token=token)
        return "late"

    def dispose(value: str) -> None:
        assert value == "late"
        trio.from_thread.run_sync(disposed.set, trio_token=token)

    with trio.move_on_after(0) as scope:
        await run_in_launch_thread(work, dispose)
    assert scope.cancelled_caught
    gate.set()
    with trio.fail_after(5):
        await disposed.wait()


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_what_the_launch_thread_finishes_after_a_ctrl_c_is_disposed_of(is_cancelled: bool) -> None:
    """The program may catch it and go on, and would keep a process that nobody knows of."""
    gate, disposed = threading.Event(), trio.Event()

    def dispose(token: trio.lowlevel.TrioToken) -> None:
        token.run_sync_soon(disposed.set)

    async def main() -> None:
        token = trio.lowlevel.current_trio_token()

        def work() -> trio.lowlevel.TrioToken:
            os.kill(os.getpid(), signal.SIGINT)
            assert gate.wait(10)
            return token

        with pytest.raises(KeyboardInterrupt), trio.CancelScope() as scope:
            if is_cancelled:
                scope.cancel()
            await run_in_launch_thread(work, dispose)
        gate.set()
        with trio.fail_after(5):
            await disposed.wait()

    trio.run(main)


async def test_a_launch_that_cannot_succeed_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "entry.py").touch()
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    launcher = PythonLauncher(str(python))
    entry = launcher.resolve("entry.py", tmp_path)
    await launcher.start()
    try:
        with pytest.raises(FileNotFoundError):
            async with launcher.launch(LaunchOrder("p-1", entry, tmp_path / "gone", {}, Limits())):
                raise AssertionError("entered")
        python.unlink()
        with pytest.raises(FileNotFoundError, match="No such file or directory"):
            async with launcher.launch(LaunchOrder("p-1", entry, tmp_path, {}, Limits())):
                raise AssertionError("entered")
    finally:
        await launcher.aclose()


async def test_an_interpreter_that_cannot_be_executed_is_told_as_a_failure(
    tmp_path: Path, launch_with: LaunchWith
) -> None:
    """It is found out by the process that tries."""
    python = tmp_path / "python"
    python.write_text("no program")
    python.chmod(0o755)
    async with launch_with(PythonLauncher(str(python)))("def run(process): ...") as child:
        assert "Exec format error" in (await child.frame_of_type("fail"))["error"]
        assert await child.process.wait() == ExitStatus(code=1)


async def test_an_interpreter_that_is_a_script_and_stays_is_told_on_stderr(
    tmp_path: Path, launch_with: LaunchWith
) -> None:
    """What it starts is not the process that was forked, and dies with nobody."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\n')
    python.chmod(0o755)
    async with launch_with(PythonLauncher(str(python)))("def run(process): ...") as child:
        assert await child.process.wait() == ExitStatus(code=1)
        assert "the interpreter is a wrapper script" in child.process.stderr_tail()


async def test_a_process_that_withstands_its_kill_is_abandoned_and_reaped_later(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Simulated: a process in an uninterruptible sleep cannot be had. Here its kill does nothing at first."""
    monkeypatch.setattr(_local_process, "PATIENCE", 0.05)
    for tree in (NamespaceTree, ControlGroupTree, GroupTree):
        monkeypatch.setattr(tree, "kill", lambda tree: None)
    async with launch("def run(process):\n    process.ready()\n    while True: pass") as child:
        await child.frame_of_type("ready")
        process = child.process
        pid = process.pid
        assert pid is not None
    assert not process.has_exited()
    with pytest.raises(trio.ClosedResourceError):
        await process.wait()
    process.kill()
    assert f"process p-1 (pid {pid}) survived SIGKILL" in caplog.text
    with trio.fail_after(5):
        await wait_gone(pid)  # its server has been ended


# ---- the tree


FAMILY = """
    import os, subprocess, sys
    SLEEPER = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
    def start(**options):
        # The pipe's other end is kept by this process: a sleeper that is not killed would live as long as that.
        return subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, **options)
    def run(process):
        kept = [start(), start(start_new_session=True)]
        parent = subprocess.Popen([sys.executable, "-S", "-c",
            "import subprocess, sys; p = subprocess.Popen(sys.argv[1:], start_new_session=True, stdin=subprocess.PIPE);"
            "print(p.pid, flush=True); sys.stdin.read()", *SLEEPER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        grandchild = int(parent.stdout.readline())
        process.send([*(child.pid for child in kept), parent.pid, grandchild])
        process.ready()
        %s
"""


@pytest.mark.quick(2)
@pytest.mark.parametrize("end", ["process.receive()", "while True: pass", "return None"])
async def test_a_kill_takes_the_whole_tree(launch: Launch, end: str) -> None:
    """Grandchildren in the group, in a session of their own, and one below such a one; also after `exiting`."""
    async with launch(FAMILY % end) as child:
        assert child.process.pid is not None
        pids = [outside(child.process.pid, pid) for pid in await child.payload()]
        assert len(pids) == 4
        await child.frame_of_type("exiting" if end.startswith("return") else "ready")
        # Others keep the pipes of these open, so that none ends by itself.
        holders = [os.pidfd_open(pid) for pid in pids]
        try:
            child.process.kill()
            for holder in holders:
                await trio.lowlevel.wait_readable(holder)
        finally:
            for holder in holders:
                os.close(holder)
        assert (await child.process.wait()).signal == signal.SIGKILL


SLEEPS = """
        import os, subprocess, sys
        def run(process):
            print("before", flush=True)
            sleeper = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"]%s)
            process.send(sleeper.pid)
            process.receive()
            os._exit(5)
"""


async def test_a_process_that_ends_without_a_word_loses_its_group(launch: Launch) -> None:
    async with launch(SLEEPS % "") as child:
        assert child.process.pid is not None
        pid = outside(child.process.pid, await child.payload())
        child.send("end")
        assert await child.process.wait() == ExitStatus(code=5)
        await wait_gone(pid)


async def test_a_grandchild_that_holds_the_pipes_delays_nothing(launch_with: LaunchWith) -> None:
    """The end of a process comes from its pidfd, never from the end of a file. At this level such a one lives on."""
    launcher = ForkServerLauncher(preload=(), spares=0, containment=Containment.KILLPG)
    async with launch_with(launcher)(SLEEPS % ", start_new_session=True") as child:
        pid = await child.payload()
        child.send("end")
        try:
            assert await child.process.wait() == ExitStatus(code=5)
            assert child.process.stdout_tail() == "before\n"
        finally:
            os.kill(pid, signal.SIGKILL)
            await wait_gone(pid)


async def test_a_stopped_child_is_killed(launch: Launch) -> None:
    async with launch("def run(process):\n    process.ready()\n    process.receive()") as child:
        await child.frame_of_type("ready")
        assert child.process.pid is not None
        os.kill(child.process.pid, signal.SIGSTOP)
        child.process.kill()
        assert await child.process.wait() == ExitStatus(signal=signal.SIGKILL)


@pytest.mark.parametrize(
    "entry",
    [
        "def run(process):\n    process.ready()\n    while True: pass",
        "async def run(process):\n    process.ready()\n    while True: pass",
    ],
)
def test_a_child_dies_with_its_host_also_in_a_busy_loop(tmp_path: Path, entry: str) -> None:
    (tmp_path / "entry.py").write_text(entry)
    (tmp_path / "host.py").write_text(
        textwrap.dedent("""
        import pathlib, sys, trio
        from spindle_trio._protocol._control_frames import encode_init
        from spindle_trio._model import Limits, OMITTED
        from spindle_trio.abc import LaunchOrder
        from spindle_trio.launchers import PythonLauncher

        async def main():
            launcher, root = PythonLauncher(), pathlib.Path(sys.argv[1])
            order = LaunchOrder("p-1", launcher.resolve("entry.py", root), root, {}, Limits())
            await launcher.start()
            async with launcher.launch(order) as process:
                process.control.send_nowait(encode_init(
                    process_id="p-1", entry="entry.py", kind="k", key=None, user_id=None, payload=OMITTED,
                    metadata=None, heartbeat_timeout=15, limits=Limits()))
                await process.control.receive(1)
                print(process.pid, flush=True)
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
        child = os.pidfd_open(int(host.stdout.readline()))
        host.kill()
        host.wait()

    async def wait() -> None:
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(child)

    trio.run(wait)
    os.close(child)


async def test_a_child_whose_parent_is_another_one_than_it_was_told_ends_itself(tmp_path: Path) -> None:
    """The host has died between the fork and the child's own protection (reliability, row 5)."""
    program = Path(_local_process.__file__).parents[2] / "child" / "__main__.py"
    ended = await trio.run_process([sys.executable, "-P", str(program), "entry.py", "1", "{}"], check=False)
    assert ended.returncode == 1


async def test_the_child_program_says_what_it_is_to_whoever_starts_it_by_hand() -> None:
    program = Path(_local_process.__file__).parents[2] / "child" / "__main__.py"
    ended = await trio.run_process([sys.executable, str(program)], check=False, capture_stderr=True)
    assert ended.returncode == 1
    assert b"spindle-trio run ENTRY" in ended.stderr


async def test_a_child_whose_control_lane_ends_ends_itself(launch: Launch) -> None:
    async with launch("def run(process):\n    process.ready()\n    process.receive()") as child:
        await child.frame_of_type("ready")
        child.process.control.close()
        assert await child.process.wait() == ExitStatus(code=1)


# ---- output


async def test_much_output_before_ready_blocks_nothing_and_its_end_is_kept(launch: Launch) -> None:
    async with launch("""
        import sys
        def run(process):
            sys.stdout.write("o" * 300_000 + "END")
            sys.stderr.write("e" * 300_000 + "FIN")
            process.ready()
            process.receive()
    """) as child:
        await child.frame_of_type("ready")
        child.process.kill()
        await child.process.wait()
        assert child.process.stderr_tail() == "e" * (64 * 1024 - 3) + "FIN"
        assert child.process.stdout_tail().endswith("oEND")
        assert child.process.output_dropped() >= 300_003 - 64 * 1024


async def test_output_that_is_not_utf_8_and_closed_streams_hurt_nobody(launch: Launch) -> None:
    async with launch("""
        import os, sys
        def run(process):
            os.write(1, b"\\xff\\xfe raw\\n")
            print("\\udc80 lone")
            sys.stdout.close()
            os.close(2)
            process.ready()
            return "fine"
    """) as child:
        assert (await child.frame_of_type("complete"))["result"] == "fine"
        await child.frame_of_type("exiting")
        await child.process.wait()
        assert child.process.stdout_tail() == "\ufffd\ufffd raw\n\\udc80 lone\n"


async def test_lines_reach_the_log_with_the_process_id_and_not_too_many_of_them(
    launch: Launch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spindle_trio.process")
    async with launch("""
        import sys
        def run(process):
            print("to stderr", file=sys.stderr)
            process.ready()
            process.receive()
            for number in range(1_000):
                print("line", number)
            sys.stdout.write("unfinished")
    """) as child:
        await child.frame_of_type("ready")
        while not caplog.records:
            await trio.testing.wait_all_tasks_blocked()
        child.send("go on")
        await child.frame_of_type("exiting")
        await child.process.wait()
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("spindle_trio.process.")]
    assert "p-1: to stderr" in messages
    assert "p-1: line 0" in messages
    assert len(messages) < 210  # two seconds' worth at most, on a slow machine
    assert any("more lines were not logged" in message for message in messages)


# ---- lanes


async def test_descriptors_thrown_at_the_host_do_not_enter_it(launch: Launch) -> None:
    async with launch("""
        import os, socket, sys
        def run(process):
            for name in os.listdir("/proc/self/fd"):
                try:
                    lane = socket.socket(fileno=os.dup(int(name)))
                    socket.send_fds(lane, [b"\\0\\0\\0\\x01" + b"1"], [0, 0, 0])
                except OSError:
                    pass
            process.ready()
    """) as child:
        before = open_descriptors()
        assert await child.process.messages.receive(10) == [b"1"]
        assert open_descriptors() == before


async def test_a_page_that_was_tampered_with_neither_kills_the_host_nor_beats_into_the_future(launch: Launch) -> None:
    async with launch("""
        import gc, math, os, time
        def run(process):
            words = next(o for o in gc.get_objects() if type(o).__name__ == "BlockingProcessContext")._words
            for value in (math.nan, -math.inf, time.monotonic() + 1000):
                words[0] = value
                process.send("written")
                process.receive()
            page = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd") if n.isdecimal()]
            for path in page:
                try:
                    if "memfd" in os.readlink(path):
                        os.truncate(path, 0)
                except PermissionError:
                    process.send("sealed")
                except OSError:
                    pass
            process.receive()
    """) as child:
        for expected in (float("-inf"), float("-inf")):
            assert await child.payload() == "written"
            assert child.process.last_heartbeat() == expected
            child.send(0)
        assert await child.payload() == "written"
        assert child.process.last_heartbeat() <= trio.current_time()
        child.send(0)
        assert await child.payload() == "sealed"
        assert child.process.last_heartbeat() <= trio.current_time()


async def test_one_heartbeat_has_one_time_however_late_the_host_looks_at_its_clocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may lose the processor between its looks at the clock of the page and at Trio's."""
    page = HeartbeatPage()
    words = map_page(page.fd)
    try:
        words[0] = time.monotonic()
        first = page.last_heartbeat()
        assert first <= trio.current_time()
        clock = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: clock() - 0.001)
        assert page.last_heartbeat() == first
        monkeypatch.undo()
        words[0] = time.monotonic()
        assert first < page.last_heartbeat() <= trio.current_time()
    finally:
        words.release()
        page.close()


async def test_the_launcher_starts_where_it_can_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = PythonLauncher()
    await launcher.start()
    await launcher.aclose()
    with pytest.raises(RuntimeError, match="there is no interpreter '/no/such/python'"):
        await PythonLauncher("/no/such/python").start()
    with monkeypatch.context() as patch:
        patch.setattr("os.path.exists", lambda path: not path.startswith("/proc"))
        with pytest.raises(RuntimeError, match="PythonLauncher needs /proc to be mounted"):
            await PythonLauncher().start()
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(RuntimeError, match=r"needs Linux .* and this is win32"):
        await PythonLauncher().start()


async def test_another_interpreter_keeps_its_own_path_and_finds_this_package(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    (tmp_path / "entry.py").write_text("import sys\ndef run(process): return sys.path")
    launcher = PythonLauncher(str(other))
    await launcher.start()
    order = LaunchOrder("p-1", launcher.resolve("entry.py", tmp_path), tmp_path, {}, Limits())
    with trio.fail_after(10):
        async with launcher.launch(order) as process:
            process.control.send_nowait(
                b'{"type":"init","protocol":1,"processId":"p","entry":"entry.py","kind":"k","heartbeatTimeoutMs":0,'
                b'"limits":{"frameBytes":9999,"depth":9,"values":99,"textBytes":null,"containerEntries":null}}'
            )
            bodies = await process.control.receive(1)
    await launcher.aclose()
    path = json.loads(bodies[0])["result"]
    assert path[0] == str(tmp_path.resolve())
    assert str(Path(_local_process.__file__).parents[3]) in path


def test_ctrl_c_during_the_start_leaves_no_process(tmp_path: Path) -> None:
    """It is held back on the way in, and comes when the process is registered and can be ended."""
    (tmp_path / "entry.py").write_text("def run(process): process.receive()")
    launcher = PythonLauncher()
    order = LaunchOrder("p-1", launcher.resolve("entry.py", tmp_path), tmp_path, {}, Limits())

    async def launching() -> None:
        await launcher.start()
        block = launcher.launch(order)
        real = block._start

        async def start() -> _local_process.LocalProcess:
            process = await real()
            signal.raise_signal(signal.SIGINT)
            return process

        block._start = start
        try:
            async with block:
                await trio.sleep_forever()
        finally:
            await launcher.aclose()

    with pytest.raises(KeyboardInterrupt):
        trio.run(launching)
