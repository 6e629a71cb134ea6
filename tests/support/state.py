"""Shared by the tests of the state table: an entry that hears of a stop, and a child that is played by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from spindle_trio.testing import MemoryLauncher

if TYPE_CHECKING:
    from spindle_trio import ProcessHandle, Worker
    from spindle_trio.testing import ScriptedChild


LANES = {"control": "process._controls._control_out._lane", "messages": "process._controls._messages"}
"""Gives an `async` entry its lanes, to send what its context would refuse."""


def told_then(statement: str) -> str:
    """An entry that hears of a stop, and then does this."""
    return f"""
        async def run(process):
            asked = trio.Event()
            process.on_stop(lambda notice: asked.set())
            process.ready()
            await asked.wait()
            {statement}
            await trio.sleep_forever()
    """


class scripted:  # noqa: N801  # it reads as a block
    """A worker with one scripted child that is ready."""

    def __init__(self, world: Any, child: ScriptedChild, *, heartbeat_timeout: float = 1_000, **options: Any) -> None:
        self._world, self._child, self._heartbeat_timeout = world, child, heartbeat_timeout
        self._block = world.worker(launcher=MemoryLauncher({"child": child}), **options)

    async def __aenter__(self) -> ProcessHandle:
        worker: Worker = await self._block.__aenter__()
        async with trio.open_nursery() as nursery:
            pending = self._world.spawn_soon(nursery, worker, "child", heartbeat_timeout=self._heartbeat_timeout)
            await self._child.started()
            self._child.ready()
        return pending.handle

    async def __aexit__(self, *error: object) -> bool | None:
        return await self._block.__aexit__(*error)
