"""Rows 3, 4, 13 and 26: a host that stands still, is stopped, or shares a busy machine kills no healthy process.

On real processes: in memory a process stands still with its host. How much time is left out is reckoned exactly in
`tests/core/test_lateness.py`.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from spindle_trio import ProcessState
from support.fork_server import wait_until
from support.stall import descendants_of, host_here, host_program, stall

SLACK = 1.0
"""Seconds by which a kill may be late (reliability, row 13)."""

BEATS = """
    import trio

    async def run(process):
        process.ready()
        while True:
            await trio.sleep(process.payload)
            process.heartbeat()
            process.send_nowait("beat")
"""
"""Beats itself, as often as it is told and no more, and tells of it."""

BEATS_BLOCKING = """
    import select

    def run(process):
        process.ready()
        while True:
            select.select([], [], [], process.payload)
            process.heartbeat()
            process.send("beat")
"""

ECHO = """
    import os

    async def run(process):
        process.ready()
        process.beat_while_running()
        await process.send({"pid": os.getpid()})
        async for message in process.messages():
            await process.send(message)
"""
"""Its runtime beats."""

STARTS_SLOWLY = """
    import select

    def run(process):
        process.send("begun")
        select.select([], [], [], process.payload)
        process.ready()
        process.send("started")
        process.receive()
"""

STOPS_SLOWLY = """
    import trio

    async def run(process):
        process.ready()
        process.beat_while_running()
        await process.wait_stop()
        await process.send("told")
        await trio.sleep(process.payload)
        process.complete("in time")
"""

MUCH_TO_SAY = """
    async def run(process):
        process.ready()
        process.beat_while_running()
        await process.wait_stop()
        await process.send("told")
        for number in range(300):
            await process.send("x" * 10_000)
        process.complete("in time")
