"""The limit on open descriptors: raised for the host's program, given back to its children."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from spindle_trio import Host, PythonLauncher, open_host
from spindle_trio.abc import Launcher
from spindle_trio.cli import _doctor
from spindle_trio.launchers import ForkServerLauncher
from spindle_trio.launchers._local import _descriptors
from spindle_trio.testing import MemoryLauncher
from support.leftovers import open_descriptors

ENTRY = """
import resource
import subprocess
import sys

def run(process):
    process.ready()
    if process.receive() == "grandchild":
        code = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
        return list(map(int, subprocess.check_output([sys.executable, "-S", "-c", code]).split()))
    return list(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


WITHOUT_STREAMS = """
import os, sys, trio
from spindle_trio import open_host
from spindle_trio.launchers import {launcher}

said = os.dup(1)

async def main():
    for fd in {closed}:  # here, since Trio would take them for itself
        os.close(fd)
    with trio.fail_after(20):
        async with open_host({launcher}()) as host, host.open_worker("w", root=sys.argv[1], user_id="ada") as worker:
            handle = await worker.backend_processes.spawn("entry.py")
            await handle.send("and you?")
            os.write(said, repr(await handle.messages().receive()).encode())

trio.run(main)
"""


def own_limit() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def lower_to(soft: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, own_limit()[1]))


@pytest.fixture(autouse=True)
def own_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a test do with the limit what it likes, as in a program that has opened no host yet."""
    monkeypatch.setattr(_descriptors, "_soft_limit", _descriptors._SoftLimit())
    before = own_limit()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "entry.py").write_text(ENTRY, encoding="utf-8")
    return tmp_path


@pytest.fixture(params=["python", "forked"])
def launcher(request: pytest.FixtureRequest) -> Launcher:
    return PythonLauncher() if request.param == "python" else ForkServerLauncher(preload=(), spares=0)


async def limits_of_a_child(host: Host, root: Path, whose: str = "child") -> list[int]:
    async with host.open_worker("w", root=root, user_id="ada") as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        await handle.send(whose)
        await handle.wait_ended()
        assert isinstance(handle.result, list), handle.info.error
        return [value for value in handle.result if isinstance(value, int)]


async def test_a_host_of_real_processes_raises_the_soft_limit_to_the_hard_one(launcher: Launcher, root: Path) -> None:
    hard = own_limit()[1]
    lower_to(500)
    async with open_host(launcher):
        assert own_limit() == (hard, hard)


@pytest.mark.parametrize("whose", ["child", "grandchild"])
async def test_a_child_and_what_it_starts_keep_the_limit_that_this_program_had(
    launcher: Launcher, root: Path, whose: str
) -> None:
    """Programs that use `select` break at descriptors above 1 023."""
    hard = own_limit()[1]
    lower_to(500)
    async with open_host(launcher) as host:
        assert await limits_of_a_child(host, root, whose) == [500, hard]


async def test_where_the_limits_are_equal_nothing_changes(root: Path) -> None:
    hard = own_limit()[1]
    lower_to(hard)
    async with open_host(PythonLauncher()) as host:
        assert own_limit() == (hard, hard)
        assert await limits_of_a_child(host, root) == [hard, hard]


async def test_the_limit_stays_raised_for_the_other_hosts_of_the_program(root: Path) -> None:
    """A host that closes must not take descriptors away from another one."""
    hard = own_limit()[1]
    lower_to(500)
    async with open_host(PythonLauncher()) as one:
        async with open_host(PythonLauncher()) as other:
            assert await limits_of_a_child(other, root) == [500, hard]
        assert own_limit() == (hard, hard)
        assert await limits_of_a_child(one, root) == [500, hard]
    assert own_limit() == (hard, hard)
    async with open_host(PythonLauncher()) as later:
        assert await limits_of_a_child(later, root) == [500, hard]


async def test_a_limit_that_the_program_has_set_itself_meanwhile_is_what_its_children_get(root: Path) -> None:
    hard = own_limit()[1]
    lower_to(500)
    async with open_host(PythonLauncher()):
        pass
    lower_to(600)
    async with open_host(PythonLauncher()) as host:
        assert own_limit() == (hard, hard)
        assert await limits_of_a_child(host, root) == [600, hard]


def test_a_hard_limit_that_was_raised_meanwhile_leaves_the_childrens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit then looks as if the program had set it, and was set by a host."""
    hard = own_limit()[1]
    lower_to(500)
    _descriptors.raise_limit()
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda _: (hard, hard + 1))
        patch.setattr(resource, "setrlimit", lambda *_: None)
        _descriptors.raise_limit()
    assert _descriptors._soft_limit == _descriptors._SoftLimit(own=500, raised=hard + 1)


async def test_a_system_that_refuses_leaves_the_limit_as_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    lower_to(500)
    with monkeypatch.context() as patch:
        patch.setattr(resource, "setrlimit", refuse)
        async with open_host(PythonLauncher()) as host:
            assert own_limit()[0] == 500
            assert (await limits_of_a_child(host, root))[0] == 500


def test_a_process_that_is_gone_or_protected_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lower_to(500)
    _descriptors.raise_limit()
    _descriptors.give_back_limit(2**22 + 1)  # no process has such a number

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(resource, "prlimit", refuse)
    _descriptors.give_back_limit(os.getpid())


async def test_a_host_in_memory_changes_nothing() -> None:
    lower_to(500)
    async with open_host(MemoryLauncher({})):
        assert own_limit()[0] == 500


async def test_more_processes_run_than_the_soft_limit_had_room_for(launcher: Launcher, root: Path) -> None:
    lower_to(len(open_descriptors()) + _doctor._DESCRIPTORS_OF_THE_HOST + 4 * _doctor._DESCRIPTORS_A_PROCESS)
    async with (
        open_host(launcher) as host,
        host.open_worker("w", root=root, user_id="ada") as worker,
    ):
        for _ in range(15):
            await worker.backend_processes.spawn("entry.py")
        assert len(await worker.backend_processes.list(state="running")) == 15


async def test_a_process_takes_as_many_descriptors_as_doctor_says(launcher: Launcher, root: Path) -> None:
    async with (
        open_host(launcher) as host,
        host.open_worker("w", root=root, user_id="ada") as worker,
    ):
        await worker.backend_processes.spawn("entry.py")
        before = len(open_descriptors())
        for _ in range(3):
            await worker.backend_processes.spawn("entry.py")
        await trio.testing.wait_all_tasks_blocked()
        assert len(open_descriptors()) - before == 3 * _doctor._DESCRIPTORS_A_PROCESS


@pytest.mark.slow
@pytest.mark.parametrize("closed", [(0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("launcher", ["PythonLauncher", "ForkServerLauncher"])
def test_a_program_without_standard_streams_starts_processes(
    tmp_path: Path, launcher: str, closed: tuple[int, ...]
) -> None:
    """Descriptors that it opens then get their numbers, which mean something else in a process."""
    (tmp_path / "entry.py").write_text("def run(process):\n    process.ready()\n    process.send(process.receive())")
    program = WITHOUT_STREAMS.format(launcher=launcher, closed=closed)
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("'and you?'", 0), done.stderr
