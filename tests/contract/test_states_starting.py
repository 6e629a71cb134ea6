"""The rows of the contract's state table that begin in `starting`."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import (
    LaunchError,
    ProcessState,
    SpawnError,
    StartupCancelledError,
    StartupTimeoutError,
)
from spindle_trio.abc import LaunchedProcess, Launcher, LaunchOrder, ResolvedEntry
from spindle_trio.launchers import PythonLauncher
from spindle_trio.testing import MemoryLauncher, ScriptedChild

READY = """
    async def run(process):
        process.ready()
        await trio.sleep_forever()
"""

NEVER_READY = """
    async def run(process):
        await process.send(os.getpid())
        await trio.sleep_forever()
"""

SLOW_TO_LEAVE = """
    async def run(process):
        await process.send("begun")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.4)
"""
"""Not ready, and gone 0.4 s after it was asked to stop."""


class Around(Launcher):
    """Another launcher, in whose way a test can stand."""

    def __init__(self, inner: Launcher) -> None:
        self.inner = inner
        self.failure: Exception | None = None
        self.seconds = 0.0

    async def start(self) -> None:
        await self.inner.start()

    async def aclose(self) -> None:
        await self.inner.aclose()

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        return self.inner.resolve(entry, root)

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        return self._launch(order)

    @asynccontextmanager
    async def _launch(self, order: LaunchOrder) -> AsyncIterator[LaunchedProcess]:
        await trio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        async with self.inner.launch(order) as launched:
            yield launched


# ready


async def test_ready_makes_it_running_sets_both_times_and_lets_spawn_return(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            await trio.sleep(0.25)
            process.ready()
            await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        before = trio.current_time()
        handle = await worker.backend_processes.spawn(entry)
        assert trio.current_time() - before >= 0.25
        info = handle.info
        assert info.state is handle.state is ProcessState.RUNNING
        assert info.ready_at is not None
        assert info.ready_at == info.last_heartbeat_at
        assert (info.ready_at - info.started_at).total_seconds() >= 0.25
        assert (info.ended_at, info.exit_reason, info.error) == (None, None, None)
        assert world.states() == ["starting", "running"]
        assert world.events[-1].previous_state is ProcessState.STARTING
        assert world.events[-1].at == info.ready_at


# the launch fails


async def test_a_launch_that_fails_is_a_launch_error_and_leaves_the_key_free(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(READY)
    launcher = Around(world.launcher())
    launcher.failure = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    async with world.worker(launcher=launcher) as worker:
        with pytest.raises(LaunchError, match="Resource temporarily unavailable") as caught:
            await worker.backend_processes.spawn(entry, key="one")
        assert (caught.value.info.state, caught.value.info.exit_reason) == ("failed", "failed")
        assert caught.value.info.ended_at is not None
        assert world.states() == ["starting", "failed"]
        assert "Resource temporarily unavailable" in world.events[-1].error
        assert await worker.backend_processes.list() == []
        launcher.failure = None
        handle = await worker.backend_processes.spawn(entry, key="one")
        assert handle.state is ProcessState.RUNNING


async def test_an_interpreter_that_has_gone_is_a_launch_error(real_world) -> None:
    """On real processes only: in memory there is no interpreter to lose."""
    python = real_world.root / "python"
    python.symlink_to(sys.executable)
    entry = real_world.entry(READY)
    async with real_world.worker(launcher=PythonLauncher(str(python))) as worker:
        python.unlink()
        with pytest.raises(LaunchError, match="No such file") as caught:
            await worker.backend_processes.spawn(entry)
        assert caught.value.info.state is ProcessState.FAILED


async def test_an_interpreter_that_never_was_keeps_the_host_from_opening(real_world) -> None:
    """On real processes only. A mistake in the host's own set-up shows at once, not at each spawn."""
    with pytest.raises(RuntimeError, match="no interpreter '/no/such/python'"):
        async with real_world.host(PythonLauncher("/no/such/python")):
            raise AssertionError("the host has opened")


# the startup deadline


@pytest.mark.slow
async def test_what_is_not_ready_in_time_is_killed_and_reaped_before_spawn_raises(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(NEVER_READY)
    timeout = world.seconds(15, real=0.8)
    async with world.worker() as worker:
        before = trio.current_time()
        with pytest.raises(StartupTimeoutError, match=f"not ready within {timeout:g} s") as caught:
            await worker.backend_processes.spawn(entry, startup_timeout=timeout)
        world.assert_took(before, timeout)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, SpawnError)
        assert (caught.value.info.state, caught.value.info.exit_reason) == ("timed_out", "timed_out")
        assert world.states() == ["starting", "timed_out"]
        assert await worker.backend_processes.list() == []
        if not world.is_virtual:
            assert not Path(f"/proc/{world.payloads()[0]}").exists()