"""
"""Says more at its end than a pipe holds, and so ends only once its host has read that."""


@pytest.fixture(autouse=True)
def _no_descendants(no_survivors: None) -> Iterator[None]:
    """Refuse a test that leaves a process of a host in another program."""
    before = descendants_of(os.getpid())
    yield
    assert descendants_of(os.getpid()) == before


@pytest.fixture(params=[pytest.param(1.0, id="soon"), pytest.param(2.0, id="late", marks=pytest.mark.slow)])
def pace(request: pytest.FixtureRequest) -> float:
    """Multiply the deadlines and pauses of a test by this: it is about their proportions."""
    factor: float = request.param
    return factor


@pytest.fixture(params=["forked", pytest.param("python", marks=pytest.mark.soak)])
def launcher(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# The loop of a host stalls, while its processes go on.


async def test_a_loop_that_stalls_again_and_again_kills_nobody(launcher: str, tmp_path: Path, pace: float) -> None:
    """For five heartbeat timeouts, and so soon again that nobody has beaten in between."""
    async with host_here(launcher, tmp_path) as worker:
        handles = [
            await worker.spawn(source, f"{name}.py", payload=0.1, heartbeat_timeout=timeout)
            for name, source in {"async": BEATS, "blocking": BEATS_BLOCKING, "runtime": ECHO}.items()
            for timeout in (0.5, 1.0)  # without rounds that look at it, and with
        ]
        for seconds in (2.5 * pace, 0.7):
            stall(seconds)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert worker.ends() == []
        assert [handle.state for handle in handles] == [ProcessState.RUNNING] * 6


@pytest.mark.slow
async def test_a_loop_that_stalls_while_processes_start_and_stop_ends_neither(
    launcher: str, tmp_path: Path, pace: float
) -> None:
    """For five times as long as either may take. The one that stops cannot go on before its host reads."""
    async with host_here(launcher, tmp_path, grace_period=0.5) as worker, trio.open_nursery() as nursery:
        stopping = await worker.spawn(MUCH_TO_SAY, "stops.py", heartbeat_timeout=0.5)

        async def start() -> None:
            handle = await worker.spawn(STARTS_SLOWLY, "starts.py", payload=0.3, startup_timeout=pace)
            await handle.send("end")
            await handle.wait_ended()

        nursery.start_soon(start)
        await worker.wait_said("begun")
        nursery.start_soon(stopping.stop)
        await worker.wait_said("told")
        stall(1.5 * pace)
        await stopping.wait_ended()
        assert (stopping.state, stopping.result) == (ProcessState.COMPLETED, "in time")
    assert [state for _, state, _ in worker.ends()] == ["completed"] * 2


# A host program is stopped and continued, while its processes go on.


async def test_a_host_that_was_stopped_for_longer_than_every_deadline_ends_nobody(
    launcher: str, tmp_path: Path, pace: float
) -> None:
    """A debugger, or Ctrl-Z. One process runs, one has still to become ready, one has been asked to stop."""
    async with host_program(launcher, tmp_path, grace_period=pace) as program, trio.open_nursery() as nursery:
        running = [
            await program.spawn(source, f"{name}.py", payload=0.2, heartbeat_timeout=pace)
            for name, source in {"async": BEATS, "blocking": BEATS_BLOCKING, "runtime": ECHO}.items()
        ]
        stopping = await program.spawn(STOPS_SLOWLY, "stops.py", payload=0.3, heartbeat_timeout=pace)
        nursery.start_soon(
            lambda: program.spawn(STARTS_SLOWLY, "starts.py", payload=0.3, startup_timeout=pace, heartbeat_timeout=pace)
        )
        await program.wait_said("begun")
        nursery.start_soon(stopping.stop)
        await program.wait_said("told")
        program.stop()
        await trio.sleep(2 * pace)
        program.go_on()
        await stopping.wait_ended()
        assert (stopping.state, stopping.result) == (ProcessState.COMPLETED, "in time")
        await program.wait_said("started")
        await program.wait_messages(*running[:2], more=5)
        assert program.ends() == [("stops.py", "completed", None)]


# A host program is stopped together with its processes: a container that is frozen, a machine that is suspended.


@pytest.mark.quick(1)
@pytest.mark.parametrize("first", ["host first", "processes first"])
async def test_a_host_that_was_stopped_together_with_its_processes_ends_nobody_in_whichever_order_they_go_on(
    launcher: str, first: str, tmp_path: Path, pace: float
) -> None:
    """Each process beats twice within its timeout and no more, so that its last beat is too old at the thaw.

    They have begun at different moments, so that the stop meets each of them at another one. Where they go on later
    than their host, that much of their silence counts.
    """
    async with host_program(launcher, tmp_path, grace_period=pace) as program, trio.open_nursery() as nursery:
        running = []
        # With rounds of half and of a third of the timeout, and without.
        for timeout in (1.0 * pace, 1.5 * pace, 0.9, math.inf):
            for name, source in {"async": BEATS, "blocking": BEATS_BLOCKING}.items():
                options = {"payload": min(timeout, 2) / 2, "heartbeat_timeout": timeout, "startup_timeout": 30}
                running.append(await program.spawn(source, f"{name}.py", **options))
                await trio.sleep(0.05 * pace)
        # One of them has a heartbeat timeout, so that its host goes round it, and one has none.
        stopping = [
            await program.spawn(STOPS_SLOWLY, "stops.py", payload=0.4, heartbeat_timeout=timeout)
            for timeout in (pace, math.inf)
        ]
        nursery.start_soon(
            lambda: program.spawn(
                STARTS_SLOWLY, "starts.py", payload=0.4, startup_timeout=pace, heartbeat_timeout=math.inf
            )
        )
        await program.wait_said("begun")
        for handle in stopping:
            nursery.start_soon(handle.stop)
        await program.wait_said("told", times=2)
        program.stop()
        program.stop_children()
        await trio.sleep(1.7 * pace)
        if first == "host first":
            program.go_on()
            await trio.sleep(0.2)
            program.let_children_go_on()
        else:
            program.let_children_go_on()
            await trio.sleep(0.2)
            program.go_on()
        for handle in stopping:
            await handle.wait_ended()
        await program.wait_said("started")
        await program.wait_messages(*running, more=2)
        assert program.ends() == [("stops.py", "completed", None)] * 2


async def test_what_hangs_after_a_common_stop_is_found(launcher: str, tmp_path: Path, pace: float) -> None:
    """The other side: once the host goes on, it has at most its whole timeout again."""
    async with host_program(launcher, tmp_path) as program:
        handle = await program.spawn(ECHO, heartbeat_timeout=pace)
        await program.pid_of(handle)
        program.stop()
        program.stop_children()
        await trio.sleep(1.5 * pace)
        program.go_on()
        with trio.fail_after(pace + SLACK):
            await program.wait_state(ProcessState.TIMED_OUT)
        program.let_children_go_on()


# A process is paused alone.


async def test_a_process_that_is_paused_for_less_than_its_timeout_lives_on(
    launcher: str, tmp_path: Path, pace: float
) -> None:
    """Its runtime beats three times within the timeout, so that a third is spent at most when the pause begins."""
    async with host_here(launcher, tmp_path) as worker:
        handle = await worker.spawn(ECHO, heartbeat_timeout=1.5 * pace)
        pid = await worker.pid_of(handle)
        for number in range(2):
            with stopped(pid):
                await trio.sleep(0.5 * pace)
            await handle.send(number)
            await worker.wait_said(number)
        assert worker.ends() == []


async def test_a_process_that_is_paused_for_longer_is_killed_in_time(
    launcher: str, tmp_path: Path, pace: float
) -> None:
    async with host_here(launcher, tmp_path) as worker:
        handle = await worker.spawn(ECHO, heartbeat_timeout=pace)
        with stopped(await worker.pid_of(handle)), trio.fail_after(pace + SLACK):
            info = await handle.wait_ended()
        assert (info.state, info.error) == (
            ProcessState.TIMED_OUT,
            f"no heartbeat for {pace:g} s; it was stopped by a signal",
        )


# A busy machine.


@pytest.mark.parametrize("beats", [5, pytest.param(20, marks=pytest.mark.slow)])
async def test_on_a_busy_machine_nobody_is_killed_who_beats(tmp_path: Path, beats: int) -> None:
    """Twice as many endless loops as there are cores, and a host whose own loop is busy for nine tenths of the time.

    With one launcher: once a process runs, its launcher makes no difference.
    """
    async with host_here("forked", tmp_path) as worker, trio.open_nursery() as nursery:
        handles = [
            await worker.spawn(source, f"{name}.py", payload=0.5, heartbeat_timeout=1.5, startup_timeout=30)
            for name, source in [("async", BEATS), ("blocking", BEATS_BLOCKING)] * 10
        ]
        with busy_cores():
            nursery.start_soon(be_busy)
            await worker.wait_messages(*handles, more=beats)
            nursery.cancel_scope.cancel()
        assert worker.ends() == []
        assert [handle.state for handle in handles] == [ProcessState.RUNNING] * 20


async def be_busy() -> None:
    """Hold up the loop for nine tenths of the time, a little at a time."""
    while True:
        until = trio.current_time() + 0.045
        while trio.current_time() < until:
            pass
        await trio.sleep(0.005)


# Threads come and go.


@pytest.fixture
def short_lived_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Trio's worker threads retire after a moment instead of ten seconds."""
    monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.05)


