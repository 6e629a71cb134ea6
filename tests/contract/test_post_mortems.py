"""Ends that explain themselves, on real processes: stacks of what hangs or crashes, and what a dump must not do.

In memory there is nothing to dump; `tests/collaboration/test_post_mortems.py` has what needs no operating system.
"""

from __future__ import annotations

import os
import re
import signal
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from spindle_trio import (
    Containment,
    ForkServerLauncher,
    ProcessHandle,
    ProcessState,
    PythonLauncher,
    StartupTimeoutError,
)
from spindle_trio.abc import Launcher
from spindle_trio.wire import from_json, to_json
from support.contract import run_to_end
from support.lateness import waited_for_processor
from support.numbers import outside

HEARTBEAT = 0.4
"""Seconds of the watchdog's timeout here: short, and long enough for a process to be ready."""

GONE_SECONDS = 1.0
"""How long what a process has started may outlive its terminal event (reliability, row 14)."""

SLEEPER = """
import os, signal, sys
print(os.getpid(), flush=True)
signal.pause()
"""
"""Tells its number, and waits."""

FAMILY = f"""
import subprocess, sys

def start(**options):
    child = subprocess.Popen([sys.executable, "-S", "-c", {SLEEPER!r}], stdout=subprocess.PIPE, text=True, **options)
    return child, int(child.stdout.readline())
"""


async def hang(world: Any, source: str, **host: Any) -> ProcessHandle:
    """Run a blocking entry until its watchdog ends it, which has to be in time."""
    entry = world.blocking_entry(source)
    async with world.worker(**host) as worker:
        handle: ProcessHandle = await worker.backend_processes.spawn(entry, heartbeat_timeout=HEARTBEAT)
        began = waited_for_processor()
        await handle.wait_ended()
        waited = waited_for_processor() - began
    info = handle.info
    assert info.state is ProcessState.TIMED_OUT
    assert info.ended_at is not None
    assert info.last_heartbeat_at is not None
    world.assert_was(HEARTBEAT, (info.ended_at - info.last_heartbeat_at).total_seconds(), waited=waited)
    assert handle.post_mortem is not None
    assert world.events[-1].error == str(handle.post_mortem)
    return handle


async def test_an_endless_loop_shows_the_line_and_every_other_thread(real_world) -> None:
    handle = await hang(
        real_world,
        """
        import sys, threading

        def waits_for_good():
            threading.Event().wait()

        def spins():
            while True:
                pass

        def run(process):
            threading.Thread(target=waits_for_good, daemon=True).start()
            print("so far so good", file=sys.stderr)
            process.ready()
            spins()
        """,
    )
    post_mortem = handle.post_mortem
    assert post_mortem is not None
    assert post_mortem.stacks is not None
    assert 'entry.py", line 8 in spins\n' in post_mortem.stacks or 'entry.py", line 9 in spins\n' in post_mortem.stacks
    assert 'entry.py", line 5 in waits_for_good\n' in post_mortem.stacks
    assert handle.info.error == post_mortem.error == f"no heartbeat for {HEARTBEAT:g} s"
    assert post_mortem.stderr == "so far so good"
    assert post_mortem.exit_status == "killed by SIGRTMIN+7, sent by its host"
    assert post_mortem.since_heartbeat is not None
    assert post_mortem.since_heartbeat >= HEARTBEAT - 0.01


async def test_a_call_into_c_that_keeps_the_interpreters_lock_shows_its_line(real_world) -> None:
    handle = await hang(
        real_world,
        """
        import ctypes

        def holds_the_lock():
            ctypes.PyDLL(None).sleep(3600)

        def run(process):
            process.ready()
            holds_the_lock()
        """,
    )
    assert handle.post_mortem is not None
    assert "in holds_the_lock\n" in str(handle.post_mortem.stacks)


async def test_an_entry_that_waits_for_a_program_shows_where(real_world) -> None:
    handle = await hang(
        real_world,
        """
        import subprocess

        def run(process):
            process.ready()
            subprocess.run(["sleep", "1000"])
        """,
    )
    assert handle.post_mortem is not None
    assert 'subprocess.py"' in str(handle.post_mortem.stacks)
    assert str(handle.post_mortem.stacks).endswith('entry.py", line 6 in run')


