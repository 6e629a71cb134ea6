"""Which calls of one process have overrun: were cancelled and go on, where their process is killed for that.

Their time runs from when their handlers may have begun: a process begins calls in their order, and may have said how
many it serves at a time.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import trio

from spindle_trio._supervision._overruns import Overruns
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._supervision._call_stream import CallStream
    from spindle_trio._supervision._deadlines import Deadlines
    from spindle_trio._supervision._pending_call import PendingCall
    from spindle_trio._supervision._process_record import ProcessRecord


@uninterrupted
class OverrunWatch:
    """Keeps the `Overruns` of one process up to date; its lifecycle has their deadline."""

    __slots__ = ("_begins_none", "_deadlines", "_newest_begun", "_pending", "_record")

    def __init__(
        self, record: ProcessRecord, deadlines: Deadlines, pending: dict[int, PendingCall | CallStream]
    ) -> None:
        """Watch none.

        Args:
            record: whose calls these are.
            deadlines: follow what is watched here.
            pending: the calls that have not ended, in the order of their ids.
        """
        self._record = record
        self._deadlines = deadlines
        self._pending = pending
        self._begins_none = False  # whether the process is stopping, and so begins no more calls
        self._newest_begun = 0  # the last id whose handler may have begun; looked up for calls that are watched alone

    def begin(self, call: PendingCall | CallStream, since: float) -> None:
        """Watch a call from the moment at which it is cancelled."""
        life = self._record.life
        if life.overruns is None:
            life.overruns = Overruns(self._record.config.cancel_grace)
        self._look_who_has_begun()
        life.overruns.begin(call.call_id, call.method, since, is_waiting=call.call_id > self._newest_begun)
        self._deadlines.follow()

    def end(self, call_id: int) -> None:
        """Watch a call no longer, since it has ended."""
        overruns = self._record.life.overruns
        if overruns is not None and overruns.end(call_id):
            self._deadlines.follow()

    def follow(self) -> None:
        """Let the time run for watched calls that have waited behind others that have ended, and wait no longer."""
        overruns = self._record.life.overruns
        if overruns is not None and overruns.has_waiting:
            self._look_who_has_begun()
            if overruns.note_begun(self._newest_begun, trio.current_time()):
                self._deadlines.follow()

    def note_concurrency(self, concurrency: int | None) -> None:
        """Note how many calls the process serves at a time from now on; those that have begun stay so."""
        self._look_who_has_begun()
        self._record.concurrency = concurrency
        self.follow()

    def may_have_begun(self, call_id: int) -> bool:
        """Tell whether the handler of a call may have begun; it may, if the process has not said how many it serves."""
        self._look_who_has_begun()
        return call_id <= self._newest_begun

    def note_stop(self) -> None:
        """Note that the process begins no more calls: the time of those that wait never runs."""
        self._look_who_has_begun()
        self._begins_none = True

    def _look_who_has_begun(self) -> None:
        """Look up which call is the newest that may have begun, whichever have begun before."""
        if self._begins_none:
            return
        concurrency, pending = self._record.concurrency, self._pending
        if concurrency is None or len(pending) <= concurrency:
            newest = next(reversed(pending), 0)
        else:
            newest = next(islice(pending, concurrency - 1, None))
        self._newest_begun = max(newest, self._newest_begun)  # it may have served more at a time before
