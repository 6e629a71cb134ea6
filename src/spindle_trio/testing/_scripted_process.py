"""The process behind a scripted child. It has no task: the test drives it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType

import trio

from spindle_trio.abc import ABANDON_SECONDS, LaunchedProcess, LaunchOrder
from spindle_trio.testing._memory_process import KILLED, MemoryProcess
from spindle_trio.testing._scripted import ScriptedChild


class ScriptedProcess(MemoryProcess):
    """The process behind a `ScriptedChild`."""

    def __init__(self, order: LaunchOrder, child: ScriptedChild) -> None:
        """Bind a child to this launch."""
        super().__init__(order)
        self._child = child
        self.killed_at: float | None = None
        child.enter(self)

    def launched(self) -> None:
        """Begin: the launch block is entered."""
        self._child.begin()

    def kill(self) -> None:
        """End the child, unless it withstands; see `LaunchedProcess.kill`."""
        if self.has_exited():
            return
        if self.killed_at is None:
            self.killed_at = trio.current_time()
        if self._child.take_kill():
            self.end(KILLED)


class ScriptedBlock(AbstractAsyncContextManager[LaunchedProcess]):
    """Its launch block. Leaving it need not wait for anything but the child's word."""

    def __init__(self, live: set[MemoryProcess], process: ScriptedProcess) -> None:
        """Begin; the process is in `live` while it exists."""
        self._live = live
        self._process = process

    async def __aenter__(self) -> LaunchedProcess:
        await trio.lowlevel.checkpoint()
        self._live.add(self._process)
        self._process.launched()
        return self._process

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        try:
            killed_at = self._process.killed_at
            if killed_at is not None:  # one that withstands is waited for once, here or before the block is left
                with trio.CancelScope(deadline=killed_at + ABANDON_SECONDS, shield=True):
                    await self._process.wait()
        finally:
            self._live.discard(self._process)
            self._process.close_host_ends()