async def test_a_process_that_a_signal_has_stopped_says_so_and_shows_where(real_world) -> None:
    handle = await hang(
        real_world,
        """
        import os, signal

        def stops_itself():
            os.kill(os.getpid(), signal.SIGSTOP)
            while True:
                pass

        def run(process):
            process.ready()
            stops_itself()
        """,
    )
    assert handle.info.error == f"no heartbeat for {HEARTBEAT:g} s; it was stopped by a signal"
    assert handle.post_mortem is not None
    assert "in stops_itself\n" in str(handle.post_mortem.stacks)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "statement",
    [
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 7])",
        "signal.signal(signal.SIGRTMIN + 7, signal.SIG_IGN)",
        "signal.signal(signal.SIGRTMIN + 7, lambda *_: None)",
    ],
)
async def test_a_process_that_takes_no_notice_is_killed_all_the_same(real_world, statement: str) -> None:
    handle = await hang(
        real_world, f"import signal\ndef run(process):\n    process.ready()\n    {statement}\n    while True: pass"
    )
    assert handle.post_mortem is not None
    assert handle.post_mortem.stacks is None
    assert handle.post_mortem.exit_status == "killed by SIGKILL, sent by its host"


async def test_what_is_never_ready_shows_where_it_hangs(real_world) -> None:
    """Even while its file is loaded, which is when most of them hang."""
    entry = real_world.blocking_entry("""
        import sys
        print("connecting to the library", file=sys.stderr)
        while True:
            pass
    """)
    async with real_world.worker() as worker:
        with pytest.raises(StartupTimeoutError) as caught:
            await worker.backend_processes.spawn(entry, startup_timeout=1.5)
    text = str(caught.value)
    assert "not ready within 1.5 s; call process.ready() earlier" in text.partition("\n")[0]
    assert "\n    connecting to the library\n" in text
    assert re.search(r'entry\.py", line [45] in <module>$', text, re.MULTILINE), text
    assert caught.value.info.error == "not ready within 1.5 s"
    assert real_world.events[-1].post_mortem.since_heartbeat is None


@pytest.mark.parametrize(
    ("statement", "name", "head"),
    [("ctypes.string_at(0)", "SIGSEGV", "Segmentation fault"), ("os.abort()", "SIGABRT", "Aborted")],
)
async def test_a_crash_shows_its_stack(real_world, statement: str, name: str, head: str) -> None:
    source = (
        f"import ctypes, os\n\ndef crashes():\n    {statement}\n\ndef run(process):\n    process.ready()\n    crashes()"
    )
    handle = await run_to_end(real_world, real_world.blocking_entry(source))
    assert handle.info.state is ProcessState.FAILED
    assert handle.info.error == f"killed by {name} without complete() or fail()"
    assert handle.post_mortem is not None
    assert handle.post_mortem.exit_status == f"killed by {name}"
    assert str(handle.post_mortem.stacks).startswith(f"Fatal Python error: {head}\n")
    assert "line 4 in crashes\n" in str(handle.post_mortem.stacks)