async def test_an_idle_host_whose_threads_retire_loses_nobody(
    launcher: str, short_lived_threads: None, tmp_path: Path
) -> None:
    """The kernel kills what has a parent-death signal with the *thread* that has started it."""
    async with host_here(launcher, tmp_path) as worker:
        used = {await trio.to_thread.run_sync(threading.current_thread) for _ in range(3)}
        handles = [await worker.spawn(ECHO, heartbeat_timeout=math.inf) for _ in range(3)]
        used |= {await trio.to_thread.run_sync(threading.current_thread) for _ in range(3)}
        await wait_until(lambda: not any(thread.is_alive() for thread in used))
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("Trio thread")]
        for handle in handles:
            await handle.send("still there")
        await worker.wait_said("still there", times=3)
        assert worker.ends() == []


def test_processes_outlive_every_thread_but_the_one_of_their_host(launcher: str, tmp_path: Path) -> None:
    """No host runs in the main thread, and the thread that was the first to start a process has ended long ago."""
    program = f"""
import math, threading, trio
from pathlib import Path
from support.stall import host_here

trio._core._thread_cache.IDLE_TIMEOUT = 0.05
ECHO = {ECHO!r}

async def one(between):
    async with host_here({launcher!r}, Path({str(tmp_path)!r})) as worker:
        handle = await worker.spawn(ECHO, heartbeat_timeout=math.inf)
        await between()
        await handle.send("still there")
        await worker.wait_said("still there")
        assert worker.ends() == []
        await handle.stop()
        print(*worker.ends()[0][:2])

def run_one(between=trio.lowlevel.checkpoint):
    thread = threading.Thread(target=trio.run, args=(one, between))
    thread.start()
    return thread

has_begun, go_on = threading.Event(), threading.Event()

async def wait():
    has_begun.set()
    while not go_on.is_set():
        await trio.sleep(0.01)

run_one().join()
second = run_one(wait)
has_begun.wait()
run_one().join()
go_on.set()
"""
    # The main thread has nothing more to do, and leaves the second host to its own thread.
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep), TESTS])},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.split("\n").count("entry.py stopped") == 3


TESTS = str(Path(__file__).parents[1])


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Keep a process stopped for the length of a block; it may be gone at its end."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        except ProcessLookupError:
            pass
        os.close(pidfd)


@contextmanager
def busy_cores() -> Iterator[None]:
    """Run twice as many endless loops as there are cores."""
    number = 2 * len(os.sched_getaffinity(0))
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
