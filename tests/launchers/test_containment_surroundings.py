"""Containment in unusual surroundings: a host that has been copied by a fork, or is nested in an entry; leftovers."""

from __future__ import annotations

import ctypes
import math
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio

from spindle_trio import Containment, ForkServerLauncher, open_host
from spindle_trio.fork_server._cgroup_level import CgroupLevel
from spindle_trio.launchers._local import _fork_server_start
from support.containment import levels, require
from support.fork_server import GUARD_SECONDS, Forked, fork_host, state_of, wait_until
from support.leftovers import LAST_SECONDS, MARK, alive

pytestmark = pytest.mark.usefixtures("no_survivors")


COPIED_HOST = """
import os, signal, sys
import trio
import spindle_trio as spindle
async def main():
    launcher = spindle.ForkServerLauncher(preload=(), spares=1, containment=sys.argv[2])
    async with spindle.open_host(launcher) as host, host.open_worker("w", root=sys.argv[1], user_id="ada") as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        copy = os.fork()  # as `multiprocessing` does it
        if copy == 0:
            signal.pause()
        print(handle.pid, copy, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.slow
@levels()
def test_a_forked_copy_of_a_host_that_is_killed_keeps_no_process_alive(tmp_path: Path, level: Containment) -> None:
    """The copy has the socket to the fork server open, which therefore sees no end of it."""
    require(level)
    (tmp_path / "entry.py").write_text("def run(process):\n    process.ready()\n    while True: pass")
    (tmp_path / "host.py").write_text(COPIED_HOST)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "host.py"), str(tmp_path), level],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as host:
        assert host.stdout is not None
        entry, copy = map(int, host.stdout.readline().split())
        pidfd = os.pidfd_open(entry)
        try:
            host.kill()
            ended, _, _ = select.select([pidfd], [], [], LAST_SECONDS)
        finally:
            os.kill(copy, signal.SIGKILL)
            os.close(pidfd)
    assert ended


def base_of(forked: Forked) -> Path:
    """Find the control group that a fork server has made for its processes."""
    assert forked.launcher._pool.server is not None
    name = f"spindle-trio-{forked.launcher._pool.server._started.guard_pid}"
    mounts = [
        line.split(" - ")[0].split()[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if " - cgroup2 " in line
    ]
    (base,) = (path for mount in mounts for path in Path(mount).rglob(f"{name}-*"))
    return base


async def test_the_control_group_of_a_process_that_nobody_wants_any_more_goes_with_it(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(require, Containment.CGROUP)
    async with fork_host(tmp_path, spares=2, containment=Containment.CGROUP) as forked:
        base = base_of(forked)
        await forked.wait_spares(2)
        spares = list(forked.launcher._pool.spares)
        forked.launcher._pool.spares.clear()
        await spares[0].end()
        spares[1].discard()
        with trio.fail_after(2):
            await wait_until(lambda: not [path for path in base.iterdir() if path.is_dir()])
    assert not base.exists()


async def test_groups_that_an_entry_has_made_go_with_its_own(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(require, Containment.CGROUP)
    source = """
        import os
        def run(process):
            (group,) = [line[3:].strip() for line in open("/proc/self/cgroup") if line.startswith("0::")]
            os.makedirs(process.payload + group[group.index("/spindle-trio-"):] + "/made/below")
            process.ready()
            return group
    """
    async with fork_host(tmp_path, containment=Containment.CGROUP) as forked:
        base = base_of(forked)
        group = Path(await forked.result(source, payload=str(base.parent))).name
        assert not (base / group).exists()
    assert not base.exists()


async def test_the_group_of_a_guard_that_was_killed_is_removed_by_its_host(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(require, Containment.CGROUP)
    async with fork_host(tmp_path, spares=1, containment=Containment.CGROUP) as forked:
        base, server = base_of(forked), forked.server_pid
        await forked.wait_spares(1)
        assert forked.launcher._pool.server is not None
        os.kill(forked.launcher._pool.server._started.guard_pid, signal.SIGKILL)
        await wait_until(lambda: forked.launcher.server_pid not in (None, server))
        assert not base.exists()


@levels()
def test_a_guard_whose_host_has_given_up_meanwhile_leaves_nothing(level: Containment) -> None:
    """It finds that out when it has a server already."""
    require(level)
    order = _fork_server_start.ServerOrder(dict(os.environ), containment=level)
    guard, pidfd, link, output = _fork_server_start._start(order)
    with link:
        link.shutdown(socket.SHUT_RDWR)
    try:
        ended, _, _ = select.select([pidfd], [], [], GUARD_SECONDS)
        assert ended
    finally:
        os.close(pidfd)
        os.close(output)
        os.waitpid(guard, 0)
    assert alive(f"{MARK}={os.environ[MARK]}") == []
    assert list(Path("/sys/fs/cgroup").rglob(f"spindle-trio-{guard}-*")) == []


def test_another_guard_of_the_same_number_is_in_nobodys_way() -> None:
    """Numbers come again, and other namespaces have the same ones; a guard that was killed clears nothing up."""
    require(Containment.CGROUP)
    guards = [CgroupLevel(), CgroupLevel()]
    try:
        for guard in guards:
            guard.enter_guard()
    finally:
        for guard in guards:
            guard.clear_up()


NESTED_HOST = """
import os, sys
import trio
import spindle_trio as spindle

