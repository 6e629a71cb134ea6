"""Reads the calls lane of one process, and passes on what it carries to those who wait for it."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio

from spindle_trio._errors import PeerProtocolError
from spindle_trio._protocol._call_answers import Answer, CallReader, Failure, Item, StreamEnd, name_of
from spindle_trio._supervision._call_stream import CallStream
from spindle_trio._supervision._post_mortems import one_line
from spindle_trio._supervision._state_table import Input, Phase
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._supervision._outgoing import Outgoing
    from spindle_trio._supervision._overrun_watch import OverrunWatch
    from spindle_trio._supervision._pending_call import PendingCall
    from spindle_trio._supervision._process_record import ProcessRecord
    from spindle_trio.abc import FrameLane

_log = logging.getLogger("spindle_trio.supervisor")

_FRAMES_AT_A_TIME: Final = 1024
"""Frames that are taken in before other tasks have their turn."""

_CAUSE_SECONDS: Final = 1.0
"""How long a caller waits to learn why its handler was cancelled, if it did not ask for that."""


class Feed(Protocol):
    """Takes an input to the table of states."""

    def __call__(self, said: Input, *, text: str) -> None: ...


@uninterrupted
class CallIntake:
    """The reading side of the calls of one process."""

    __slots__ = (
        "_feed",
        "_idle",
        "_is_broken",
        "_lane",
        "_outgoing",
        "_pending",
        "_reader",
        "_record",
        "_uncaused",
        "_watch",
        "late",
    )

    def __init__(
        self,
        record: ProcessRecord,
        outgoing: Outgoing,
        pending: dict[int, PendingCall | CallStream],
        watch: OverrunWatch,
        feed: Feed,
    ) -> None:
        """Begin without a lane.

        Args:
            record: whose calls these are.
            outgoing: starts tasks that live as long as its lanes.
            pending: the calls that have not ended; each that ends is taken out.
            watch: hears which calls have ended.
            feed: is told if the process breaks the protocol.
        """
        self._record = record
        self._outgoing = outgoing
        self._pending = pending
        self._watch = watch
        self._feed: Feed | None = feed  # leads back to the owner of this; until the end
        self._reader = CallReader(record.config.bounds)
        self._lane: FrameLane | None = None
        self._is_broken = False  # after a broken frame nothing that follows it can be trusted
        self._uncaused: set[PendingCall | CallStream] = set()  # their handlers were cancelled, it is not known why
        self._idle: trio.lowlevel.ParkingLot | None = None  # made for the first task that waits until none is left
        self.late: int = 0
        """Final frames that came when their callers had gone on."""

    def start(self, lane: FrameLane) -> None:
        """Read the lane from now on."""
        self._lane = lane
        self._outgoing.start_soon(self._read)

    @trio.lowlevel.enable_ki_protection
    async def _read(self) -> None:
        """Take in frames until the lane ends or is broken."""
        lane, record = self._lane, self._record
        assert lane is not None
        assert record.launched is not None
        try:
            while not self._is_broken:
                self._take(await lane.receive(_FRAMES_AT_A_TIME))
        except trio.EndOfChannel:
            # At its end a process closes all its lanes. One that closes this one alone leaves its callers waiting.
            await trio.sleep(record.launched.control_patience)
            if record.life.phase is Phase.RUNNING and not record.launched.has_exited():
                self._breach("it closed its calls lane and lived on")
        except PeerProtocolError as error:
            self._breach(str(error))

    def take_in(self) -> None:
        """Take in the frames that have arrived, without waiting."""
        lane = self._lane
        if lane is None:
            return
        try:
            while not self._is_broken:
                self._take(lane.receive_nowait(_FRAMES_AT_A_TIME))
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass
        except PeerProtocolError as error:
            self._breach(str(error))

    async def wait_idle(self) -> None:
        """Wait until no call is left."""
        await trio.lowlevel.checkpoint()
        while self._pending:
            if self._idle is None:
                self._idle = trio.lowlevel.ParkingLot()
            await self._idle.park()

    def _take(self, bodies: list[bytes]) -> None:
        """Take in frames that have arrived together; those before one that breaks the protocol count."""
        pending = self._pending
        try:
            for body in bodies:
                frame = self._reader.read(body)
                if frame is None:
                    continue  # its bytes follow
                call = pending.get(frame.call_id)
                if call is None:
                    raise PeerProtocolError(
                        f"{name_of(frame)} for call {frame.call_id}, which has ended or never began"
                    )
                if isinstance(call, CallStream):
                    if isinstance(frame, Item):
                        call.put(frame.value)
                        continue
                    if isinstance(frame, Answer):
                        raise PeerProtocolError(f"an answer for call {frame.call_id}, which is a stream")
                elif isinstance(frame, Item | StreamEnd):
                    raise PeerProtocolError(f"{name_of(frame)} for call {frame.call_id}, which is no stream")
                del pending[frame.call_id]
                self._finish(call, frame)
        finally:
            self._watch.follow()
            if not pending and self._idle is not None:
                self._idle.unpark_all()

    def _finish(self, call: PendingCall | CallStream, frame: Answer | StreamEnd | Failure) -> None:
        self._watch.end(call.call_id)
        if type(frame) is Failure and frame.is_cancelled:
            if not call.is_given_up:
                self._find_cause(call, frame)
                return
        elif call.is_given_up:
            self.late += 1
        call.finish(frame)

    def _find_cause(self, call: PendingCall | CallStream, failure: Failure) -> None:
        """Let a call wait whose handler was cancelled, but not from here: by the call's deadline, or at the end.

        Then its caller's own time runs out in a moment, or the process ends.
        """
        self._uncaused.add(call)
        launched = self._record.launched
        if launched is not None and not launched.has_exited():
            self._outgoing.start_soon(partial(self._settle_uncaused, call, failure))

    async def _settle_uncaused(self, call: PendingCall | CallStream, failure: Failure) -> None:
        await trio.sleep(_CAUSE_SECONDS)
        if call in self._uncaused:
            self._uncaused.remove(call)
            call.finish(failure)

    def _breach(self, text: str) -> None:
        self._is_broken = True
        about = self._record.log_attributes()
        _log.info("process %s: broke the protocol: %s", self._record.process_id, text, extra=about)
        if self._feed is not None:
            self._feed(Input.BROKEN, text=one_line(f"broke the protocol: {text}"))

    def end(self) -> list[PendingCall | CallStream]:
        """Read no more, and return the calls that are left without an outcome; the end of the process is theirs."""
        self._feed = self._lane = None
        left = [*self._pending.values(), *self._uncaused]
        self._pending.clear()
        self._uncaused.clear()
        if self._idle is not None:
            self._idle.unpark_all()
        return left
