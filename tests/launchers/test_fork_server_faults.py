"""A fork server that is killed, stopped or out of resources: bounded, told, and nothing left."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from spindle_trio import Containment, LaunchError, StartupCancelledError, StartupTimeoutError
from spindle_trio.launchers._local import _fork_server_client, _fork_server_start, _process_pool, _server_launcher
from support.fork_server import (
    BUSY,
    ENDS,
    WAITS,
    Forked,
    children_of,
    fork_host,
    state_of,
    wait_state_of,
    wait_until,
    write_module,
)
from support.leftovers import open_descriptors
from support.stall import stall

pytestmark = pytest.mark.usefixtures("no_survivors")


async def stop_server(forked: Forked) -> int:
    """Stop the server, as a debugger or a careless `kill -STOP` does, and return its number."""
    os.kill(forked.server_pid, signal.SIGSTOP)
    await wait_state_of(forked.server_pid, "T")
    return forked.server_pid


# ---- the server is killed


async def test_a_server_that_is_killed_takes_its_processes_along_with_one_event_each_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server_launcher, "FIRST_PAUSE", 0.01)
    async with fork_host(tmp_path, spares=2) as forked:
        handles = [await forked.spawn(source) for source in (BUSY, WAITS, BUSY, WAITS)]
        await forked.wait_spares(2)
        killed, spares = forked.server_pid, [spare.pid for spare in forked.launcher._pool.spares]
        os.kill(killed, signal.SIGKILL)
        for handle in handles:
            await handle.wait_ended()
            assert handle.state == "failed"
            assert f"ended together with its fork server (pid {killed})" in str(handle.info.error)
        assert sorted(forked.ends()) == sorted(handle.process_id for handle in handles)
        assert (
            await forked.result("import os\ndef run(process):\n    process.ready()\n    return os.getppid()") != killed
        )
        await forked.wait_spares(2)
        assert not {spare.pid for spare in forked.launcher._pool.spares} & set(spares)
        assert len(forked.ends()) == 5
        assert forked.server_pid != killed


async def test_launches_that_wait_for_a_server_that_is_killed_fail_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server_launcher, "FIRST_PAUSE", 0.01)
    errors: list[str] = []
    async with fork_host(tmp_path) as forked:
        killed = await stop_server(forked)
        async with trio.open_nursery() as nursery:

            async def spawn() -> None:
                with pytest.raises(LaunchError) as caught:
                    await forked.spawn(ENDS)
                errors.append(str(caught.value))

            for _ in range(5):
                nursery.start_soon(spawn)
            await wait_until(lambda: len(forked.launcher._pool.waiting) == 5)
            os.kill(killed, signal.SIGKILL)
        assert len(errors) == 5
        assert all(f"the fork server (pid {killed}) has ended" in error for error in errors)
        assert await forked.result(ENDS) is None


async def test_a_launch_between_two_servers_waits_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that comes while the old one is being ended."""
    asked = trio.Event()
    real = _fork_server_client.ForkServer.end

    async def end(server: _fork_server_client.ForkServer) -> None:
        with trio.CancelScope(shield=True):
            await asked.wait()
            await trio.testing.wait_all_tasks_blocked()
            await real(server)

    monkeypatch.setattr(_fork_server_client.ForkServer, "end", end)
    async with fork_host(tmp_path, spares=1) as forked:
        await forked.wait_spares(1)
        os.kill(forked.server_pid, signal.SIGKILL)
        await wait_until(lambda: forked.launcher.server_pid is None)
        asked.set()
        assert await forked.result(ENDS) is None


async def test_a_launch_during_the_pause_before_the_next_server_waits_within_its_startup_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server_launcher, "FIRST_PAUSE", 0.6)
    monkeypatch.setattr(_process_pool, "ANSWER_SECONDS", 0.2)
    async with fork_host(tmp_path) as forked:
        os.kill(forked.server_pid, signal.SIGKILL)
        await wait_until(lambda: forked.launcher.server_pid is None)
        with pytest.raises(StartupTimeoutError):
            await forked.spawn(ENDS, startup_timeout=0.2)
        monkeypatch.setattr(_process_pool, "ANSWER_SECONDS", 5.0)
        assert await forked.result(ENDS) is None
        assert not forked.launcher._pool.waiting


@pytest.mark.slow
async def test_a_server_that_is_silent_after_the_pause_fails_the_launches_that_waited_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server_launcher, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(_process_pool, "ANSWER_SECONDS", 0.3)
    real = _fork_server_client.ForkServer.start

    async def start(*arguments: Any, **options: Any) -> _fork_server_client.ForkServer:
        server = await real(*arguments, **options)
        os.kill(server.pid, signal.SIGSTOP)
        return server

    async with fork_host(tmp_path) as forked:
        monkeypatch.setattr(_fork_server_client.ForkServer, "start", start)
        os.kill(forked.server_pid, signal.SIGKILL)
        await wait_until(lambda: forked.launcher.server_pid is None)
        with pytest.raises(LaunchError, match=r"has not answered for 0\.3 s"):
            await forked.spawn(ENDS)


