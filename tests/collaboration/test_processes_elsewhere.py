"""A process without a number here: a task of this run, as the seam's default has it, or part of another program."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
import trio.testing

from spindle_trio import CallTimeoutError, open_host
from spindle_trio.abc import LaunchedProcess, LaunchOrder
from spindle_trio.testing import MemoryLauncher, ScriptedChild
from spindle_trio.testing._scripted_process import ScriptedProcess
from support.stall import stall


class ElsewhereProcess(ScriptedProcess):
    """Runs on another machine, as far as its host knows."""

    is_in_this_run = False


class ElsewhereLauncher(MemoryLauncher):
    """Its processes have no number, and are no tasks of this run."""

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        block = super().launch(order)
        block._process.__class__ = ElsewhereProcess  # type: ignore[attr-defined]
        return block


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("launcher", "state"), [(MemoryLauncher, "timed_out"), (ElsewhereLauncher, "running")], ids=["here", "elsewhere"]
)
async def test_a_pause_of_the_host_does_not_count_against_a_process_elsewhere(
    launcher: type[MemoryLauncher], state: str, tmp_path: Path
) -> None:
    child = ScriptedChild()
    async with (
        open_host(launcher({"child": child})) as host,
        host.open_worker("tests", root=tmp_path, user_id="ada") as worker,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(lambda: worker.backend_processes.spawn("child", heartbeat_timeout=0.3))
        await child.started()
        child.ready()
        await trio.sleep(0.05)
        (info,) = await worker.backend_processes.list()
        stall(0.5)
        await trio.sleep(0.05)
        found = await worker.backend_processes.get(info.process_id)
        assert (found.state if found else "timed_out") == state
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("answers", [True, False])
async def test_a_pause_of_the_host_does_not_count_against_a_cancelled_call(answers: bool, tmp_path: Path) -> None:
    child = ScriptedChild()
    async with (
        open_host(ElsewhereLauncher({"child": child}), cancel_grace=0.3) as host,
        host.open_worker("tests", root=tmp_path, user_id="ada") as worker,
        trio.open_nursery() as nursery,
    ):
        handles = []

        async def spawn() -> None:
            handles.append(await worker.backend_processes.spawn("child", heartbeat_timeout=math.inf))

        nursery.start_soon(spawn)
        await child.started()
        child.ready(protocol=2, calls=True)
        await trio.testing.wait_all_tasks_blocked()
        (handle,) = handles
        with pytest.raises(CallTimeoutError):
            await handle.call("hang", timeout=0.01, overrun="kill")
        stall(0.5)
        await trio.sleep(0.05)
        assert handle.state == "running"
        if answers:
            child.calls.say_cancelled(1)
            await trio.sleep(0.5)
            assert handle.state == "running"
            child.exit()
        assert (await handle.wait_ended()).state == ("failed" if answers else "timed_out")
        nursery.cancel_scope.cancel()
