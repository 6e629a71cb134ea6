"""The levels of containment: which one is chosen, what is demanded and refused, and what each leaves of a tree."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from spindle_trio import Containment, ForkServerLauncher, PythonLauncher, open_host
from spindle_trio.fork_server import _inits, _namespace_level
from spindle_trio.fork_server._level import write_kernel_file
from spindle_trio.fork_server._levels import _in_words
from spindle_trio.launchers._local._containment import open_kill_file
from spindle_trio.testing import MemoryLauncher
from support.containment import (
    AS_NOBODY,
    WITHOUT_SYS_ADMIN,
    at_most_namespaces,
    levels,
    problem_with,
    require,
    run_program,
)
from support.fork_server import ENDS, children_of, fork_host, wait_state_of, wait_until
from support.leftovers import alive, describe, open_descriptors
from support.numbers import outside

pytestmark = pytest.mark.usefixtures("no_survivors")


def test_a_process_whose_group_has_gone_with_its_server_is_told_as_one_that_has_ended(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the process has ended before it could be used"):
        open_kill_file(str(tmp_path / "gone"))


# ---- which level


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [ForkServerLauncher, PythonLauncher])
async def test_the_strongest_level_that_works_is_the_default(launcher: Callable[..., Any]) -> None:
    problems = [await trio.to_thread.run_sync(problem_with, level) for level in Containment]
    strongest = list(Containment)[problems.index(None)]
    async with open_host(launcher(spares=0)) as host:
        statistics = host.statistics()
    assert statistics.containment is strongest
    stronger = list(Containment)[: list(Containment).index(strongest)]
    assert [level for level in statistics.containment_problems if level is not strongest] == stronger


@levels()
@pytest.mark.parametrize("launcher", [ForkServerLauncher, PythonLauncher])
async def test_a_level_that_is_asked_for_is_the_one_that_is_used(
    level: Containment, launcher: Callable[..., Any]
) -> None:
    await trio.to_thread.run_sync(require, level)
    async with open_host(launcher(spares=0, containment=level), require_containment=level) as host:
        assert host.statistics().containment is level
        assert set(host.statistics().containment_problems) <= {level}


async def test_a_host_that_demands_more_than_it_gets_does_not_open() -> None:
    launcher = ForkServerLauncher(preload=(), spares=0, containment=Containment.KILLPG)
    with pytest.raises(
        RuntimeError, match=r"requires containment 'pidns' or better, and ForkServerLauncher offers"
    ) as refused:
        async with open_host(launcher, require_containment=Containment.PIDNS):
            raise AssertionError("opened")
    assert "'killpg' here (the level that it was asked for)" in str(refused.value)
    assert "spindle-trio doctor" in str(refused.value)


async def test_a_host_that_demands_less_than_it_gets_opens() -> None:
    async with open_host(ForkServerLauncher(spares=0), require_containment=Containment.KILLPG) as host:
        assert host.statistics().containment is not None


async def test_a_launcher_without_real_processes_contains_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with open_host(MemoryLauncher({})) as host:
        assert host.statistics().containment is None
    with pytest.raises(
        RuntimeError, match="MemoryLauncher offers none: it starts no processes of the operating system"
    ):
        async with open_host(MemoryLauncher({}), require_containment=Containment.KILLPG):
            raise AssertionError("opened")


@pytest.mark.parametrize("make", [ForkServerLauncher, PythonLauncher])
def test_what_is_no_level_is_refused_at_once(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="'namespace' is not a level of containment; type one of: pidns"):
        make(containment="namespace")
    with pytest.raises(ValueError, match="'namespace' is not a level of containment; type one of: pidns"):
        open_host(require_containment="namespace")  # type: ignore[arg-type]  # what this is about
    assert make(containment="killpg")


REPORT = """
import json, sys, trio
import spindle_trio as spindle
async def main():
    async with spindle.open_host(spindle.ForkServerLauncher(preload=(), spares=0)) as host:
        async with host.open_worker("w", root=sys.argv[1], user_id="ada") as worker:
            error = result = None
            try:
                handle = await worker.backend_processes.spawn("entry.py")
                error, result = (await handle.wait_ended()).error, handle.result
            except spindle.LaunchError as refusal:
                error = str(refusal)
            statistics = host.statistics()
            print(json.dumps([statistics.containment, statistics.containment_problems, error, result]))
    try:
        async with spindle.open_host(require_containment="pidns"):
            print("opened")
    except RuntimeError as error:
        print(error)
