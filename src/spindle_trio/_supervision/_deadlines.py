"""One process and the clock: when to look at it next, and which time does not count against it.

Time counts against a process while this program runs too. A program that wakes up later than it had planned has stood
still meanwhile: held up by a call that blocks, or stopped, and then perhaps together with its processes, as in a
container that is frozen. That time is left out of whichever deadline runs.

* The *startup deadline* is slept out in slices. What a slice is too late by is left out to the moment.
* The *others* are slept out in one piece, and mostly put off before they are over. `HeartbeatPoller` notices for them
  that this program has stood still; those that it does not go by, since they have no heartbeat timeout or a short one,
  go by their own deadline alone.

A process that is a task of this very run stands still with it, and only ever needs the first of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._stalls import stood_still_since
from spindle_trio._supervision._lifecycle import Phase
from spindle_trio._supervision._process_record import Identity, ProcessConfig, ProcessRecord

if TYPE_CHECKING:
    from spindle_trio._messages._hub import MessageHub
    from spindle_trio._supervision._intake import Intake

STARTUP_SLICES: Final = 20
"""Into how many parts a startup deadline is cut; a pause of this program costs the process one of them at most."""


class TimedProcess(ProcessRecord):
    """One process whose task sleeps until its next deadline. Implements `Launching` and `Watched`."""

    __slots__ = ("_intake", "_nap", "_seen_at")

    def __init__(self, identity: Identity, terms: ProcessConfig, hub: MessageHub) -> None:
        """Begin in `starting`, now; see `ProcessRecord`."""
        super().__init__(identity, terms, hub)
        self._intake: Intake | None = None  # once it has been launched
        self._nap: trio.CancelScope | None = None  # what its task sleeps in
        self._seen_at = self._lifecycle.started_at  # up to when this program's lateness has been accounted for

    def next_look(self) -> float:
        """Tell when to look next: at the next deadline, and while it starts after a slice of its time at most."""
        deadline = self._lifecycle.deadline()
        if self._lifecycle.phase is not Phase.STARTING:
            return deadline
        return min(deadline, trio.current_time() + self._terms.startup_timeout / STARTUP_SLICES)

    def wake(self) -> None:
        """Have the main task look again: at what has come, and at when the next deadline is."""
        if self._nap is not None:
            self._nap.cancel()

    def put_off_watchdog(self) -> None:
        """Look for a newer heartbeat before the watchdog does; see `HeartbeatPoller`."""
        before = self._lifecycle.heartbeat_at
        self._look_at_heartbeat()
        if self._nap is not None and self._lifecycle.heartbeat_at != before:
            self._nap.deadline = self.next_look()

    def excuse(self, seconds: float) -> None:
        """Leave time in which nobody read out of the startup deadline."""
        self._lifecycle.excuse(seconds)

    def excuse_lateness(self, planned_at: float) -> None:
        """Leave the time by which this program was late out of the deadline that runs (contract, rule 8)."""
        now = trio.current_time()
        if self._lifecycle.phase is not Phase.STARTING:
            if not self.is_in_this_run:
                self.leave_out(stood_still_since(max(planned_at, self._seen_at), self._seen_at, now))
            return
        late, self._seen_at = now - max(planned_at, self._seen_at), now
        if late > 0 and not (self._intake and self._intake.is_paused):
            self._lifecycle.excuse(late)

    def leave_out(self, since: float) -> None:
        """Leave the time since a moment, in which this program stood still, out of the deadline that runs."""
        now = trio.current_time()
        since, self._seen_at = max(since, self._seen_at), now
        self._look_at_heartbeat()  # beats that came meanwhile count from when they came
        self._lifecycle.leave_out(since, now)
        if self._nap is not None:
            self._nap.deadline = self.next_look()
