"""Kills for lack of memory: where they are counted, and what follows from a count that has risen or has not."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from spindle_trio.launchers._local import _memory_events
from spindle_trio.launchers._local._memory_events import CREDIT_SECONDS, MemoryEvents, groups_in

GUARD_SECONDS = 60
"""How long a program that runs out of memory may take to say so: generous, since the machine may be busy."""

LIMIT_BYTES = 200 * 1024 * 1024


def count(folder: Path, number: int, name: str = "memory.events") -> Path:
    """Write the counter of a group as the kernel does."""
    noise = "low 0\nhigh 3\noom 9\n" if name == "memory.events" else "oom_kill_disable 0\nunder_oom 0\n"
    (folder / name).write_text(f"{noise}oom_kill {number}\noom_group_kill 7\n")
    return folder


# ---- what a counter tells


@pytest.mark.parametrize("name", ["memory.events", "memory.oom_control"])
async def test_a_counter_that_has_risen_tells_of_a_kill_and_one_that_has_not_of_none(
    tmp_path: Path, autojump_clock: MockClock, name: str
) -> None:
    events = MemoryEvents(count(tmp_path, 4, name))
    assert events.has_killed() is False
    count(tmp_path, 5, name)
    assert events.has_killed() is True
    assert events.has_killed() is False


async def test_of_several_that_were_killed_at_once_each_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    events = MemoryEvents(count(tmp_path, 0))
    count(tmp_path, 2)
    assert [events.has_killed() for _ in range(3)] == [True, True, False]


async def test_a_kill_of_somebody_else_is_not_held_against_later_ends(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    events = MemoryEvents(count(tmp_path, 0))
    count(tmp_path, 2)
    assert events.has_killed() is True
    await trio.sleep(CREDIT_SECONDS + 0.1)
    assert events.has_killed() is False


@pytest.mark.parametrize("content", [None, "", "oom 3\n", "oom_kill\n", "oom_kill many\n", "oom_kill -1\n"])
async def test_without_a_counter_nothing_can_be_told(
    tmp_path: Path, autojump_clock: MockClock, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "memory.events").write_text(content)
    assert MemoryEvents(tmp_path).has_killed() is None


async def test_a_counter_that_goes_away_or_appears_tells_nothing_at_that_look(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """How far it had risen before nobody knows."""
    events = MemoryEvents(count(tmp_path, 3))
    (tmp_path / "memory.events").unlink()
    assert events.has_killed() is None
    count(tmp_path, 9)
    assert events.has_killed() is None
    count(tmp_path, 10)
    assert events.has_killed() is True


# ---- where the counter is

MOUNTS = """\
22 1 0:20 / /sys rw - sysfs sysfs rw
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
"""


@pytest.mark.parametrize(
    ("membership", "mounts", "found"),
    [
        (
            "4:memory:/a/b\n1:name=systemd:/\n0::/c\n",
            MOUNTS,
            ["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/unified/c"],
        ),
        ("0::/user.slice\n", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n", ["/sys/fs/cgroup/user.slice"]),
        ("0::/\n", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n", ["/sys/fs/cgroup"]),
        # As in a container: the group that is mounted is its own, or another one.
        ("4:memory:/docker/x\n", "35 31 0:32 /docker/x /m rw - cgroup cgroup rw,memory\n", ["/m"]),
        ("4:memory:/docker/x/y\n", "35 31 0:32 /docker/x /m rw - cgroup cgroup rw,memory\n", ["/m/y"]),
        ("4:memory:/other\n", "35 31 0:32 /docker/x /m rw - cgroup cgroup rw,memory\n", []),
        ("3:cpuset:/\n", MOUNTS, []),
        ("", MOUNTS, []),
    ],
)
def test_the_groups_of_a_program_are_found_where_they_are_mounted(
    membership: str, mounts: str, found: list[str]
) -> None:
    assert list(groups_in(membership, mounts)) == found


def test_a_program_without_an_account_of_its_memory_has_no_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory_events, "groups_in", lambda *_: ["/nowhere"])
    assert MemoryEvents.of_this_program() is None

    def unreadable(_: object) -> str:
        raise PermissionError

    monkeypatch.setattr(_memory_events, "_read", unreadable)
    assert MemoryEvents.of_this_program() is None


# ---- for real


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group whose processes have little memory in all."""
    groups = groups_in(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    group = Path(next(groups, "/nowhere")) / f"spindle-trio-test-{uuid.uuid4().hex}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group for memory can be made here: {error}")
    try:
        limits = [("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), ("memory.max", "memory.swap.max")]
        found = [names for names in limits if (group / names[0]).exists()]
        if not found:
            pytest.skip("control groups do not account for memory here")
        memory, swap = found[0]
        (group / memory).write_text(str(LIMIT_BYTES))
        if (group / swap).exists():
            (group / swap).write_text("0" if swap == "memory.swap.max" else str(LIMIT_BYTES))
        yield group
        assert (group / "cgroup.procs").read_text() == ""
    finally:
        group.rmdir()


PROGRAM = """
import json, os, sys, trio, spindle_trio as spindle

async def main():
    launcher = getattr(spindle, sys.argv[2])()
    async with spindle.open_host(launcher) as host, host.open_worker("w", root=sys.argv[3], user_id="ada") as worker:
        found = []
        for entry in ("killed.py", "greedy.py", "killed.py"):
            handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=60)
            await handle.wait_ended()
            found.append([handle.info.error, handle.post_mortem.exit_status])
        print(json.dumps(found))

with open(sys.argv[1] + "/cgroup.procs", "w") as group:
    group.write(str(os.getpid()))
trio.run(main)
"""


@pytest.mark.parametrize("launcher", ["ForkServerLauncher", "PythonLauncher"])
def test_a_process_that_eats_all_memory_is_told_from_one_that_was_killed(
    tmp_path: Path, small_group: Path, launcher: str
) -> None:
    killed = "import os, signal\ndef run(process):\n    process.ready()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    greedy = """
        def run(process):
            process.ready()
            hoard = []
            while True:
                hoard.append(b"x" * 1_000_000)
    """
    (tmp_path / "killed.py").write_text(killed)
    (tmp_path / "greedy.py").write_text(textwrap.dedent(greedy))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(small_group), launcher, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_whom = "killed by SIGKILL, not for lack of memory"
    assert json.loads(done.stdout) == [
        [f"{by_whom}, without complete() or fail()", by_whom],
        ["killed by SIGKILL: out of memory, without complete() or fail()", "killed by SIGKILL: out of memory"],
        [f"{by_whom}, without complete() or fail()", by_whom],
    ]
