"""Sends the calls of one process: at once if the lane takes them, and else in turn.

The ids of calls are given at the moment of writing, so that they grow on the lane. A program has one stdin, which gets
messages and requests in the order in which they were sent: so a call to a command waits until the messages before it
have left this program.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from spindle_trio._linux._spinning import Spinning
from spindle_trio._protocol._call_answers import encode_call, encode_payload
from spindle_trio._protocol._outbox import Outbox
from spindle_trio._protocol._payload import BinaryWalk, check_payload
from spindle_trio._supervision._call_errors import lost_error, no_calls_error, too_many_error
from spindle_trio._supervision._state_table import Phase
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio._model import CallRequest
    from spindle_trio._model._command import Command
    from spindle_trio._supervision._call_stream import CallStream
    from spindle_trio._supervision._outgoing import Outgoing
    from spindle_trio._supervision._pending_call import PendingCall
    from spindle_trio._supervision._process_record import ProcessRecord
    from spindle_trio.abc import FrameLane

MOST_PENDING: Final = 65_536
"""Calls of one process that may be without a final frame."""


@uninterrupted
class CallSender:
    """The sending side of the calls of one process."""

    __slots__ = (
        "_answered",
        "_ended",
        "_last_id",
        "_outbox",
        "_outgoing",
        "_pending",
        "_record",
        "_start_reading",
        "spinning",
    )

    def __init__(
        self,
        record: ProcessRecord,
        outgoing: Outgoing,
        pending: dict[int, PendingCall | CallStream],
        start_reading: Callable[[FrameLane], None],
        *,
        answered: trio.Event,
        ended: trio.Event,
    ) -> None:
        """Begin without a lane.

        Args:
            record: whose calls these are.
            outgoing: starts tasks that live as long as its lanes.
            pending: gets each call that was sent.
            start_reading: begins to read the lane.
            answered: set once the process is ready, or will not be.
            ended: set once its end has been published.
        """
        self._record = record
        self._outgoing = outgoing
        self._pending = pending
        self._start_reading = start_reading
        self._answered = answered
        self._ended = ended
        self._last_id = 0
        self._outbox: Outbox | None = None  # made for the first call
        self.spinning: Spinning | None = None
        """Decides whether a caller spins for its answer; `None` for never."""

    def send_at_once(self, call: PendingCall | CallStream, request: CallRequest) -> bool:
        """Send a call if it need not wait, and tell whether it was sent: its id is set then.

        Raises:
            PayloadError: the payload is not JSON-safe, or over a limit.
            CallError: the process takes no calls, or has too many.
        """
        has_bytes = check_payload(request.payload, self._record.config.bounds, walk=BinaryWalk)
        if self._record.command is not None:
            self._check_params(self._record.command, request.payload)
            if not self._outgoing.has_sent_messages:
                return False
        if has_bytes or self._record.life.phase is not Phase.RUNNING:
            return False
        outbox = self._outbox or self._open(call)
        if outbox is None:
            return False
        try:
            outbox.send_nowait(self._write(call, request.payload, request.window))
        except (trio.WouldBlock, trio.BrokenResourceError):
            return False
        self._begin(call)
        return True

    async def send_in_turn(self, call: PendingCall | CallStream, request: CallRequest) -> None:
        """Send a call once the process is ready and there is room; its id is set then, and no other task has run.

        Raises:
            PayloadError: its frame would be too long.
            CallError: the process does not take it; `ProcessLostError` and `UnknownMethodError` as well.
        """
        if self._record.life.phase is not Phase.RUNNING:
            await self._wait_running(call)
        if self._record.command is not None:
            await self._outgoing.wait_messages_sent()
        outbox = self._outbox or self._open(call)
        if outbox is None:
            await self._refuse(call)
        bounds, takes_bytes = self._record.config.bounds, self._record.takes_bytes
        payload = encode_payload(request.payload, bounds, takes_bytes=takes_bytes)  # once, however often it is written
        try:
            await outbox.send_in_turn(partial(self._write, call, payload, request.window))
        except trio.BrokenResourceError:
            await self._refuse(call)
        self._begin(call)

    def _check_params(self, command: Command, params: object) -> None:
        from spindle_trio._supervision._command_messages import check_params  # only for those who call one

        check_params(command, params)

    def _begin(self, call: PendingCall | CallStream) -> None:
        """Note that the frame that was written last has been taken."""
        self._last_id += 1
        call.call_id = self._last_id
        self._pending[call.call_id] = call

    def _write(self, call: PendingCall | CallStream, payload: object, window: int | None) -> bytes:
        """Write the frame with the next id.

        Raises:
            PayloadError: it would be too long.
            trio.BrokenResourceError: the process takes no calls any more, while this one waited.
            CallError: the process has too many calls.
        """
        record = self._record
        if record.life.phase is not Phase.RUNNING:
            raise trio.BrokenResourceError
        if len(self._pending) >= MOST_PENDING:
            raise too_many_error(record, call.method, MOST_PENDING)
        left = min(call.deadline, trio.current_effective_deadline()) - trio.current_time()
        return encode_call(self._last_id + 1, call.method, left, payload, window, record.config.limits.frame_bytes)

    def _open(self, call: PendingCall | CallStream) -> Outbox | None:
        """Begin to use the lane; `None` if the process has ended.

        Raises:
            UnknownMethodError: the process takes no calls.
        """
        record, launched = self._record, self._record.launched
        if launched is None or launched.has_exited():
            return None
        lane = launched.calls if record.takes_calls else None
        if lane is None:
            raise no_calls_error(record, call.method)
        self._outbox = Outbox(lane, self._outgoing.start_soon, record.config.limits.outbox_bytes)
        self._start_reading(lane)
        if not record.is_in_this_run:
            self.spinning = Spinning()
        return self._outbox

    async def _wait_running(self, call: PendingCall | CallStream) -> None:
        """Wait until the process is ready.

        Raises:
            ProcessLostError: it never will be, or takes no calls any more.
        """
        await self._answered.wait()
        if self._record.life.phase is not Phase.RUNNING:
            await self._refuse(call)

    async def _refuse(self, call: PendingCall | CallStream) -> NoReturn:
        """Refuse a call that was never sent: at once while the process is stopping, and else once it has ended.

        Raises:
            ProcessLostError: always.
        """
        if self._record.life.phase is not Phase.STOPPING:
            await self._ended.wait()
        raise lost_error(self._record, call.method, handed_over=False)

    def follow(self) -> None:
        """Refuse the calls that wait for room, if the process takes no calls any more."""
        if self._outbox is not None and self._record.life.phase is not Phase.RUNNING:
            self._outbox.try_again()

    def end(self) -> int:
        """Refuse the calls that wait for room, and return the last id that may have left this program."""
        if self._outbox is None:
            return 0
        self._outbox.close()
        return self._last_id - self._outbox.dropped
