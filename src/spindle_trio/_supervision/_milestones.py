"""What a process has come to, for whoever waits for that.

There is one place to wait for all of it, made for the first who waits: an event for each would cost more than all the
rest of a process that nobody waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from spindle_trio._errors import SpawnError


class Milestones:
    """How far one process has come. Whoever changes a flag calls `wake` in the same step."""

    __slots__ = ("_waiters", "has_ended", "has_launched", "is_answered", "is_let_go", "refusal")

    def __init__(self) -> None:
        """Begin with nothing reached."""
        self.is_answered: bool = False
        """Whether `spawn` can return or raise."""
        self.refusal: type[SpawnError] | None = None
        """What `spawn` raises; `None` if the process became ready."""
        self.has_launched: bool = False
        """Whether the launch is over, however it went."""
        self.has_ended: bool = False
        """Whether the terminal event has been published."""
        self.is_let_go: bool = False
        """Whether its launch block has been left as well, so that no descriptor is held for it any more."""
        self._waiters: trio.lowlevel.ParkingLot | None = None

    def answer(self, refusal: type[SpawnError] | None) -> None:
        """Let `spawn` return, or raise an error of a kind. The first answer stays."""
        if not self.is_answered:
            self.refusal = refusal
            self.is_answered = True
            self.wake()

    async def wait(self, has_come: Callable[[], bool]) -> None:
        """Wait until something has been reached; a checkpoint in any case."""
        if has_come():
            await trio.lowlevel.checkpoint()
        while not has_come():
            if self._waiters is None:
                self._waiters = trio.lowlevel.ParkingLot()
            await self._waiters.park()

    def wake(self) -> None:
        """Let those look again who wait."""
        if self._waiters is not None:
            self._waiters.unpark_all()
