"""What a process cannot do to others: share objects with them, hold them up, or leave anything behind."""

from __future__ import annotations

import os
import signal
import statistics
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import Containment, ProcessState, StartupTimeoutError
from support.contract import exists, wait_state

# ---- payloads


async def test_payloads_are_copies_in_both_directions(world, world_clock: MockClock | None) -> None:
    """In memory no less: an object that two sides share would work there, and fail on real processes only."""
    entry = world.entry("""
        async def run(process):
            messages = process.messages()
            process.ready()
            process.payload["list"].append("changed by the entry")
            process.metadata["list"].append("changed by the entry")
            received = await messages.receive()
            received["list"].append("changed by the entry")
            reply = {"list": [received]}
            await process.send(reply)
            reply["list"].append("changed after sending")
            result = {"list": []}
            process.complete(result)
            result["list"].append("changed after complete")
    """)
    given = {"payload": {"list": []}, "metadata": {"list": []}}
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry, **given)
        assert given == {"payload": {"list": []}, "metadata": {"list": []}}
        given["metadata"]["list"].append("changed by the spawner")
        sent = {"list": []}
        await handle.send(sent)
        sent["list"].append("changed by the spawner")
        assert await handle.messages().receive() == {"list": [{"list": ["changed by the entry"]}]}
        await handle.wait_ended()
    assert handle.info.metadata == {"list": []}
    assert handle.result == {"list": []}
    assert sent == {"list": ["changed by the spawner"]}


async def test_what_is_sent_before_the_launch_is_a_copy_as_of_then(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            return process.payload
    """)
    payload = {"list": ["as given"]}
    async with world.quiet_worker() as worker, trio.open_nursery() as nursery:

        async def change() -> None:
            await wait_state(worker, None, ProcessState.STARTING)
            payload["list"].append("changed while it starts")

        nursery.start_soon(change)
        await trio.testing.wait_all_tasks_blocked()
        handle = await worker.backend_processes.spawn(entry, payload=payload)
        await handle.wait_ended()
    assert handle.result == {"list": ["as given"]}


# ---- floods


@pytest.mark.parametrize("flood", ["process.send('x' * 1_000)", "print('x' * 1_000)"], ids=["messages", "output"])
async def test_a_flooding_child_does_not_delay_anothers_echo_unduly(real_world, flood: str) -> None:
    """Real processes only: it is a matter of real time. The exact bound is a benchmark's; this one shows starvation."""
    flooding = real_world.blocking_entry(
        f"def run(process):\n    process.ready()\n    while True:\n        process.heartbeat()\n        {flood}",
        name="flooding.py",
    )
    echoing = real_world.blocking_entry(
        "def run(process):\n    process.ready()\n    while True:\n        process.send(process.receive())",
        name="echoing.py",
    )
    async with real_world.quiet_worker(grace_period=0) as worker:
        await worker.backend_processes.spawn(flooding)
        echo = await worker.backend_processes.spawn(echoing)
        messages = echo.messages()
        seconds = []
        for number in range(60):
            begin = trio.current_time()
            await echo.send(number)
            assert await messages.receive() == number
            seconds.append(trio.current_time() - begin)
    assert statistics.median(seconds) < 0.1


# ---- trees

FAMILY = """
import os, signal, subprocess, sys, threading

SLEEP = [sys.executable, "-S", "-c", "import signal; signal.pause()", os.environ["LC_FAMILY"]]
PARENT = [sys.executable, "-S", "-c", '''
import signal, subprocess, sys
sleep = [sys.executable, "-S", "-c", "import signal; signal.pause()", sys.argv[1]]
subprocess.Popen([*sleep, "in a session"], start_new_session=True)
print(flush=True)
signal.pause()
''', os.environ["LC_FAMILY"]]

def start_family():
    subprocess.Popen([*SLEEP, "in the group"])
    subprocess.Popen([*SLEEP, "in a session"], start_new_session=True)
    parent = subprocess.Popen([*PARENT, "in the group"], stdout=subprocess.PIPE)
    parent.stdout.readline()
    return "started"

def run(process):
    process.send(start_family())
    process.ready()
"""


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> str:
    """A mark in the arguments of what the entries of a test start: in a namespace they do not know their outer pids."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("LC_FAMILY", mark)
    return mark


def relatives(family: str, where: str = "in") -> list[int]:
    """Find the live processes, by their pids in this program."""
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with suppress(OSError):
            *_, mark, place, _ = ["", "", *Path(f"/proc/{pid}/cmdline").read_text().split("\0")]
            if mark == family and place.startswith(where):
                found.append(pid)
    return found


async def assert_whole(family: str) -> None:
    """All four are there. The system may show no arguments yet of one whose program has just been loaded."""
    with trio.move_on_after(1):
        while len(relatives(family)) < 4:
            await trio.sleep(0.01)
    assert len(relatives(family)) == 4


async def assert_gone(family: str, where: str = "in") -> None:
    """Each is gone at the latest a second after the terminal event (reliability, row 14)."""
    with trio.move_on_after(1):
        while relatives(family, where):
            await trio.sleep(0.01)
    assert relatives(family, where) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "end"),
    [
        ("return 'done'", "by itself"),
        ("process.complete()", "by itself"),
        ("process.fail('no')", "by itself"),
        ("raise LookupError", "by itself"),
        ("sys.exit(3)", "by itself"),
        ("process.sleep(3600)", "stop"),
        ("process.sleep(3600)", "unload"),
        ("signal.pause()", "grace period over"),
        ("signal.pause()", "host.kill"),
        ("signal.pause()", "heartbeat"),
        ("os.write(process._controls.lanes.control.fd, b'\\0\\0\\0\\1x'); signal.pause()", "by itself"),
    ],
)
async def test_the_whole_tree_is_gone_after_each_end_that_the_host_or_the_runtime_brings_about(
    real_world, family: str, statement: str, end: str
) -> None:
    """Children and grandchildren, in the process's group and in sessions of their own. Real processes only."""
    entry = real_world.blocking_entry(f"{FAMILY}    {statement}")
    async with real_world.host(grace_period=0.2) as host:  # noqa: SIM117  # the worker is left first
        async with host.open_worker("tests", root=real_world.root, user_id="ada") as worker:
            handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.3 if end == "heartbeat" else 15)
            assert await handle.messages().receive() == "started"
            if statement in ("process.sleep(3600)", "signal.pause()"):
                await assert_whole(family)
            if end in ("stop", "grace period over"):
                await handle.stop()
            elif end == "host.kill":
                host.kill()
            if end != "unload":
                await handle.wait_ended()
                await assert_gone(family)
    await assert_gone(family)
    assert handle.pid is not None
    assert not exists(handle.pid)


