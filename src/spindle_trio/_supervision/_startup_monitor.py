"""Ends launches that take longer than their startup timeouts: one task for all processes of a worker.

A launch has no watching task of its own: nearly all launches are over after a step or two, before such a task would
have had its first turn. So each launch is an entry in a `dict` here while it lasts.

A plain cancel scope around a launch would not do, since it cannot tell a late launch from a late host. So each watched
launch says how long the monitor may sleep, which is a slice of its startup timeout. After each sleep it is told when
the sleep should have ended. The difference is time in which this program was stalled, which extends the deadline.
"""

from __future__ import annotations

import math
from typing import Protocol

import trio


class Launching(Protocol):
    """A process that is being launched."""

    def next_look(self) -> float:
        """Tell when to look at it next."""

    def extend_by_lateness(self, planned_at: float) -> None:
        """Leave out the time since a look was planned, which may have been before the launch began."""

    def end_late_launch(self) -> None:
        """End the launch if it is due."""


class StartupMonitor:
    """Looks at launches until they are over."""

    def __init__(self) -> None:
        """Begin with none."""
        self._launching: dict[Launching, None] = {}
        self._is_closed = False
        self._sleep = trio.CancelScope()
        self._sleeps_until = math.inf

    def add(self, launching: Launching) -> None:
        """Watch a launch from now on."""
        self._launching[launching] = None
        look_at = launching.next_look()
        if look_at < self._sleeps_until:
            self._sleeps_until = self._sleep.deadline = look_at

    def remove(self, launching: Launching) -> None:
        """Watch a launch no more. Does nothing if it is not watched."""
        if launching in self._launching:
            del self._launching[launching]
            if trio.current_time() > self._sleeps_until:  # it is over in the very turn in which the watch wakes up late
                launching.extend_by_lateness(self._sleeps_until)

    def close(self) -> None:
        """Have `run` return: there will be no more launches."""
        self._is_closed = True
        self._sleep.cancel()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Watch until `close`. The sleep is not cut short for a launch that is over: most are over soon.

        Shielded: a block that has been cancelled may go on for a while, and spawn in its clean-up.
        """
        with trio.CancelScope(shield=True):
            while not self._is_closed:
                with trio.CancelScope(deadline=self._sleeps_until) as self._sleep:
                    await trio.sleep_forever()
                await trio.lowlevel.checkpoint()  # a launch may have ended meanwhile, and then is not late
                for launching in list(self._launching):
                    launching.extend_by_lateness(self._sleeps_until)
                    launching.end_late_launch()
                self._sleeps_until = min((launching.next_look() for launching in self._launching), default=math.inf)