trio.run(main)
"""

WHO_AM_I = """
import os, subprocess
def run(process):
    process.ready()
    of_program = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    found = [capabilities(open("/proc/self/status").read()), capabilities(of_program)]
    return {"user": [list(os.getresuid()), list(os.getresgid())], "capabilities": found}
def capabilities(status):
    return int(dict(line.split(":\\t", 1) for line in status.splitlines() if ":\\t" in line)["CapEff"], 16)
"""


@pytest.mark.slow
def test_without_a_privilege_a_user_namespace_gives_it_and_the_entry_has_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "entry.py").write_text(WHO_AM_I)
    report, refusal = run_program(tmp_path, REPORT, as_nobody=True).splitlines()
    level, problems, error, seen = json.loads(report)
    assert error is None
    user, group = (AS_NOBODY["user"], AS_NOBODY["group"]) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    assert seen["user"] == [[user] * 3, [group] * 3]
    if level != "pidns":
        pytest.skip(f"no user namespaces here: {problems['pidns']}")
    assert refusal == "opened"
    assert seen["capabilities"] == [0, 0], "of itself, and of a program that it starts"


def test_a_superuser_who_may_not_make_namespaces_keeps_his_other_rights(tmp_path: Path) -> None:
    """In a user namespace he would lose them, and his entries could do less than he can."""
    if os.geteuid() != 0:
        pytest.skip("only a superuser has rights to lose")
    (tmp_path / "entry.py").write_text(WHO_AM_I)
    report, refusal = run_program(tmp_path, REPORT, before=WITHOUT_SYS_ADMIN).splitlines()
    level, problems, error, seen = json.loads(report)
    assert error is None
    assert level != "pidns"
    assert "CAP_SYS_ADMIN is missing" in problems["pidns"]
    assert "CAP_SYS_ADMIN is missing" in refusal
    assert seen["capabilities"] != 0


def test_where_no_namespace_can_be_made_the_next_level_is_taken_and_the_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "entry.py").write_text(ENDS)
    if problem_with(Containment.PIDNS) is not None:
        pytest.skip("no namespaces at all: then every other test here runs so")
    report, refusal = run_program(tmp_path, REPORT, before=at_most_namespaces(0)).splitlines()
    level, problems, error, _ = json.loads(report)
    assert error is None
    assert level in ("cgroup", "sweep")
    assert "the limit on namespaces is used up (max_pid_namespaces" in problems["pidns"]
    assert "requires containment 'pidns' or better, and DefaultLauncher offers" in refusal
    assert "pidns: the limit on namespaces is used up" in refusal


@pytest.mark.quick(2)
@pytest.mark.parametrize("most", [4, 5, 3, 6])
def test_where_few_namespaces_can_be_made_the_host_opens_at_this_level_or_the_next(tmp_path: Path, most: int) -> None:
    """The host needs two, one for all and one for its process, and trying the level out takes some.

    The kernel gives those back when their inits have ended, at once or later. So the host may find too few for the
    level, and a spawn may find none: either says so.
    """
    (tmp_path / "entry.py").write_text(ENDS)
    if problem_with(Containment.PIDNS) is not None:
        pytest.skip("no namespaces at all: then every other test here runs so")
    report, _ = run_program(tmp_path, REPORT, before=at_most_namespaces(most)).splitlines()
    level, problems, error, _ = json.loads(report)
    if level == "pidns":
        assert error is None or "the limit on namespaces is used up" in error
    else:
        assert level in ("cgroup", "sweep")
        assert error is None
        assert "the limit on namespaces is used up (max_pid_namespaces" in problems["pidns"]


def test_what_a_level_needed_and_did_not_get_is_named() -> None:
    with pytest.raises(OSError, match="Invalid argument") as refused:
        write_kernel_file("/proc/self/oom_score_adj", "nonsense")
    assert _in_words(refused.value) == "/proc/self/oom_score_adj: Invalid argument"


# ---- what is left of a tree

FAMILY = """
import os, signal, subprocess, sys
WAITS = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
def daemon():
    # Forked twice, in a session of its own: nobody's descendant any more.
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(WAITS[0], WAITS)
        os._exit(0)
    os.wait()
{head} run(process):
    daemon()
    kept = [subprocess.Popen(WAITS), subprocess.Popen(WAITS, start_new_session=True)]
    process.ready()
    {end}
