"""A host's memory of ended processes."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import MockClock

from spindle_trio import EndedProcess, Limits, ProcessState, StartupFailedError
from spindle_trio.testing import MemoryLauncher, ScriptedChild
from support.contract import WAITS


async def test_a_host_remembers_the_last_ends_with_their_post_mortems(world, world_clock: MockClock | None) -> None:
    waits = world.entry(WAITS)
    fails = world.entry("async def run(process): raise LookupError('no book')", "fails.py")
    async with world.host() as host:
        handles, seen = [], []
        for name in ("one", "two"):
            async with host.open_worker(name, root=world.root, user_id="ada") as worker:
                worker.backend_processes.on_lifecycle(lambda event: seen.append((event, len(host.recent()))))
                with pytest.raises(StartupFailedError) as caught:
                    await worker.backend_processes.spawn(fails, metadata={"job": name})
                async with worker.backend_processes.open(waits) as handle:
                    handles += [caught.value.info, handle]
        recent = host.recent()
    assert [ended.worker for ended in recent] == ["one", "one", "two", "two"]
    assert [ended.info for ended in recent] == [handles[0], handles[1].info, handles[2], handles[3].info]
    assert [ended.info.state for ended in recent] == [ProcessState.FAILED, ProcessState.STOPPED] * 2
    assert [ended.post_mortem is None for ended in recent] == [False, True] * 2
    assert recent[2].post_mortem.error.startswith("LookupError: no book")
    assert recent[2].info.metadata == {"job": "two"}
    assert [count for event, count in seen if event.state.is_terminal] == [1, 2, 3, 4]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        recent[0].worker = "another"
    assert isinstance(recent[0], EndedProcess)


@pytest.mark.parametrize("most", [0, 2])
async def test_it_remembers_no_more_than_it_is_told_to(virtual_world, autojump_clock: MockClock, most: int) -> None:
    entry = virtual_world.entry("async def run(process): process.ready()")
    async with virtual_world.host(limits=Limits(recent=most)) as host:
        async with host.open_worker("tests", root=virtual_world.root, user_id="ada") as worker:
            ids = []
            for _ in range(4):
                async with worker.backend_processes.open(entry) as handle:
                    ids.append(handle.process_id)
        assert [ended.info.process_id for ended in host.recent()] == ids[4 - most :]


async def test_it_remembers_fewer_with_large_metadata(virtual_world, autojump_clock: MockClock) -> None:
    """A worker at the far end of a channel must not fill the host's memory with processes that have ended."""
    entry = virtual_world.entry("async def run(process): process.ready()")
    async with virtual_world.host() as host:
        async with host.open_worker("tests", root=virtual_world.root, user_id="ada") as worker:
            ids = []
            for mebibytes in (7, 7, 7, 15, 1, 0):
                async with worker.backend_processes.open(entry, metadata={"a": "x" * (mebibytes << 20)}) as handle:
                    ids.append(handle.process_id)
                if mebibytes == 7:
                    assert [ended.info.process_id for ended in host.recent()] == ids[-2:]
        assert [ended.info.process_id for ended in host.recent()] == ids[-2:]


async def test_a_very_long_error_is_cut(virtual_world, autojump_clock: MockClock) -> None:
    """The runtimes of this package cut it themselves; what speaks their protocol need not."""
    child = ScriptedChild()
    async with virtual_world.host(MemoryLauncher({"child": child})) as host:
        async with host.open_worker("tests", user_id="ada") as worker, trio.open_nursery() as nursery:
            virtual_world.spawn_soon(nursery, worker, "child")
            await child.started()
            child.fail("x" * 200_000)
        (ended,) = host.recent()
        assert len(ended.info.error) == len(ended.post_mortem.error) == 64 * 1024 + 1