@pytest.mark.slow
async def test_the_whole_tree_is_gone_after_a_startup_timeout(real_world, family: str) -> None:
    entry = real_world.blocking_entry(FAMILY.replace("    process.ready()\n", "    signal.pause()\n"))
    async with real_world.worker() as worker:
        with pytest.raises(StartupTimeoutError):
            await worker.backend_processes.spawn(entry, startup_timeout=0.8)
    assert real_world.payloads() == ["started"]
    await assert_gone(family)


async def test_the_whole_tree_of_an_async_entry_is_gone_after_a_stop(real_world, family: str) -> None:
    entry = real_world.blocking_entry(
        f"{FAMILY.partition('def run')[0]}import trio\nasync def run(process):\n"
        "    await process.send(start_family())\n    process.ready()\n    await trio.sleep_forever()\n"
    )
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert await handle.messages().receive() == "started"
        await assert_whole(family)
        await handle.stop()
        assert handle.info.error is None
        await assert_gone(family)


@pytest.mark.slow
@pytest.mark.parametrize("statement", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "os.abort()"])
async def test_a_process_that_ends_without_a_word_loses_its_group(real_world, family: str, statement: str) -> None:
    """At this level of containment a process in a session of its own is then out of reach; the test ends it itself."""
    entry = real_world.blocking_entry(f"{FAMILY}    {statement}")
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        info = await handle.wait_ended()
        try:
            assert info.state is ProcessState.FAILED
            await assert_gone(family, "in the group")
        finally:
            for pid in relatives(family):
                os.kill(pid, signal.SIGKILL)


async def test_a_grandchild_that_holds_every_pipe_delays_no_end(real_world) -> None:
    """The exit comes from the pidfd, never from an end of file. The grandchild has the lanes too, as far as it can.

    At this level such a one lives on.
    """
    entry = real_world.blocking_entry("""
        import os, signal, subprocess, sys
        def run(process):
            for name in os.listdir("/proc/self/fd"):
                try:
                    os.set_inheritable(int(name), True)
                except OSError:
                    pass
            child = subprocess.Popen(
                [sys.executable, "-S", "-c", "import signal; signal.pause()"], start_new_session=True, close_fds=False
            )
            process.send(child.pid)
            process.ready()
            os._exit(7)
    """)
    async with real_world.quiet_worker(launcher=real_world.launcher(containment=Containment.KILLPG)) as worker:
        handle = await worker.backend_processes.spawn(entry)
        pid = await handle.messages().receive()
        since = trio.current_time()
        try:
            info = await handle.wait_ended()
            real_world.assert_took(since, 0)
            assert exists(pid)
            assert info.error.startswith("exited with code 7")
        finally:
            os.kill(pid, signal.SIGKILL)


async def test_a_forked_copy_that_comes_out_of_the_entry_says_nothing_for_its_process(real_world) -> None:
    """The classic ``fork`` and ``sys.exit`` of a user script; only real processes fork."""
    entry = real_world.blocking_entry("""
        import os, sys

        def run(process):
            process.ready()
            for end in (lambda: sys.exit(0), lambda: 1 / 0, lambda: process.complete("mine")):
                copy = os.fork()
                if not copy:
                    process.send("a copy speaks")
                    end()
                os.waitpid(copy, 0)
            process.send("still here")
            return "done"
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.wait_ended()
    assert real_world.states() == ["starting", "running", "completed"]
    assert (handle.result, real_world.payloads()) == ("done", ["still here"])