"""

ENDINGS = {
    "completes": "return None",
    "exits": "os._exit(3)",
    "is killed": "os.kill(os.getpid(), 9)",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "hangs": "while True: pass",
}


@pytest.mark.quick(6)
@levels(Containment.PIDNS, Containment.CGROUP, Containment.SWEEP)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("head", ["def", "async def"])
async def test_a_tree_is_gone_with_its_process_daemons_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: Containment, ending: str, head: str
) -> None:
    """At the first two levels when the terminal event is published, at the third within a second of it."""
    await trio.to_thread.run_sync(require, level)
    mark = f"LC_FAMILY={ending}"
    async with fork_host(tmp_path, containment=level, environment={"LC_FAMILY": ending}) as forked:
        handle = await forked.spawn(
            FAMILY.format(head=head, end=ENDINGS[ending]), heartbeat_timeout=0.3 if ending == "hangs" else 15.0
        )
        left: list[str] = []
        forked.worker.backend_processes.on_lifecycle(
            lambda event: left.extend(map(describe, alive(mark))) if event.state.is_terminal else None
        )
        await handle.wait_ended()
        if level is Containment.SWEEP:
            with trio.fail_after(1):
                await wait_until(lambda: not alive(mark))
        else:
            assert left == []


@levels(Containment.SWEEP, Containment.CGROUP, Containment.PIDNS)
async def test_what_an_entry_that_kills_its_parent_leaves_is_found_all_the_same(
    tmp_path: Path, level: Containment
) -> None:
    await trio.to_thread.run_sync(require, level)
    mark = "LC_FAMILY=orphans"
    async with fork_host(tmp_path, containment=level, environment={"LC_FAMILY": "orphans"}) as forked:
        end = "os.kill(os.getppid(), 9)\n    while True: pass"
        handle = await forked.spawn(FAMILY.format(head="def", end=end), heartbeat_timeout=0.3)
        await handle.wait_ended()
        with trio.fail_after(2):
            await wait_until(lambda: not alive(mark))
        await wait_until(lambda: forked.launcher.server_pid is not None)
        assert await forked.result(ENDS) is None


# ---- numbers


@levels()
async def test_a_handle_has_the_number_that_this_program_knows_the_entry_by(tmp_path: Path, level: Containment) -> None:
    await trio.to_thread.run_sync(require, level)
    source = "import os\ndef run(process):\n    process.ready()\n    process.send(os.getpid())\n    process.receive()"
    async with fork_host(tmp_path, containment=level) as forked:
        handle = await forked.spawn(source)
        inside = await handle.messages().receive()
        assert handle.pid is not None
        assert isinstance(inside, int)
        assert handle.pid == outside(handle.pid, inside)
        assert (inside == handle.pid) is (level is not Containment.PIDNS)


async def test_entries_in_namespaces_differ_in_their_numbers(tmp_path: Path) -> None:
    """Programs put them into the names of files, and would take each other's."""
    await trio.to_thread.run_sync(require, Containment.PIDNS)
    async with fork_host(tmp_path, containment=Containment.PIDNS) as forked:
        source = "import os\ndef run(process):\n    process.ready()\n    return os.getpid()"
        numbers = [await forked.result(source) for _ in range(10)]
    assert len(set(numbers)) == 10
    assert 1 not in numbers


