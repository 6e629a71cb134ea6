"""Sends to one process: control frames from its supervisor, messages from its worker.

Each lane has its own outbox, so that a stop reaches a process whose messages are stuck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from spindle_trio._protocol._binary import encode_binary
from spindle_trio._protocol._json_codec import write_body
from spindle_trio._protocol._outbox import Outbox, is_within
from spindle_trio._protocol._payload import BinaryWalk, NoBytesWalk, check_payload
from spindle_trio._supervision._snapshots import refuse_message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from spindle_trio._supervision._process_record import ProcessRecord
    from spindle_trio.abc import LaunchedProcess


class Outgoing:
    """Both outboxes of one process. It can be posted to before its launch, and sent to after it."""

    __slots__ = ("_control", "_early", "_early_bytes", "_is_closed", "_launched", "_messages", "_nursery", "_record")

    def __init__(self, record: ProcessRecord) -> None:
        """Begin with no lanes.

        Args:
            record: whose messages these are.
        """
        self._record = record
        self._nursery: trio.Nursery | None = None
        self._control: Outbox | None = None
        self._messages: Outbox | None = None  # made for the first message
        self._early: list[bytes] | None = None  # posted before the launch
        self._early_bytes = 0
        self._launched: trio.Event | None = None  # made for the first task that waits for the launch
        self._is_closed = False

    def open(self, launched: LaunchedProcess, nursery: trio.Nursery, init: bytes) -> None:
        """Send the first frame, and what was posted before the launch.

        Args:
            launched: the process; its record has it already.
            nursery: where outboxes are drained; lives as long as the lanes.
            init: the first frame on its control lane.
        """
        self._nursery = nursery
        self._control = Outbox(launched.control, nursery.start_soon)
        self.say(init)
        for body in self._early or ():
            self._outbox().send_nowait(body)
        self._early = None
        self._launch_over()

    def close(self) -> None:
        """Refuse whatever else is sent, and drop what waits."""
        self._is_closed = True
        self._launch_over()
        for outbox in (self._control, self._messages):
            if outbox is not None:
                outbox.close()

    def start_soon(self, task: Callable[[], Awaitable[object]]) -> None:
        """Start a task that lives as long as the lanes of the process, which must have been launched."""
        assert self._nursery is not None, "a process that has been launched has a nursery"
        self._nursery.start_soon(task)

    @property
    def waiting_messages(self) -> int:
        """How many messages wait for room in the lane."""
        return 0 if self._messages is None else self._messages.messages

    @property
    def waiting_bytes(self) -> int:
        """How many bytes they have."""
        return 0 if self._messages is None else self._messages.waiting_bytes

    @property
    def has_sent_messages(self) -> bool:
        """Whether all messages have left this program, or are lost."""
        return self._messages is None or self._messages.is_flushed

    async def wait_messages_sent(self) -> None:
        """Wait until they have."""
        if self._messages is not None:
            await self._messages.wait_flushed()

    def say(self, body: bytes) -> None:
        """Send a control frame, if anybody is left to read it."""
        assert self._control is not None, "a process that has been launched has a control lane"
        try:
            self._control.send_nowait(body)
        except trio.BrokenResourceError:
            pass  # the process has ended, or has closed the lane: the supervisor hears of either

    def _encode(self, payload: object) -> bytes:
        """Check a message and write it as a frame's body.

        Raises:
            PayloadError: it is not JSON-safe, or over a limit.
            trio.BrokenResourceError: the process has ended.
        """
        record = self._record
        config = record.config
        if check_payload(payload, config.bounds, "payload", BinaryWalk if record.takes_bytes else NoBytesWalk):
            body: bytes = encode_binary(payload, config.limits.frame_bytes, write=write_body)
        else:
            body = write_body(payload, config.limits.frame_bytes)
        if record.command is not None:
            from spindle_trio._supervision._command_messages import check_message  # most processes are no commands

            check_message(record.command, payload)  # type: ignore[arg-type]  # it is JSON-safe
        self._refuse_ended()
        return body

    async def send(self, payload: object) -> None:
        """Send a message as soon as there is room, and not before the launch is over; see `ProcessHandle.send`."""
        body = self._encode(payload)
        if self._nursery is None and not self._is_closed:
            if self._launched is None:
                self._launched = trio.Event()
            await self._launched.wait()
            self._refuse_ended()
        try:
            await self._outbox().send(body)
        except trio.BrokenResourceError:
            raise refuse_message(self._record) from None

    def send_nowait(self, payload: object) -> None:
        """Send a message if there is room; see `ProcessHandle.send_nowait`."""
        body = self._encode(payload)
        if self._nursery is None:
            raise trio.WouldBlock
        try:
            self._outbox().send_nowait(body, joins=True)
        except trio.BrokenResourceError:
            raise refuse_message(self._record) from None

    def post(self, payload: object) -> None:
        """Send a message, or keep it until the launch.

        Raises:
            PayloadError: it is not JSON-safe, or over a limit.
            trio.WouldBlock: there is no room for it.
            trio.BrokenResourceError: the process has ended, or the other end is gone.
        """
        body = self._encode(payload)
        if self._nursery is not None:
            self._outbox().send_nowait(body)
            return
        early, most = self._early or [], self._record.config.limits.outbox_bytes
        self._early_bytes += len(body)
        if self._early_bytes > most and not is_within([len(body), *map(len, early)], most):
            raise trio.WouldBlock
        early.append(body)
        self._early = early

    def _outbox(self) -> Outbox:
        """What messages wait in, made for the first one."""
        if self._messages is None:
            record = self._record
            if record.launched is None or self._nursery is None:
                raise refuse_message(record)  # it has never come into being
            self._messages = Outbox(
                record.launched.messages, self._nursery.start_soon, record.config.limits.outbox_bytes
            )
        return self._messages

    def _launch_over(self) -> None:
        if self._launched is not None:
            self._launched.set()

    def _refuse_ended(self) -> None:
        if self._record.life.state.is_terminal:
            raise refuse_message(self._record)