async def test_a_server_that_is_killed_again_and_again_is_replaced_after_longer_pauses_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server_launcher, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(_server_launcher, "LONGEST_PAUSE", 0.2)
    started: list[float] = []
    real = _fork_server_client.ForkServer.start

    async def start(*arguments: Any, **options: Any) -> _fork_server_client.ForkServer:
        started.append(trio.current_time())
        return await real(*arguments, **options)

    async with fork_host(tmp_path) as forked:
        monkeypatch.setattr(_fork_server_client.ForkServer, "start", start)
        pauses = []
        for round_ in range(5):
            pid = forked.server_pid
            os.kill(pid, signal.SIGKILL)
            killed_at = trio.current_time()
            await wait_until(lambda: forked.launcher.server_pid not in (None, pid))  # noqa: B023  # called within the round
            pauses.append(started[round_] - killed_at)
        assert await forked.result(ENDS) is None
    for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.2, 0.2), strict=True):
        assert least <= pause < least + 0.5


async def test_a_server_that_cannot_be_started_again_fails_launches_with_the_reason_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server_launcher, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(_server_launcher, "LONGEST_PAUSE", 0.02)
    module = write_module(tmp_path, monkeypatch, "")
    source = tmp_path / "modules" / f"{module}.py"
    async with fork_host(tmp_path, preload=(module,), spares=1) as forked:
        source.unlink()
        os.kill(forked.server_pid, signal.SIGKILL)
        await wait_until(lambda: forked.launcher.server_pid is None)
        for _ in range(3):
            with pytest.raises(LaunchError, match=f"no fork server could be started: .*{module}.* cannot be preloaded"):
                await forked.spawn(ENDS)
        source.touch()
        await wait_until(lambda: forked.launcher.server_pid is not None)
        assert await forked.result(ENDS) is None