async def test_a_fork_bomb_is_bounded_by_the_namespace(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(require, Containment.PIDNS)
    if tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) < (6, 14):
        pytest.skip("each namespace has a bound of its own from Linux 6.14 on")
    source = """
        import os
        def run(process):
            process.ready()
            made = 0
            try:
                while made < 20_000:
                    os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
                    made += 1
            except BlockingIOError as error:
                return [made, str(error)]
    """
    async with fork_host(tmp_path, containment=Containment.PIDNS, seconds=60) as forked:
        made, error = await forked.result(source, heartbeat_timeout=60)
    assert 1000 < made < _namespace_level.TREE_NUMBERS
    assert "Resource temporarily unavailable" in error


# ---- hosts within hosts

NESTED = """
import os, trio
import spindle_trio as spindle

async def main(level):
    launcher = spindle.ForkServerLauncher(preload=(), spares=0, containment=level)
    async with spindle.open_host(launcher) as host, host.open_worker("w", user_id="ada") as worker:
        handle = await worker.backend_processes.spawn("inner.py", heartbeat_timeout=0.5)
        os.stat(f"/proc/{handle.pid}")
        await handle.send("seen")
        info = await handle.wait_ended()
        return [str(host.statistics().containment), str(info.state), handle.result]

def run(process):
    process.ready()
    process.heartbeat()
    return trio.run(main, process.payload)
"""


@pytest.mark.slow
async def test_an_entry_can_be_a_host_itself(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(require, Containment.PIDNS)
    (tmp_path / "inner.py").write_text(
        "import os\ndef run(process):\n    process.ready()\n    process.receive()\n    return os.getpid() > 1"
    )
    async with fork_host(tmp_path, containment=Containment.PIDNS) as forked:
        assert await forked.result(NESTED, payload=None) == ["pidns", "completed", True]
        for level in (Containment.SWEEP, Containment.KILLPG):
            assert await forked.result(NESTED, payload=str(level)) == [str(level), "completed", True]


def pidfds_of(pid: int) -> int:
    """How many processes a program holds by their pidfds."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(link) == "anon_inode:[pidfd]"
    return found


async def test_inits_go_with_their_processes_and_a_few_are_ready(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(require, Containment.PIDNS)
    async with fork_host(tmp_path, containment=Containment.PIDNS) as forked:
        (root,) = [int(part) for part in Path(f"/proc/{forked.server_pid}/stat").read_text().split(")")[1].split()[1:2]]
        ready = _inits.AHEAD

        def holdings() -> tuple[int, int]:
            return len(children_of(root)), len(os.listdir(f"/proc/{root}/fd"))

        await forked.result(ENDS)
        await wait_until(lambda: len(children_of(root)) == 1 + ready == pidfds_of(root))  # not between fork and pidfd
        before, descriptors_before = holdings(), len(open_descriptors())
        for number in range(40):
            with trio.move_on_after(0.001 * number if number % 2 else 10):
                await forked.result(ENDS)
        await wait_until(lambda: holdings() == before and len(open_descriptors()) == descriptors_before)


# ---- the guard


@pytest.mark.quick(1)
@levels()
async def test_a_guard_that_is_killed_takes_all_along_and_is_replaced(tmp_path: Path, level: Containment) -> None:
    await trio.to_thread.run_sync(require, level)
    async with fork_host(tmp_path, containment=level) as forked:
        handle = await forked.spawn("def run(process):\n    process.ready()\n    while True: pass")
        server = forked.server_pid
        assert forked.launcher._pool.server is not None
        os.kill(forked.launcher._pool.server._started.guard_pid, signal.SIGKILL)
        await handle.wait_ended()
        assert handle.state == "failed"
        await wait_state_of(server, None, "Z")  # the kernel ends it last: the first process of their namespace
        await wait_until(lambda: forked.launcher.server_pid not in (None, server))
        assert forked.launcher.containment is level
        assert await forked.result(ENDS) is None
