"""When to check one process next, and which time does not count against it.

Time counts against a process only while this program runs. A program that wakes up late was stalled: by a call that
blocks, or because it was stopped, perhaps together with its processes, as in a frozen container. A stall extends
whichever deadline runs.

* The task sleeps towards the *startup deadline* in slices. The lateness of each slice extends the deadline exactly.
* It sleeps towards the *others* in one piece, and most are extended before they are over. `HeartbeatPoller` notices
  stalls for them. It does not poll processes with no heartbeat timeout or a short one: their own deadline alone counts.

A process that is a task of this very run stalls with it, and needs only the first of these.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._stalls import stood_still_since
from spindle_trio._supervision._state_table import Phase

if TYPE_CHECKING:
    from spindle_trio._supervision._process_record import ProcessRecord

STARTUP_SLICES: Final = 20
"""Into how many parts a startup deadline is cut; a pause of this program costs the process one of them at most."""


class Deadlines:
    """The deadlines of one process, and the scopes that they end. Implements `Launching` and `Watched`."""

    __slots__ = ("_nap", "_record", "_seen_at", "startup_scope")

    def __init__(self, record: ProcessRecord) -> None:
        """Begin with the startup deadline.

        Args:
            record: whose deadlines these are.
        """
        self._record = record
        self.startup_scope = trio.CancelScope(shield=True)
        """Around the launch, and a shield around the rest of its task."""
        self._nap: trio.CancelScope | None = None
        self._seen_at = record.life.started_at  # up to when this program's lateness has been accounted for

    @property
    def heartbeat_timeout(self) -> float:
        """Seconds that may pass between two heartbeats; `math.inf` for no watchdog."""
        return self._record.life.heartbeat_timeout

    def next_look(self) -> float:
        """Tell when to look next: at the next deadline, and while it starts after a slice of its time at most."""
        life = self._record.life
        if self._record.launched is None and self.startup_scope.cancel_called:
            return math.inf  # the launch was cancelled, and ends when it can
        if life.phase is not Phase.STARTING:
            return life.deadline()
        return min(life.deadline(), trio.current_time() + life.startup_timeout / STARTUP_SLICES)

    def new_nap(self) -> trio.CancelScope:
        """Make the scope in which its task sleeps until the next look; `wake` ends it."""
        self._nap = trio.CancelScope(deadline=self.next_look())
        return self._nap

    def wake(self) -> None:
        """Have its task look at what has come."""
        if self._nap is not None:
            self._nap.cancel()

    def follow(self) -> None:
        """Have its task sleep until the next look, after a change that may have moved it: this wakes nobody early."""
        if self._nap is not None:
            self._nap.deadline = self.next_look()

    def end_late_launch(self) -> None:
        """End a launch that takes longer than the startup timeout; see `StartupMonitor`."""
        if self._record.life.due(trio.current_time()) is not None:
            self.startup_scope.cancel()

    def put_off_watchdog(self) -> None:
        """Look for a newer heartbeat before the watchdog does; see `HeartbeatPoller`."""
        life = self._record.life
        before = life.heartbeat_at
        self._record.look_at_heartbeat()
        if life.heartbeat_at != before:
            self.follow()

    def extend_by_pause(self, seconds: float) -> None:
        """Leave time in which a full inbox kept this side from reading out of the startup deadline."""
        life = self._record.life
        if life.phase is Phase.STARTING:
            life.extend_deadline(seconds, trio.current_time())

    def extend_by_lateness(self, planned_at: float, *, is_paused: bool = False) -> None:
        """Leave the time by which this program was late out of the deadline that runs (contract, rule 8).

        Args:
            planned_at: when it should have looked.
            is_paused: whether that time is left out as a pause.
        """
        record, now = self._record, trio.current_time()
        if record.life.phase is not Phase.STARTING:
            if not record.is_in_this_run:
                self.extend_by_stall(stood_still_since(max(planned_at, self._seen_at), self._seen_at, now))
            return
        late, self._seen_at = now - max(planned_at, self._seen_at), now
        if late > 0 and not is_paused:
            record.life.extend_deadline(late, now)

    def extend_by_stall(self, since: float) -> None:
        """Leave the time since a moment, in which this program stood still, out of the deadline that runs.

        Not out of the startup deadline, which is slept out in slices: `extend_by_lateness` knows it more exactly.
        """
        record, now = self._record, trio.current_time()
        since, self._seen_at = max(since, self._seen_at), now
        record.look_at_heartbeat()  # beats that came meanwhile count from when they came
        if record.life.phase is not Phase.STARTING:
            record.life.extend_deadline(now - since, now)
        self.follow()