async def test_a_server_that_somebody_else_has_reaped_is_replaced_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that ignores SIGCHLD has its children reaped by the system; so has one that waits for any child."""
    monkeypatch.setattr(_server_launcher, "FIRST_PAUSE", 0.01)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with fork_host(tmp_path) as forked:
            killed = forked.server_pid
            os.kill(killed, signal.SIGKILL)
            await wait_until(lambda: forked.launcher.server_pid not in (None, killed))
            handle = await forked.spawn("import os\ndef run(process):\n    process.ready()\n    os._exit(3)")
            await handle.wait_ended()
            assert "exited with code 3" in str(handle.info.error)
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_a_host_that_adopts_orphans_reaps_what_a_killed_server_leaves_behind(tmp_path: Path) -> None:
    """The first program of a container does, and nobody else would ever reap them. It also learns how they ended."""
    adopt_orphans = 36  # PR_SET_CHILD_SUBREAPER
    prctl = ctypes.CDLL(None).prctl
    assert prctl(adopt_orphans, 1, 0, 0, 0) == 0
    try:
        async with fork_host(tmp_path, spares=2, containment=Containment.KILLPG) as forked:
            handles = [await forked.spawn(BUSY) for _ in range(3)]
            await forked.wait_spares(2)
            await wait_until(lambda: len(children_of(forked.server_pid)) == 5)  # none is still to be reaped
            os.kill(forked.server_pid, signal.SIGKILL)
            for handle in handles:
                await handle.wait_ended()
                assert "killed by SIGKILL" in str(handle.info.error)
    finally:
        prctl(adopt_orphans, 0, 0, 0, 0)


@pytest.mark.slow
async def test_a_host_closes_in_time_while_a_new_server_is_being_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server_launcher, "FIRST_PAUSE", 0.01)
    module = write_module(tmp_path, monkeypatch, "")
    async with fork_host(tmp_path, preload=(module,)) as forked:
        write_module(
            tmp_path, monkeypatch, f"open({str(tmp_path / 'up')!r}, 'w')\nimport time; time.sleep(3600)", name=module
        )
        os.kill(forked.server_pid, signal.SIGKILL)
        await wait_until((tmp_path / "up").exists)
        began_at = trio.current_time()
    assert trio.current_time() - began_at < 2


async def test_a_server_that_came_up_when_nobody_waited_any_more_is_ended_at_once() -> None:
    """The launch thread does this when its answer finds nobody."""
    started = await trio.to_thread.run_sync(_fork_server_start._start, _fork_server_start.ServerOrder({}))
    assert state_of(started[0]) is not None
    await trio.to_thread.run_sync(_fork_server_start._end_at_once, started)
    assert state_of(started[0]) is None


# ---- the server is stopped


async def test_a_stopped_server_delays_no_end_by_more_than_a_moment(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        asked, killed, ended = [await forked.spawn(source) for source in (WAITS, BUSY, WAITS)]
        pid = await stop_server(forked)
        with trio.fail_after(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(asked.stop)
                nursery.start_soon(killed.stop)  # does not listen, and is killed after the grace period
                os.kill(ended._process.record.launched.pid, signal.SIGKILL)  # type: ignore[attr-defined]
                nursery.start_soon(ended.wait_ended)
        assert [handle.state for handle in (asked, killed, ended)] == ["stopped", "stopped", "failed"]
        has_init = forked.launcher.containment is Containment.SWEEP  # which says it
        assert ("killed by SIGKILL" if has_init else "an unknown status") in str(ended.info.error)
        assert len(forked.ends()) == 3
        os.kill(pid, signal.SIGCONT)
        await wait_until(lambda: children_of(pid) == [])
        assert await forked.result(ENDS) is None


async def test_a_spawn_on_a_stopped_server_fails_and_its_late_process_is_killed_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fork_host(tmp_path) as forked:
        before = open_descriptors()
        pid = await stop_server(forked)
        began_at = trio.current_time()
        with pytest.raises(StartupTimeoutError, match="its launch was still under way"):
            await forked.spawn(ENDS, startup_timeout=1.0)
        assert 1.0 <= trio.current_time() - began_at < 1.5
        monkeypatch.setattr(_process_pool, "ANSWER_SECONDS", 0.3)
        with pytest.raises(LaunchError, match=rf"the fork server \(pid {pid}\) has not answered for 0.3 s"):
            await forked.spawn(ENDS)
        monkeypatch.undo()
        os.kill(pid, signal.SIGCONT)
        assert await forked.result(ENDS) is None  # asked for last, and so forked last
        await wait_until(lambda: children_of(pid) == [] and open_descriptors() == before)


async def test_what_comes_late_from_a_server_that_was_stopped_may_be_used_as_a_spare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process_pool, "ANSWER_SECONDS", 0.2)
    async with fork_host(tmp_path, spares=1) as forked:
        await forked.wait_spares(1)
        pid = await stop_server(forked)
        assert await forked.spawn(WAITS)  # the spare does not need its server
        with pytest.raises(LaunchError, match="has not answered"):
            await forked.spawn(ENDS)
        os.kill(pid, signal.SIGCONT)
        await forked.wait_spares(1)
        assert await forked.result(ENDS) is None


async def test_a_host_that_stood_still_together_with_its_server_waits_for_its_answers_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that is frozen; here the host is the first to go on. A launch and a reaping are under way."""
    monkeypatch.setattr(_process_pool, "ANSWER_SECONDS", 1.0)
    async with fork_host(tmp_path) as forked, trio.open_nursery() as nursery:
        ends = await forked.spawn(
            "def run(process):\n    process.ready()\n    process.receive()\n    import os; os._exit(7)"
        )
        pid = await stop_server(forked)
        nursery.start_soon(forked.result, ENDS)
        await ends.send("now")
        await wait_until(lambda: forked.launcher._pool.waiting and forked.launcher._pool.server._reaping)  # type: ignore[union-attr]
        stall(2.5)
        await trio.sleep(0.1)
        os.kill(pid, signal.SIGCONT)
        assert "exited with code 7" in str((await ends.wait_ended()).error)


async def test_a_launch_that_was_given_up_does_not_keep_spares_from_being_made(tmp_path: Path) -> None:
    """They are not asked for while a launch waits, and then nobody launches any more."""
    async with fork_host(tmp_path, spares=2) as forked:
        await forked.wait_spares(2)
        pid = await stop_server(forked)
        for _ in range(2):
            await forked.spawn(WAITS)
        with trio.move_on_after(0.1):  # longer than the quiet that comes before spares are asked for
            await forked.spawn(WAITS)
        os.kill(pid, signal.SIGCONT)
        await forked.wait_spares(2)


@pytest.mark.slow
@pytest.mark.parametrize("spares", [0, 2])
async def test_a_host_closes_in_time_although_its_server_was_stopped(tmp_path: Path, spares: int) -> None:
    async with trio.open_nursery() as nursery:
        async with fork_host(tmp_path, spares=spares, grace_period=0.2) as forked:
            for source in (WAITS, BUSY):
                await forked.spawn(source)
            await forked.wait_spares(spares)
            await stop_server(forked)
            (tmp_path / "waits.py").write_text(WAITS)
            for _ in range(spares + 1):  # one of them will wait for the server
                nursery.start_soon(spawn_in_vain, forked)
            await wait_until(lambda: forked.launcher._pool.waiting)
            began_at = trio.current_time()
        assert trio.current_time() - began_at < 0.2 + 2