async def run(process):
    process.ready()
    level, root = process.payload
    launcher = spindle.ForkServerLauncher(preload=(), spares=0, containment=level)
    async with spindle.open_host(launcher) as host, host.open_worker("w", root=root, user_id="ada") as worker:
        server = launcher.server_pid
        handle = await worker.backend_processes.spawn("family.py", heartbeat_timeout=1.2)
        await handle.wait_ended()
        with trio.move_on_after(1.0):
            while is_alive("LC_NESTED_FAMILY"):
                await trio.sleep(0.01)
        return [str(handle.post_mortem), is_alive("LC_NESTED_FAMILY"), launcher.server_pid == server]

def is_alive(mark):
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if mark.encode() in open(f"/proc/{pid}/environ", "rb").read():
                return True
        except OSError:
            pass
    return False
"""

FAMILY_OF_NESTED = """
import os, subprocess, sys
def run(process):
    os.environ["LC_NESTED_FAMILY"] = "1"
    subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"], start_new_session=True)
    process.ready()
    while True: pass
"""


@pytest.mark.slow
@levels()
async def test_a_host_in_a_namespace_takes_nobody_for_another_one(tmp_path: Path, level: Containment) -> None:
    """It sees the numbers of the namespace outside in `/proc`, and those of its own in system calls."""
    await trio.to_thread.run_sync(require, Containment.PIDNS)
    await trio.to_thread.run_sync(require, level)
    (tmp_path / "family.py").write_text(FAMILY_OF_NESTED)
    async with fork_host(tmp_path, containment=Containment.PIDNS) as forked:
        post_mortem, is_left, is_same_server = await forked.result(
            NESTED_HOST, payload=[str(level), str(tmp_path)], heartbeat_timeout=math.inf
        )
    assert "line 7 in run" in post_mortem
    assert not is_left
    assert is_same_server, "the guard has ended"


async def test_a_guard_that_is_slower_than_its_server_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine it may lose the processor, and only it knows the level."""
    await trio.to_thread.run_sync(require, Containment.SWEEP)
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent("""
            import os, select
            fork = os.fork
            def slow_fork():
                pid = fork()
                if pid:
                    select.select([], [], [], 0.3)
                return pid
            os.fork = slow_fork
        """)
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    launcher = ForkServerLauncher(preload=(), spares=0, containment=Containment.SWEEP)
    with trio.fail_after(GUARD_SECONDS):
        async with open_host(launcher, require_containment=Containment.SWEEP) as host:
            assert host.statistics().containment is Containment.SWEEP


async def test_a_host_that_adopts_orphans_reaps_the_server_of_a_guard_that_was_killed(tmp_path: Path) -> None:
    """The first program of a container does, and nobody else would ever reap it."""
    adopt_orphans = 36  # PR_SET_CHILD_SUBREAPER
    prctl = ctypes.CDLL(None).prctl
    assert prctl(adopt_orphans, 1, 0, 0, 0) == 0
    try:
        async with fork_host(tmp_path) as forked:
            server = forked.server_pid
            assert forked.launcher._pool.server is not None
            os.kill(forked.launcher._pool.server._started.guard_pid, signal.SIGKILL)
            await wait_until(lambda: forked.launcher.server_pid not in (None, server))
            assert state_of(server) is None
    finally:
        prctl(adopt_orphans, 0, 0, 0, 0)