async def test_a_signal_from_elsewhere_is_named_and_not_taken_for_the_hosts(real_world) -> None:
    entry = real_world.blocking_entry(
        "import os, signal\ndef run(process):\n    process.ready()\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    handle = await run_to_end(real_world, entry)
    assert handle.post_mortem is not None
    assert str(handle.post_mortem.exit_status).startswith("killed by SIGKILL, ")
    assert "host" not in str(handle.post_mortem.exit_status)
    assert handle.post_mortem.stacks is None


FIND_PAGE = """
import mmap, os

def page():
    for name in os.listdir("/proc/self/fd"):
        if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:"):
            return int(name)

"""


async def test_rubbish_in_the_place_of_a_dump_hurts_nobody(real_world) -> None:
    """It is text of the child's like any other: bounded, and shown with signs for what cannot be."""
    handle = await hang(
        real_world,
        FIND_PAGE
        + textwrap.dedent(r"""
            def run(process):
                process.ready()
                fd, place = page(), mmap.PAGESIZE
                while True:
                    try:
                        place += os.pwrite(fd, b"\xff\x1b[2J" * 200, place)
                    except OSError:
                        place = mmap.PAGESIZE  # it is sealed: there is no more of it
        """),
    )
    assert handle.post_mortem is not None
    stacks = handle.post_mortem.stacks
    assert stacks is not None
    assert "\ufffd\x1b[2J" in stacks
    assert 50_000 < len(stacks) <= 60 * 1024
    event = real_world.events[-1]
    assert from_json(to_json(event), type(event)).post_mortem == handle.post_mortem


async def test_zeroes_and_a_shorter_page_hurt_nobody_either(real_world) -> None:
    handle = await hang(
        real_world,
        FIND_PAGE
        + textwrap.dedent(r"""
            def run(process):
                process.ready()
                fd = page()
                for size in (0, mmap.PAGESIZE, 1 << 20):
                    try:
                        os.truncate(fd, size)
                    except OSError:
                        continue
                    process.fail(f"its size could be set to {size}")
                os.pwrite(fd, b"a line" + bytes(100) + b"and another", mmap.PAGESIZE)
                os.lseek(fd, 1 << 40, os.SEEK_SET)
                while True:
                    pass
        """),
    )
    assert handle.post_mortem is not None
    assert handle.post_mortem.stacks == "a line"


async def test_the_crash_of_a_forked_copy_is_not_the_processs_own(real_world) -> None:
    entry = real_world.blocking_entry("""
        import ctypes, os

        def run(process):
            process.ready()
            copy = os.fork()
            if copy == 0:
                ctypes.string_at(0)
            os.waitpid(copy, 0)
            os._exit(3)
    """)
    handle = await run_to_end(real_world, entry)
    assert handle.post_mortem is not None
    assert (handle.post_mortem.exit_status, handle.post_mortem.stacks) == ("exited with code 3", None)


async def test_nothing_that_an_entry_starts_gets_the_page(real_world) -> None:
    entry = real_world.blocking_entry("""
        import subprocess, sys

        LIST = "import os; print(*[os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1]])"

        def run(process):
            process.ready()
            return subprocess.check_output([sys.executable, "-S", "-c", LIST], close_fds=False, text=True)
    """)
    handle = await run_to_end(real_world, entry)
    assert handle.post_mortem is None
    assert isinstance(handle.result, str)
    assert "pipe:" in handle.result
    assert "memfd" not in handle.result


@asynccontextmanager
async def all_gone_afterwards(pids: list[int]) -> AsyncIterator[None]:
    """Refuse processes that live on after a block for longer than is promised; they are ended then."""
    pidfds = [os.pidfd_open(pid) for pid in pids]
    try:
        yield
        with trio.fail_after(GONE_SECONDS):
            for pidfd in pidfds:
                await trio.lowlevel.wait_readable(pidfd)
    finally:
        for pidfd in pidfds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def launcher_of(kind: str, level: Containment) -> Launcher:
    return PythonLauncher(containment=level) if kind == "python" else ForkServerLauncher(containment=level)


async def best_level(kind: str) -> Containment:
    launcher = PythonLauncher() if kind == "python" else ForkServerLauncher()
    await launcher.start()
    await launcher.aclose()
    assert launcher.containment is not None
    return launcher.containment


@pytest.mark.quick(2)
@pytest.mark.parametrize("level", [Containment.KILLPG, Containment.SWEEP, None], ids=str)
@pytest.mark.parametrize("session", [True, False])
async def test_what_a_process_has_started_neither_ends_before_its_dump_nor_outlives_it(
    real_world, level: Containment | None, session: bool
) -> None:
    """Once the process has ended by its dump, nobody could find what it has started: so that is held before."""
    launcher = launcher_of(real_world.kind, level or await best_level(real_world.kind))
    entry = real_world.blocking_entry(f"""{FAMILY}
def run(process):
    first, number = start(start_new_session={session})
    process.send(number)
    _, number = start(start_new_session={session})
    process.send(number)
    process.ready()
    waits_for(first)
    process.fail("what it waited for has ended before it")

def waits_for(child):
    child.wait()
""")
    async with real_world.quiet_worker(launcher=launcher) as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=HEARTBEAT)
        messages = handle.messages()
        family = [outside(handle.pid, await messages.receive()) for _ in range(2)]
        async with all_gone_afterwards(family):
            info = await handle.wait_ended()
    assert info.state is ProcessState.TIMED_OUT
    assert handle.post_mortem is not None
    assert "in waits_for\n" in str(handle.post_mortem.stacks)


async def test_a_process_with_more_children_than_can_be_held_is_killed_at_once(
    real_world, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spindle_trio.launchers._local._tree._MAX_HELD", 1)
    launcher = launcher_of(real_world.kind, Containment.KILLPG)
    entry = real_world.blocking_entry(f"""{FAMILY}
def run(process):
    for _ in range(2):
        process.send(start(start_new_session=True)[1])
    process.ready()
    while True: pass
""")
    async with real_world.quiet_worker(launcher=launcher) as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=HEARTBEAT)
        messages = handle.messages()
        family = [outside(handle.pid, await messages.receive()) for _ in range(2)]
        async with all_gone_afterwards(family):
            await handle.wait_ended()
    assert handle.post_mortem is not None
    assert handle.post_mortem.stacks is None
    assert handle.post_mortem.exit_status == "killed by SIGKILL, sent by its host"


async def test_an_error_that_resists_being_put_into_words_is_told_truly(real_world: Any) -> None:
    entry = real_world.blocking_entry("""
class Text(str):
    def splitlines(self, keepends=False):
        raise ValueError("no lines")

class Odd(Exception):
    def __str__(self):
        return Text("the shelf is empty")

def run(process):
    process.ready()
    raise Odd
""")
    handle = await run_to_end(real_world, entry)
    assert handle.info.error is not None
    assert handle.info.error.startswith("Odd: the shelf is empty (Traceback: ")
