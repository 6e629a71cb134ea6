"""A nursery around a user's block that leaves the block's own error bare."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import trio


class NurseryScope:
    """Opens a nursery, and closes it once everything in it has ended.

    A plain ``async with trio.open_nursery()`` wraps whatever the block raises in a group. Here the block's error never
    meets the nursery: the owner ends its tasks first, and then closes the nursery as if the block had returned. Only
    a bug in a task comes out as a group.
    """

    def __init__(self) -> None:
        """Prepare a nursery; `open` opens it."""
        self._manager: AbstractAsyncContextManager[trio.Nursery] = trio.open_nursery()
        self._nursery: trio.Nursery | None = None
        self.start_soon: Callable[[Callable[[], Awaitable[object]]], None]
        """Starts a task in the open nursery. One bound method, shared by all callers."""

    @property
    def nursery(self) -> trio.Nursery:
        """The open nursery."""
        assert self._nursery is not None, "the scope has been opened"
        return self._nursery

    async def open(self) -> None:
        """Open the nursery."""
        self._nursery = await self._manager.__aenter__()
        self.start_soon = self._nursery.start_soon

    async def close(
        self, error: BaseException | None, *, ended: Callable[[], Awaitable[object]], kill: Callable[[], object]
    ) -> None:
        """Wait until everything has ended, whatever happens to this task, and close the nursery.

        The caller has asked everything to end; `ended` must be bounded. Cancellation has to wait. A Ctrl-C that arrives
        here, and is the second one, calls `kill`; one that is the first is raised again at the end.

        Args:
            error: what the block raised.
            ended: returns once every task of the nursery is done.
            kill: makes that happen at once.

        Raises:
            KeyboardInterrupt: Ctrl-C arrived here, and the block had not been left by one.
        """
        was_interrupted = is_interrupted = _is_interrupt(error)
        self.nursery.cancel_scope.shield = True
        with trio.CancelScope(shield=True):  # against the nursery's own cancellation, by a task that has crashed
            while True:
                try:
                    await ended()
                    break
                except KeyboardInterrupt:
                    if is_interrupted:
                        kill()
                    is_interrupted = True
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            # A Ctrl-C that arrives while the nursery closes comes out of it in a group, and is treated as one before.
            if group.split(KeyboardInterrupt)[1] is not None:
                raise
            is_interrupted = True
        if is_interrupted and not was_interrupted:
            raise KeyboardInterrupt


def _is_interrupt(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)