async def test_a_launch_that_takes_longer_than_the_startup_deadline_times_out(
    world, world_clock: MockClock | None
) -> None:
    launcher = Around(world.launcher())
    launcher.seconds = math.inf
    entry = world.entry(READY)
    launcher.inner = world.launcher()
    async with world.worker(launcher=launcher) as worker:
        before = trio.current_time()
        with pytest.raises(StartupTimeoutError):
            await worker.backend_processes.spawn(entry, startup_timeout=0.3)
        world.assert_took(before, 0.3)
        assert world.reasons() == [("timed_out", "timed_out")]


# complete, fail, exit


# stop, replace, unload


async def test_a_stop_cancels_the_start_at_once_and_the_process_in_its_own_time(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(SLOW_TO_LEAVE)
    async with world.worker() as worker, trio.open_nursery() as nursery:
        pending = world.spawn_soon(nursery, worker, entry)
        await world.wait_payload("begun")
        (info,) = await worker.backend_processes.list()
        asked_at = trio.current_time()
        await worker.backend_processes.stop(info.process_id, reason="enough")
        assert isinstance(pending.error, StartupCancelledError)
        assert str(pending.error).endswith(") was stopped before it was ready")
        assert pending.error.info.state is ProcessState.STOPPING
        assert pending.ended_at - asked_at == pytest.approx(0, abs=0 if world.is_virtual else 0.2)
        world.assert_took(asked_at, 0.4)
        assert world.states() == ["starting", "stopping", "stopped"]
        assert world.reasons() == [("stopped", "stopped")]


async def test_a_replacement_cancels_the_start_at_once_and_begins_when_the_old_one_is_gone(
    world, world_clock: MockClock | None
) -> None:
    old, new = world.entry(SLOW_TO_LEAVE, "old.py"), world.entry(READY, "new.py")
    async with world.worker() as worker, trio.open_nursery() as nursery:
        pending = world.spawn_soon(nursery, worker, old, kind="k", key="one")
        await world.wait_payload("begun")
        asked_at = trio.current_time()
        handle = await worker.backend_processes.spawn(new, kind="k", key="one", replace_existing=True)
        assert isinstance(pending.error, StartupCancelledError)
        assert pending.ended_at - asked_at == pytest.approx(0, abs=0 if world.is_virtual else 0.2)
        assert (handle.info.started_at - world.events[1].at).total_seconds() == pytest.approx(
            0.4, abs=1e-6 if world.is_virtual else 0.3
        )
        assert world.states() == ["starting", "stopping", "stopped", "starting", "running"]
        assert world.reasons() == [("stopped", "replaced")]


async def test_an_unload_cancels_the_start_at_once(world, world_clock: MockClock | None) -> None:
    entry = world.entry(SLOW_TO_LEAVE)
    async with trio.open_nursery() as nursery:
        async with world.worker() as worker:
            pending = world.spawn_soon(nursery, worker, entry)
            await world.wait_payload("begun")
            left_at = trio.current_time()
        world.assert_took(left_at, 0.4)
    assert isinstance(pending.error, StartupCancelledError)
    assert pending.ended_at - left_at == pytest.approx(0, abs=0 if world.is_virtual else 0.2)
    assert world.states() == ["starting", "stopping", "stopped"]
    assert world.reasons() == [("stopped", "backend_unloaded")]


async def test_a_stop_while_it_is_being_launched_launches_nothing_more(world, world_clock: MockClock | None) -> None:
    entry = world.entry(READY)
    launcher = Around(world.launcher())
    launcher.seconds = math.inf
    async with world.worker(launcher=launcher) as worker, trio.open_nursery() as nursery:
        pending = world.spawn_soon(nursery, worker, entry)
        await world.wait_state("starting")
        await worker.backend_processes.stop(world.events[0].process_id)
        await pending.is_over.wait()
        assert isinstance(pending.error, StartupCancelledError)
        assert world.states() == ["starting", "stopping", "stopped"]


# the caller is cancelled (rule 6)


async def test_a_cancelled_spawn_kills_at_once_and_goes_on_when_it_is_reaped(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.on_stop(lambda notice: None)
            await process.send(os.getpid())
            await trio.sleep_forever()
    """)
    async with world.worker(grace_period=20) as worker:
        async with trio.open_nursery() as nursery:
            pending = world.spawn_soon(nursery, worker, entry)
            while not world.messages:
                await world.wait_change()
            (info,) = await worker.backend_processes.list()
            cancelled_at = trio.current_time()
            nursery.cancel_scope.cancel()
        world.assert_took(cancelled_at, 0)
        assert pending.handle is pending.error is None
        assert world.states() == ["starting", "stopped"]
        assert world.reasons() == [("stopped", "stopped")]
        assert await worker.backend_processes.get(info.process_id) is None
        if not world.is_virtual:
            assert not Path(f"/proc/{world.payloads()[0]}").exists()


class CancelAt(trio.abc.Instrument):
    """Cancels a scope before the scheduler's n-th step from now."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.scope = scope
        self.left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


@pytest.mark.parametrize("replaces", [False, True])
async def test_a_spawn_cancelled_at_any_step_leaves_nothing(
    virtual_world, autojump_clock: MockClock, replaces: bool
) -> None:
    """In memory, to count the scheduler's steps: the spawn is cancelled before the first, the second, …"""
    entry = virtual_world.entry("""
        async def run(process):
            await process.send("begun")
            await trio.sleep(0.5)
            process.ready()
            await trio.sleep_forever()
    """)
    launcher = virtual_world.launcher()
    assert isinstance(launcher, MemoryLauncher)
    async with virtual_world.worker(launcher=launcher) as worker:
        processes = worker.backend_processes
        for step in range(1, 1_000):
            seen = len(virtual_world.events)
            if replaces:
                await processes.spawn(entry, key="one")
            with trio.CancelScope() as scope:
                instrument = CancelAt(scope, step)
                trio.lowlevel.add_instrument(instrument)
                try:
                    handle = await processes.spawn(entry, key="one", replace_existing=replaces)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            if not scope.cancelled_caught:
                await handle.stop()
                break
            # Looked at in the very step in which the cancellation goes on. Where a process was to be replaced, that one
            # may live still; the new one may not.
            statistics = virtual_world.opened.statistics()
            assert statistics.queued == 0
            assert statistics.processes <= launcher.live_processes <= replaces
            ids = {event.process_id for event in virtual_world.events[seen:]}
            assert len(ids) <= 1 + replaces
            for info in await processes.list():
                await processes.stop(info.process_id)
            await trio.testing.wait_all_tasks_blocked()
            assert launcher.live_processes == 0
            assert len(virtual_world.reasons()) == len({event.process_id for event in virtual_world.events})
        else:
            raise AssertionError("the spawn never came to its end")
        assert step > 10


async def test_a_real_spawn_cancelled_at_any_moment_leaves_nothing(real_world) -> None:
    """On real processes, by delays from before the fork to after ready; steps as in memory do not repeat there."""
    entry = real_world.entry(READY)
    async with real_world.worker(launcher=real_world.launcher(spares=0)) as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
        await trio.testing.wait_all_tasks_blocked()
        before = real_world.system_state()
        for delay in (0, 0.0005, 0.001, 0.0015, 0.002, 0.0025, 0.003, 0.004, 0.005, 0.01, 0.03, 0.06, 0.1, 0.13):
            spawned = None
            with trio.move_on_after(delay):
                spawned = await worker.backend_processes.spawn(entry, key="one")
                await spawned.stop()
            if spawned is None:
                assert real_world.system_state() == before  # in the very step in which the cancellation goes on
            await worker.backend_processes.stop(real_world.events[-1].process_id)
            assert await worker.backend_processes.list() == []
            await trio.testing.wait_all_tasks_blocked()
            assert real_world.system_state() == before
    assert len(real_world.reasons()) == len({event.process_id for event in real_world.events})


async def test_a_spawn_cancelled_as_it_becomes_ready_leaves_no_process_that_nobody_holds(
    virtual_world, autojump_clock: MockClock
) -> None:
    """In memory, with a child driven by hand: ready and the cancellation have to come in one tick."""
    child = ScriptedChild()
    async with virtual_world.worker(launcher=MemoryLauncher({"child": child})) as worker:
        async with trio.open_nursery() as nursery:
            pending = virtual_world.spawn_soon(nursery, worker, "child")
            await child.started()
            child.ready()
            worker.backend_processes.on_lifecycle(
                lambda event: nursery.cancel_scope.cancel() if event.state == "running" else None
            )
        assert pending.handle is None
        assert child.was_killed
        assert virtual_world.states() == ["starting", "running", "stopped"]
        assert await worker.backend_processes.list() == []


async def test_a_spawn_cancelled_while_it_is_stopped_skips_the_grace_period(
    virtual_world, autojump_clock: MockClock
) -> None:
    """In memory: cancelled in the very tick of the stop that answers it, which real time cannot hit."""
    child = ScriptedChild()
    async with virtual_world.worker(launcher=MemoryLauncher({"child": child})) as worker:
        async with trio.open_nursery() as nursery:
            pending = virtual_world.spawn_soon(nursery, worker, "child")
            await child.started()
            worker.backend_processes.on_lifecycle(
                lambda event: nursery.cancel_scope.cancel() if event.state == "stopping" else None
            )
            nursery.start_soon(worker.backend_processes.stop, virtual_world.events[0].process_id)
        assert pending.handle is None
        assert child.was_killed
        assert virtual_world.reasons() == [("stopped", "stopped")]