async def spawn_in_vain(forked: Forked) -> None:
    with suppress(StartupCancelledError):
        await forked.worker.backend_processes.spawn("waits.py")


async def test_a_forked_copy_of_the_host_does_not_hold_up_its_end(tmp_path: Path) -> None:
    """Such a copy has the host's end of the socket, too; a duplicate of that stands for it here."""
    async with fork_host(tmp_path, spares=1) as forked:
        assert await forked.result(ENDS) is None
        assert forked.launcher._pool.server is not None
        copy = os.dup(forked.launcher._pool.server._link.fileno())
        begin = trio.current_time()
    os.close(copy)
    assert trio.current_time() - begin < _fork_server_start.END_SECONDS / 2


@pytest.mark.slow
def test_ctrl_c_while_a_host_closes_comes_out_bare(tmp_path: Path) -> None:
    async def leave() -> None:
        async with fork_host(tmp_path) as forked:
            await stop_server(forked)
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        trio.run(leave)


async def test_a_program_that_has_changed_its_user_is_not_served_by_an_old_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fork_host(tmp_path, spares=1) as forked:
        await forked.wait_spares(1)
        monkeypatch.setattr(os, "getresuid", lambda: (65534, 65534, 65534))
        with pytest.raises(LaunchError, match=r"changed its user .*; open the host after the change"):
            await forked.spawn(ENDS)
        monkeypatch.undo()
        assert await forked.result(ENDS) is None


async def test_a_server_that_withstands_its_kill_does_not_hold_up_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Simulated: a server in an uninterruptible sleep cannot be had. Here its kill does nothing at first."""
    monkeypatch.setattr(_fork_server_start, "END_SECONDS", 0.05)
    monkeypatch.setattr(_fork_server_start, "PATIENCE", 0.05)
    monkeypatch.setattr(_fork_server_start, "LAST_SECONDS", 0.05)
    monkeypatch.setattr(_fork_server_start, "kill_tree", lambda pid, pidfd: None)
    monkeypatch.setattr(_fork_server_start, "signal_pidfd", lambda pidfd, number: None)
    with trio.fail_after(10):
        async with fork_host(tmp_path) as forked:
            pid = await stop_server(forked)
            assert forked.launcher._pool.server is not None
            guard = forked.launcher._pool.server._started.guard_pid
        assert f"(fork server) (pid {guard}) survived SIGKILL" in caplog.text
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: "has ended" in caplog.text)


# ---- the server cannot fork


@pytest.mark.parametrize("arguments", ["11, 'Resource temporarily unavailable'", ""])
async def test_a_fork_that_fails_is_a_failed_launch_and_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    flag = tmp_path / "refuse"
    module = write_module(
        tmp_path,
        monkeypatch,
        f"""
        import os
        fork = os.fork
        def refusing():
            if os.path.exists({str(flag)!r}):
                raise BlockingIOError({arguments})
            return fork()
        os.fork = refusing
    """,
    )
    async with fork_host(tmp_path, preload=(module,)) as forked:
        handle = await forked.spawn(WAITS)
        fds = os.listdir(f"/proc/{forked.server_pid}/fd")
        flag.touch()
        for _ in range(20):
            with pytest.raises(LaunchError, match=r"the fork server could not fork: (Resource temp|BlockingIOError)"):
                await forked.spawn(ENDS)
        flag.unlink()
        assert os.listdir(f"/proc/{forked.server_pid}/fd") == fds
        assert handle.state == "running"
        assert await forked.result(ENDS) is None


async def test_a_server_without_descriptors_fails_launches_until_it_has_some(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        pid = forked.server_pid
        fds = os.listdir(f"/proc/{pid}/fd")
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        for room in range(10):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit_with_room(map(int, fds), room), hard))
            with pytest.raises(LaunchError, match="could not fork: Too many open files"):
                await forked.spawn(ENDS)
            await wait_until(lambda: os.listdir(f"/proc/{pid}/fd") == fds)  # an init may have said it before it closes
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert await forked.result(ENDS) is None
        assert children_of(pid) == []


async def test_a_host_without_descriptors_fails_launches_until_it_has_some(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        (tmp_path / "entry.py").write_text(ENDS)
        before = open_descriptors()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        fds = [int(item.split()[0]) for item in before]
        try:
            for room in range(7):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit_with_room(fds, room), limits[1]))
                with pytest.raises(LaunchError, match=r"no descriptor left|Too many open files"):
                    await forked.worker.backend_processes.spawn("entry.py")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await wait_until(lambda: children_of(forked.server_pid) == [])
        assert open_descriptors() == before
        assert await forked.result(ENDS) is None


def limit_with_room(fds: Iterable[int], room: int) -> int:
    """Return the limit under which a program that has these descriptors can open so many more."""
    taken, limit = set(fds), 0
    while room or limit in taken:
        room -= limit not in taken
        limit += 1
    return limit
