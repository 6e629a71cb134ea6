"""Each system call between a launch and the reaping, failed for each reason: one process ends, and the host goes on.

The table in `notes/reliability.md` says what becomes of each.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from spindle_trio import Containment, ForkServerLauncher, LaunchError, ProcessHandle, SpawnError
from spindle_trio._linux import _control_groups, _pid_numbers, _readiness
from spindle_trio.abc import ExitStatus, LaunchOrder
from spindle_trio.launchers._local import (
    _containment,
    _descriptors,
    _first_frames,
    _forked_process,
    _heartbeat_page,
    _launch_thread,
    _local_process,
    _memory_events,
    _output,
    _reaper,
    _tree,
)
from spindle_trio.launchers._local._local_process import LocalProcess, ProcessBlock
from support.containment import require
from support.fork_server import Forked, fork_host
from support.leftovers import open_descriptors

REASONS = (errno.EMFILE, errno.ENOMEM, errno.EAGAIN, errno.EPERM)

ENTRY = """
import subprocess

def run(process):
    subprocess.Popen(["sleep", "60"])
    process.ready()
    while process.payload == "hangs":
        pass
    while True:
        said = process.receive()
        print(said)
        process.send(said)
"""


class Proxy:
    """Stands for a module or a socket, of which some functions are refused."""

    def __init__(self, original: object, refused: dict[str, object]) -> None:
        self._original = original
        self._refused = refused

    def __getattr__(self, name: str) -> Any:
        return self._refused[name] if name in self._refused else getattr(self._original, name)


def refusing(reason: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(reason, os.strerror(reason))

    return refuse


@contextmanager
def refused(module: ModuleType, call: str, reason: int) -> Iterator[None]:
    """Have one call fail, as one module makes it: `os.open`, say."""
    namespace, *path = call.split(".")
    replaced: object = refusing(reason)
    if namespace == "poll":
        namespace, path = "select", ["poll"]
        replaced = lambda: Proxy(None, {"register": lambda *_: None, "poll": refusing(reason)})  # noqa: E731
    original = getattr(module, namespace)
    for name in reversed(path):
        inner = original if name == path[0] else getattr(original, path[0])
        replaced = Proxy(inner, {name: replaced})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, namespace, replaced)
        yield


class Watched(ForkServerLauncher):
    """Knows the processes that it has launched."""

    def __init__(self, containment: Containment | None) -> None:
        super().__init__(preload=(), spares=0, containment=containment)
        self.blocks: list[ProcessBlock] = []

    def launch(self, order: LaunchOrder) -> ProcessBlock:
        self.blocks.append(super().launch(order))
        return self.blocks[-1]

    @property
    def last(self) -> LocalProcess:
        return self.blocks[-1]._process


async def spawn(forked: Forked, payload: str = "echoes", **options: Any) -> ProcessHandle:
    return await forked.spawn(ENTRY, payload=payload, **{"heartbeat_timeout": math.inf, **options})


async def answer(handle: ProcessHandle, text: str) -> object:
    await handle.send(text)
    async with handle.messages() as messages:
        return await messages.receive()


@pytest.fixture(autouse=True)
def level_works(request: pytest.FixtureRequest) -> None:
    """Skip a test whose level does not work here; outside of its Trio run."""
    callspec = getattr(request.node, "callspec", None)
    level = callspec and callspec.params.get("level")
    if level is not None:
        require(level)


SOME_REASONS = [REASONS[:1], pytest.param(REASONS[1:], marks=pytest.mark.slow)]

AT_THE_END = [
    (None, _local_process, "os.dup"),
    (None, _reaper, "poll"),
    (None, _readiness, "trio.lowlevel.wait_readable"),
    (None, _readiness, "trio.lowlevel.wait_writable"),
    (None, _output, "os.read"),
    (None, _memory_events, "_read"),
    (None, _descriptors, "os.open"),
    (None, _descriptors, "os.dup"),
    (Containment.KILLPG, _tree, "os.open"),
    (Containment.KILLPG, _tree, "os.read"),
    (Containment.KILLPG, _tree, "os.stat"),
    (Containment.KILLPG, _tree, "os.listdir"),
    (Containment.KILLPG, _tree, "os.pidfd_open"),
    (Containment.KILLPG, _tree, "os.killpg"),
    (Containment.KILLPG, _tree, "signal.pidfd_send_signal"),
    (Containment.KILLPG, _pid_numbers, "os.readlink"),
    (Containment.SWEEP, _tree, "os.open"),
    (Containment.SWEEP, _tree, "os.pidfd_open"),
    (Containment.CGROUP, _containment, "os.write"),
    (Containment.CGROUP, _control_groups, "os.rmdir"),
    (Containment.CGROUP, _control_groups, "os.scandir"),
]


@pytest.mark.quick(14)
@pytest.mark.parametrize(
    ("level", "module", "call"),
    [pytest.param(*case, id=f"{case[1].__name__.rpartition('.')[2]}-{case[2]}-{case[0]}") for case in AT_THE_END],
)
@pytest.mark.parametrize("reasons", SOME_REASONS, ids=["first", "others"])
async def test_what_fails_at_the_end_of_a_process_disturbs_nobody_else(
    tmp_path: Path, level: Containment | None, module: ModuleType, call: str, reasons: Sequence[int]
) -> None:
    """One is stopped, and one hangs; a third one goes on."""
    async with fork_host(tmp_path, containment=level) as forked:
        other = await spawn(forked)
        for reason in reasons:
            stopped, hanging = await spawn(forked), await spawn(forked, "hangs", heartbeat_timeout=0.05)
            with refused(module, call, reason):
                await stopped.stop()
                await hanging.wait_ended()
            assert (stopped.state, hanging.state) == ("stopped", "timed_out")
            assert await answer(other, f"{reason}") == f"{reason}"
        assert sorted(forked.ends()) == sorted(set(forked.ends()))


@pytest.mark.parametrize("reason", REASONS)
def test_a_child_that_cannot_be_reaped_has_ended_in_an_unknown_way(reason: int) -> None:
    with refused(_reaper, "os.waitid", reason):
        assert _reaper.reap_child(0) == ExitStatus()


AT_THE_LAUNCH = [
    (None, _first_frames, "os.stat"),
    (None, _forked_process, "os.dup"),
    (None, _tree, "os.open"),
    (None, _heartbeat_page, "mmap.mmap"),
    (None, _output, "os.set_blocking"),
    (Containment.CGROUP, _containment, "os.open"),
]


@pytest.mark.parametrize(
    ("level", "module", "call"),
    [pytest.param(*case, id=f"{case[1].__name__.rpartition('.')[2]}-{case[2]}") for case in AT_THE_LAUNCH],
)
async def test_what_fails_at_a_launch_is_a_failed_launch_and_leaves_nothing(
    tmp_path: Path, level: Containment | None, module: ModuleType, call: str
) -> None:
    async with fork_host(tmp_path, containment=level) as forked:
        other = await spawn(forked)
        before = open_descriptors()
        for reason in REASONS:
            with refused(module, call, reason), pytest.raises(LaunchError):
                await spawn(forked)
            assert await answer(other, f"{reason}") == f"{reason}"
        assert open_descriptors() == before


@pytest.mark.parametrize("lane", ["control", "messages"])
@pytest.mark.parametrize("call", ["recv", "send"])
async def test_a_lane_that_fails_ends_one_process_at_most(tmp_path: Path, lane: str, call: str) -> None:
    launcher = Watched(None)
    async with fork_host(tmp_path, launcher=launcher) as forked:
        other = await spawn(forked)
        for reason in REASONS:
            handle = await spawn(forked)
            socket_lane = getattr(launcher.last, lane)
            original = socket_lane._socket
            socket_lane._socket = Proxy(original, {call: refusing(reason)})
            try:
                await handle.send("what comes of it is not known")
            except trio.BrokenResourceError:
                pass
            socket_lane._socket = original
            await handle.stop()
            assert await answer(other, f"{reason}") == f"{reason}"


async def test_lanes_that_cannot_be_shut_change_nothing_about_an_end(tmp_path: Path) -> None:
    launcher = Watched(None)
    async with fork_host(tmp_path, launcher=launcher) as forked:
        for reason in REASONS:
            handle = await spawn(forked)
            for lane in ("control", "messages"):
                socket_lane = getattr(launcher.last, lane)
                socket_lane._socket = Proxy(socket_lane._socket, {"shutdown": refusing(reason)})
            await handle.stop()
            assert handle.info.error is None


@pytest.mark.parametrize("reason", [errno.ENOMEM, errno.ENOBUFS])
async def test_a_frame_that_there_is_no_memory_for_is_sent_later(tmp_path: Path, reason: int) -> None:
    launcher = Watched(None)
    async with fork_host(tmp_path, launcher=launcher) as forked:
        handle = await spawn(forked)
        lane: Any = launcher.last.messages
        refusals = iter([refusing(reason)] * 3)

        def send(*arguments: Any) -> int:
            return next(refusals, original.send)(*arguments) or 0

        original = lane._socket
        lane._socket = Proxy(original, {"send": send})
        async with handle.messages() as messages:
            handle.send_nowait("first")
            await handle.send("second")
            assert [await messages.receive(), await messages.receive()] == ["first", "second"]


@pytest.mark.slow
@pytest.mark.parametrize("call", ["recvmsg", "send"])
async def test_a_link_that_fails_costs_the_processes_of_its_server_at_most(tmp_path: Path, call: str) -> None:
    launcher = Watched(None)
    async with fork_host(tmp_path, launcher=launcher) as forked:
        for reason in REASONS:
            handle = await spawn(forked)
            server = launcher._pool.server
            assert server is not None
            link: Any = server._link
            original = link._socket
            link._socket = Proxy(original, {call: refusing(reason)})
            with trio.move_on_after(0.05):
                await handle.stop()
            link._socket = original
            await handle.wait_ended()
            assert handle.state in {"stopped", "failed"}
            while True:
                try:
                    again = await spawn(forked)
                except SpawnError:
                    continue  # its server is being replaced
                break
            assert await answer(again, "still there") == "still there"
            await again.stop()


async def test_a_launch_thread_that_cannot_be_started_is_started_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_launch_thread, "_jobs", None)
    with monkeypatch.context() as patch:
        patch.setattr(_launch_thread.threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await _launch_thread.run_in_launch_thread(lambda: 1, lambda _: None)
        _launch_thread.reap_in_background("p-1", os.getpid(), os.dup(0))
    assert await _launch_thread.run_in_launch_thread(lambda: 1, lambda _: None) == 1
