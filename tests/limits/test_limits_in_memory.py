"""Limits on what a process uses, in memory and in virtual time: what a host takes, holds, and says at the end."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

import spindle_trio as spindle
from spindle_trio import PostMortem, ProcessState, ResourceLimits, StreamChannel, Usage, connect_worker
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher, ScriptedChild

MIB = 1024 * 1024


async def beats(process: ProcessContext) -> None:
    process.beat_while_running()
    process.ready()
    await trio.sleep_forever()


async def slowly_ready(process: ProcessContext) -> None:
    await trio.sleep(10)
    process.ready()
    await process.wait_stop()
    await trio.sleep(4)


class NoLimits(MemoryLauncher):
    """A launcher that holds no limit, as those of other authors do."""

    limit_means: Any = {}  # noqa: RUF012


class Groups(MemoryLauncher):
    """A launcher that holds some limits by control groups."""

    limit_means: Any = {"memory": "cgroup", "pids": "cgroup", "open_files": "rlimit"}  # noqa: RUF012
    limit_problems: Any = {"cpus": "no controller cpu is mounted"}  # noqa: RUF012


@attrs.frozen
class World:
    """A worker, here or at the far end of a stream, and the child that its processes are."""

    worker: spindle.Worker
    children: list[ScriptedChild]

    async def spawn(self, **options: Any) -> tuple[spindle.ProcessHandle, ScriptedChild]:
        child = next(child for child in self.children if not child.was_launched)
        async with trio.open_nursery() as nursery:
            handles: list[spindle.ProcessHandle] = []

            async def spawn() -> None:
                handles.append(await self.worker.backend_processes.spawn("child", **options))

            nursery.start_soon(spawn)
            await child.started()
            child.ready()
        return handles[0], child


@asynccontextmanager
async def a_world(*, far: bool = False, **options: Any) -> AsyncIterator[World]:
    children = [ScriptedChild() for _ in range(3)]
    entries = {"child": children, "beats": beats, "slowly_ready": slowly_ready}
    launcher = options.pop("launcher", MemoryLauncher)(entries)
    async with spindle.open_host(launcher, **options) as host:
        if not far:
            async with host.open_worker("test", user_id="ada") as worker:
                yield World(worker, children)
            return
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                functools.partial(host.serve_worker, StreamChannel(theirs), "far", root=None, user_id="ada")
            )
            async with connect_worker(StreamChannel(ours)) as worker:
                yield World(worker, children)


both = pytest.mark.parametrize("far", [False, True], ids=["here", "far"])


# ---- run_seconds


@both
async def test_a_process_that_runs_for_too_long_is_timed_out_and_says_why(far: bool, autojump_clock: MockClock) -> None:
    async with a_world(far=far) as world:
        processes = world.worker.backend_processes
        handle = await processes.spawn("beats", resource_limits=ResourceLimits(run_seconds=30))
        begun_at = trio.current_time()
        info = await handle.wait_ended()
        assert trio.current_time() == pytest.approx(begun_at + 30)
    assert (info.state, info.exit_reason) == ("timed_out", "timed_out")
    assert info.error == "ran for longer than run_seconds=30"
    assert handle.post_mortem is not None
    assert handle.post_mortem.limit == "run_seconds: 30 s used of 30 s"
    assert "resource limit: run_seconds: 30 s used of 30 s" in str(handle.post_mortem)


async def test_run_seconds_count_from_ready_and_a_stop_ends_them(autojump_clock: MockClock) -> None:
    async with a_world(resource_limits=ResourceLimits(run_seconds=5), grace_period=60) as world:
        begun_at = trio.current_time()
        handle = await world.worker.backend_processes.spawn("slowly_ready")
        await trio.sleep(4)
        assert handle.state is ProcessState.RUNNING
        await handle.stop()
        assert (handle.state, handle.info.error, handle.post_mortem) == ("completed", None, None)
        assert trio.current_time() == pytest.approx(begun_at + 10 + 4 + 4)


async def test_a_process_that_ends_in_the_instant_in_which_its_time_is_over_has_ended(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        handle, child = await world.spawn(resource_limits=ResourceLimits(run_seconds=5), heartbeat_timeout=math.inf)
        await trio.sleep(5)
        child.complete(7)
        child.exit()
        await handle.wait_ended()
        assert (handle.state, handle.result) == ("completed", 7)


# ---- memory, pids, processor time


@pytest.mark.parametrize(
    ("limits", "used", "said"),
    [
        (ResourceLimits(memory=512 * MIB), {"memory": 513 * MIB}, "memory: 513 MiB used of 512 MiB"),
        (ResourceLimits(pids=8), {"pids": 9}, "pids: 9 used of 8"),
        (ResourceLimits(cpu_seconds=2.5), {"processor_seconds": 2.75}, "cpu_seconds: 2.8 s used of 2.5 s"),
    ],
)
@both
async def test_an_end_by_a_limit_names_it_with_figure_and_bound(
    far: bool, limits: ResourceLimits, used: dict[str, Any], said: str, autojump_clock: MockClock
) -> None:
    async with a_world(far=far) as world:
        handle, child = await world.spawn(resource_limits=limits)
        sibling, _ = await world.spawn(resource_limits=limits)
        child.write_stderr("Loading all of it")
        child.use(**used)
        info = await handle.wait_ended()
        assert sibling.state is ProcessState.RUNNING
    assert (info.state, info.exit_reason) == ("failed", "failed")
    assert info.error == f"killed at its limit on {said}; the last it wrote to stderr: Loading all of it"
    assert handle.post_mortem == PostMortem(
        info.error,
        exit_status="killed by SIGKILL, sent by its host",
        stderr="Loading all of it",
        since_heartbeat=handle.post_mortem and handle.post_mortem.since_heartbeat,
        limit=said,
    )


async def test_a_process_that_fails_by_itself_at_a_limit_says_both(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        handle, child = await world.spawn(resource_limits=ResourceLimits(pids=8))
        child.resist_kill()
        child.use(pids=9)
        child.fail("BlockingIOError: no more processes")
        child.die()
        info = await handle.wait_ended()
    assert info.error == "BlockingIOError: no more processes; it had reached its limit on pids: 9 used of 8"
    assert handle.post_mortem is not None
    assert handle.post_mortem.limit == "pids: 9 used of 8"


async def test_a_process_that_completes_at_a_limit_has_completed(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        handle, child = await world.spawn(resource_limits=ResourceLimits(pids=8))
        child.resist_kill()
        child.use(pids=9)
        child.complete(7)
        child.die()
        info = await handle.wait_ended()
    assert (info.state, handle.result, info.error, handle.post_mortem) == ("completed", 7, None, None)


async def test_a_process_that_is_killed_at_a_limit_while_it_stops_says_so(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        handle, child = await world.spawn(resource_limits=ResourceLimits(memory=MIB))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.stop)
            await child.stop_requested()
            child.use(memory=2 * MIB)
        assert handle.info.state is ProcessState.STOPPED
        assert handle.info.error == "it had reached its limit on memory: 2 MiB used of 1 MiB"


# ---- figures


@both
async def test_the_present_figures_can_be_asked_for_and_the_highest_are_in_the_info(
    far: bool, autojump_clock: MockClock
) -> None:
    async with a_world(far=far) as world:
        ends: list[spindle.LifecycleEvent] = []
        world.worker.backend_processes.on_lifecycle(ends.append)
        handle, child = await world.spawn()
        assert await handle.usage() == Usage()
        child.use(memory=7 * MIB, pids=3)
        child.use(processor_seconds=1.25, memory=2 * MIB)
        assert await handle.usage() == Usage(2 * MIB, 3, 1.25)
        assert (handle.info.peak_memory, handle.info.processor_seconds) == (None, None)
        child.complete()
        child.exit()
        info = await handle.wait_ended()
        assert (info.peak_memory, info.processor_seconds) == (7 * MIB, 1.25)
        assert (ends[-1].peak_memory, ends[-1].processor_seconds) == (7 * MIB, 1.25)
        assert all((event.peak_memory, event.processor_seconds) == (None, None) for event in ends[:-1])
        with pytest.raises(trio.BrokenResourceError, match="has ended, or there never was one"):
            await handle.usage()


async def test_the_figures_of_an_ended_process_are_kept_by_its_host(autojump_clock: MockClock) -> None:
    child = ScriptedChild()
    async with (
        spindle.open_host(MemoryLauncher({"child": child})) as host,
        host.open_worker("test", user_id="ada") as worker,
    ):
        handle, _ = await World(worker, [child]).spawn()
        child.use(memory=7 * MIB, processor_seconds=2)
        child.exit()
        await handle.wait_ended()
        assert [(ended.info.peak_memory, ended.info.processor_seconds) for ended in host.recent()] == [(7 * MIB, 2)]


async def test_nothing_is_known_of_a_function_in_memory(autojump_clock: MockClock) -> None:
    async with a_world() as world, world.worker.backend_processes.open("beats") as handle:
        assert await handle.usage() == Usage()


async def test_nobody_asks_for_figures_on_a_closed_worker(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        handle = await world.worker.backend_processes.spawn("beats")
    with pytest.raises(trio.ClosedResourceError, match="is closed"):
        await handle.usage()


# ---- the host's bounds


@both
async def test_the_limits_of_a_host_fill_in_what_a_spawn_leaves_open(far: bool, autojump_clock: MockClock) -> None:
    bound = ResourceLimits(memory=512 * MIB, run_seconds=60)
    for given, taken in (
        (None, bound),
        (ResourceLimits(), bound),
        (bound, bound),
        (ResourceLimits(memory=MIB), ResourceLimits(memory=MIB, run_seconds=60)),
        (ResourceLimits(cpus=0.5, run_seconds=7.25), attrs.evolve(bound, cpus=0.5, run_seconds=7.25)),
    ):
        assert await limits_as_launched(given, bound, far=far) == taken


async def limits_as_launched(given: ResourceLimits | None, bound: ResourceLimits | None, *, far: bool) -> object:
    """Spawn with limits, and tell those of the launch order."""
    orders = []

    class Launcher(MemoryLauncher):
        def launch(self, order: Any) -> Any:
            orders.append(order)
            return super().launch(order)

    async with (
        a_world(far=far, launcher=Launcher, resource_limits=bound) as world,
        world.worker.backend_processes.open("beats", resource_limits=given),
    ):
        return orders[0].resource_limits


async def test_without_limits_a_launcher_is_told_of_none(autojump_clock: MockClock) -> None:
    assert await limits_as_launched(None, None, far=False) is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (ResourceLimits(memory=513), "memory=513 is more than this host allows: memory=512 in the resource_limits of"),
        (ResourceLimits(run_seconds=61), "run_seconds=61 is more than this host allows: run_seconds=60 in"),
        (ResourceLimits(cpus=2), "cpus=2 is more than this host allows: cpus=1.5 in"),
    ],
)
@both
async def test_a_spawn_that_asks_for_more_than_the_host_allows_is_refused_by_name(
    far: bool, asked: ResourceLimits, said: str, autojump_clock: MockClock
) -> None:
    async with a_world(far=far, resource_limits=ResourceLimits(memory=512, run_seconds=60, cpus=1.5)) as world:
        with pytest.raises(spindle.ResourceLimitError, match=said) as caught:
            await world.worker.backend_processes.spawn("child", resource_limits=asked)
        assert isinstance(caught.value, ValueError)
        assert not world.children[0].was_launched


async def test_a_limit_that_cannot_be_held_is_refused_by_name_and_before_anything_runs(
    autojump_clock: MockClock,
) -> None:
    async with a_world(launcher=Groups) as world:
        with pytest.raises(
            spindle.ResourceLimitError,
            match=r"^the limit cpus=0.5 cannot be held here: no controller cpu is mounted; spawn without it$",
        ):
            await world.worker.backend_processes.spawn("child", resource_limits=ResourceLimits(pids=8, cpus=0.5))
        with pytest.raises(spindle.ResourceLimitError, match="file_bytes=1 cannot be held here: Groups holds no such"):
            await world.worker.backend_processes.spawn("child", resource_limits=ResourceLimits(file_bytes=1))
        assert not world.children[0].was_launched
    async with a_world(launcher=NoLimits) as world:
        with pytest.raises(spindle.ResourceLimitError, match="the limit memory=1024 cannot be held here: NoLimits"):
            await world.worker.backend_processes.spawn("child", resource_limits=ResourceLimits(memory=1024))
        handle, _ = await world.spawn(resource_limits=ResourceLimits(run_seconds=1024))
        assert handle.state is ProcessState.RUNNING


async def test_a_host_whose_limits_cannot_be_held_does_not_open(autojump_clock: MockClock) -> None:
    limits = ResourceLimits(memory=MIB, cpus=1)
    with pytest.raises(RuntimeError, match=r"^the limit cpus=1 cannot be held here: no controller.*; open the host wi"):
        async with a_world(launcher=Groups, resource_limits=limits):
            pytest.fail("it opened")


async def test_a_host_that_requires_control_groups_does_not_open_with_less(autojump_clock: MockClock) -> None:
    with pytest.raises(RuntimeError) as caught:
        async with a_world(launcher=Groups, require_limits="cgroup"):
            pytest.fail("it opened")
    assert str(caught.value) == (
        "this host requires that limits are held by a cgroup, and Groups holds cpus: none (no controller cpu is "
        "mounted); require less, or see `spindle-trio doctor`"
    )
    with pytest.raises(RuntimeError, match="MemoryLauncher holds memory: script; pids: script; cpus: script; require"):
        async with a_world(require_limits="cgroup"):
            pytest.fail("it opened")


@pytest.mark.parametrize("required", ["rlimit", "", 1, True])
def test_what_cannot_be_required_is_refused(required: Any) -> None:
    with pytest.raises(ValueError, match=r"^require_limits must be 'cgroup' or None, not "):
        spindle.open_host(require_limits=required)


@pytest.mark.parametrize("limits", [{"memory": 1}, 512, spindle.Limits(), ResourceLimits])
async def test_limits_of_another_type_are_refused_by_host_and_spawn(limits: Any, autojump_clock: MockClock) -> None:
    with pytest.raises(TypeError, match=r"^resource_limits must be ResourceLimits or None, as in Res.*, not "):
        spindle.open_host(resource_limits=limits)
    async with a_world() as world:
        with pytest.raises(TypeError, match=r"^resource_limits must be"):
            await world.worker.backend_processes.spawn("child", resource_limits=limits)


async def test_statistics_name_the_means_for_each_limit(autojump_clock: MockClock) -> None:
    async with spindle.open_host(Groups({"child": beats})) as host:
        statistics = host.statistics()
        assert statistics.limit_means == {
            "memory": "cgroup",
            "pids": "cgroup",
            "open_files": "rlimit",
            "run_seconds": "deadline",
        }
        assert statistics.limit_problems == {"cpus": "no controller cpu is mounted"}
