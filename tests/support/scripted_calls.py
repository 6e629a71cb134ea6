"""A handle on a scripted child that takes calls, and calls in tasks of their own."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

import spindle_trio as spindle
from spindle_trio import Limits, ProcessHandle
from spindle_trio._errors import CallError
from spindle_trio._supervision._calls import ProcessCalls
from spindle_trio.testing import MemoryLauncher, ScriptedChild


class Called:
    """A call in a task of its own, and what became of it."""

    def __init__(self) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self.ended_at = math.nan
        self.scope = trio.CancelScope()
        self.is_over = trio.Event()

    async def run(self, call: Callable[[], Awaitable[object]]) -> None:
        with self.scope:
            try:
                self.result = await call()
            except (CallError, trio.Cancelled) as error:
                self.error = error
                raise
            finally:
                self.ended_at = trio.current_time()
                self.is_over.set()

    async def outcome(self) -> object:
        """Wait for the answer, or raise what was raised instead."""
        await self.is_over.wait()
        if self.error is not None:
            raise self.error
        return self.result


class Stage:
    """A handle on a running scripted child."""

    def __init__(self, handle: ProcessHandle, child: ScriptedChild, nursery: trio.Nursery) -> None:
        self.handle = handle
        self.child = child
        self.nursery = nursery

    @property
    def counts(self) -> ProcessCalls:
        calls = self.handle._process.calls
        assert isinstance(calls, ProcessCalls)
        return calls

    def start(self, method: str = "square", payload: object = None, **options: object) -> Called:
        called = Called()

        async def run() -> None:
            with trio.CancelScope():
                try:
                    await called.run(lambda: self.handle.call(method, payload, **options))  # type: ignore[arg-type]
                except CallError:
                    pass

        self.nursery.start_soon(run)
        return called


GUARD_SECONDS = 2_000
"""How long a test may wait in all, in virtual time."""


@asynccontextmanager
async def running(
    *,
    calls: bool = True,
    protocol: int = 2,
    concurrency: int | None = None,
    limits: Limits | None = None,
    **options: float,
) -> AsyncIterator[Stage]:
    """Open a host with one scripted child that is ready; a test that waits in vain fails."""
    child = ScriptedChild()
    handles: list[ProcessHandle] = []
    async with (
        spindle.open_host(MemoryLauncher({"child": child}), limits=limits or Limits(), **options) as host,
        host.open_worker("test", user_id="ada") as worker,
        trio.open_nursery() as nursery,
    ):

        async def guard() -> None:
            await trio.sleep(GUARD_SECONDS)
            nursery.cancel_scope.cancel()  # no deadline, which would travel with each call

        async def spawn() -> None:
            handles.append(await worker.backend_processes.spawn("child", heartbeat_timeout=math.inf))

        nursery.start_soon(guard)
        nursery.start_soon(spawn)
        await child.started()
        child.ready(protocol=protocol, calls=calls, concurrency=concurrency)
        await wait_all_tasks_blocked()
        is_late = True
        yield Stage(handles[0], child, nursery)
        is_late = False
        await wait_all_tasks_blocked()
        if child.is_alive:
            child.exit()
        nursery.cancel_scope.cancel()
    assert not is_late, "the test has waited in vain"
