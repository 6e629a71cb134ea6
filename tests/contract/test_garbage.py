"""What has ended is freed at once: nothing of it is left to the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import trio

import spindle_trio as spindle
from spindle_trio.testing import MemoryLauncher, ScriptedChild
from support.contract import ENDS_WHEN_TOLD, WAITS
from support.fork_server import ENDS, fork_host

RAISES = """
async def run(process):
    process.ready()
    raise ValueError("so it ends")
"""

RETURNS_EARLY = """
async def run(process):
    return "before it was ready"
"""


@contextmanager
def garbage_of_ours() -> Iterator[list[str]]:
    """Collect what becomes garbage in a block, and list what of it this package has made."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += sorted({kind for kind in map(_kind, gc.garbage) if kind.startswith("spindle_trio.")})
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _kind(made: object) -> str:
    return f"{type(made).__module__}.{type(made).__qualname__}"


async def kill(processes: spindle.BackendProcesses) -> None:
    await (await processes.spawn("waits.py")).kill()


async def stop(processes: spindle.BackendProcesses) -> None:
    await (await processes.spawn("waits.py", key="k", metadata={"a": 1})).stop()


async def replace(processes: spindle.BackendProcesses) -> None:
    first = await processes.spawn("waits.py", key="k")
    second = await processes.spawn("waits.py", key="k", replace_existing=True)
    await first.wait_ended()
    await second.kill()


async def complete(processes: spindle.BackendProcesses) -> None:
    """Having sent a message each way."""
    handle = await processes.spawn("talks.py")
    async with handle.messages() as messages:
        await handle.send("x")
        stopping = processes.stop  # asks it, and leaves it to go on
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stopping, handle.process_id)
            await messages.receive()
            await handle.send("end")


async def crash(processes: spindle.BackendProcesses) -> None:
    await (await processes.spawn("raises.py")).wait_ended()


async def never_ready(processes: spindle.BackendProcesses) -> None:
    with suppress(spindle.StartupFailedError):
        await processes.spawn("returns.py")


async def given_up(processes: spindle.BackendProcesses) -> None:
    """Its caller is cancelled before it is ready."""
    with trio.CancelScope() as scope:
        processes.on_lifecycle(lambda event: scope.cancel())
        await processes.spawn("waits.py")


@pytest.mark.parametrize("end", [kill, stop, replace, complete, crash, never_ready, given_up])
async def test_an_ended_process_leaves_nothing_to_the_collector(world, world_clock, end):
    for source, name in ((WAITS, "waits.py"), (ENDS_WHEN_TOLD, "talks.py"), (RAISES, "raises.py")):
        world.entry(source, name)
    world.entry(RETURNS_EARLY, "returns.py")
    async with world.quiet_worker() as worker:
        await end(worker.backend_processes)
        await trio.testing.wait_all_tasks_blocked()
        with garbage_of_ours() as garbage:
            for _ in range(2):
                await end(worker.backend_processes)
            await trio.testing.wait_all_tasks_blocked()
    assert garbage == []


async def breach(processes: spindle.BackendProcesses, child: ScriptedChild) -> None:
    handle = await spawned(processes, child)
    child.send_raw_message(b"no JSON")
    await handle.wait_ended()


async def miss_a_heartbeat(processes: spindle.BackendProcesses, child: ScriptedChild) -> None:
    await (await spawned(processes, child)).wait_ended()


async def resist(processes: spindle.BackendProcesses, child: ScriptedChild) -> None:
    """Outlive the kill, and end later."""
    handle = await spawned(processes, child)
    child.resist_kill()
    await handle.kill()
    child.die()


async def fail_to_launch(processes: spindle.BackendProcesses, child: ScriptedChild) -> None:
    with suppress(spindle.LaunchError):
        await processes.spawn("none")


async def spawned(processes: spindle.BackendProcesses, child: ScriptedChild) -> spindle.ProcessHandle:
    handle: spindle.ProcessHandle | None = None

    async def spawn() -> None:
        nonlocal handle
        handle = await processes.spawn("scripted")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spawn)
        await child.started()
        child.ready()
    assert handle is not None
    return handle


@pytest.mark.parametrize("end", [breach, miss_a_heartbeat, resist, fail_to_launch])
async def test_nor_does_one_that_ends_in_an_unusual_way(autojump_clock, end):
    children = [ScriptedChild() for _ in range(3)]
    launcher = MemoryLauncher({"scripted": children, "none": []})
    async with spindle.open_host(launcher) as host, host.open_worker("tests", user_id="ada") as worker:
        await end(worker.backend_processes, children[0])
        await trio.testing.wait_all_tasks_blocked()
        with garbage_of_ours() as garbage:
            for child in children[1:]:
                await end(worker.backend_processes, child)
            await trio.testing.wait_all_tasks_blocked()
    assert garbage == []


async def test_nor_does_a_real_launch_that_fails(tmp_path, monkeypatch):
    async with fork_host(tmp_path) as forked:
        await forked.result(ENDS)
        monkeypatch.setattr(forked.launcher, "_credentials", ())  # as if this program had become another user
        with garbage_of_ours() as found, pytest.raises(spindle.LaunchError, match="has changed its user"):
            await forked.spawn(ENDS)
        assert found == []
