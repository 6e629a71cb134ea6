"""A process as the connecting end knows it: a record that its events keep up to date."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from spindle_trio._messages._inbox import Inbox
from spindle_trio._model import (
    JsonValue,
    LifecycleEvent,
    Limits,
    ProcessInfo,
    ProcessSend,
    ProcessState,
    ProcessStatistics,
    StopOptions,
    WorkerToHost,
    to_plain,
)
from spindle_trio._protocol._frames import encode_body
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker_protocol._checked_copy import checked_copy
from spindle_trio._worker_protocol._mirror import info_after

if TYPE_CHECKING:
    from spindle_trio._interfaces import CallsInterface
    from spindle_trio._messages._hub import MessageHub
    from spindle_trio._model import PostMortem
    from spindle_trio._model._command import Command
    from spindle_trio._worker_protocol._writer import TwoLaneWriter

_log = logging.getLogger("spindle_trio.worker_protocol")


@uninterrupted
class RemoteProcess:
    """What a handle holds of a process whose host is at the other end of a connection; a `ProcessInterface`."""

    def __init__(
        self,
        info: ProcessInfo,
        *,
        limits: Limits,
        hub: MessageHub,
        writer: TwoLaneWriter[WorkerToHost],
        calls_of: Callable[[RemoteProcess], CallsInterface],
        check_open: Callable[[], None],
        ask_stop: Callable[[str, StopOptions], Awaitable[object]],
    ) -> None:
        """Begin to mirror a process.

        Args:
            info: the first that is known of it.
            limits: bound its inbox and what is sent to it.
            hub: the worker's, which reads in the inbox too.
            writer: takes what is sent to it.
            calls_of: makes what takes its calls.
            check_open: raises if nothing can be sent any more.
            ask_stop: asks the host to stop a process, and returns when that is under way.
        """
        self._info = info
        self._limits = limits
        self._writer = writer
        self._calls_of = calls_of
        self._check_open = check_open
        self._describe = hub.describe
        self._ask_stop = ask_stop
        self._result: JsonValue = None
        self._post_mortem: PostMortem | None = None
        self._to_follow = 0
        self._has_ended = False
        self._gone = trio.Event()
        self._send_failure: Exception | None = None
        self.late_answers: int = 0
        """Answers of calls that came when their callers had gone on."""
        self.command: Command | None = None
        """What it runs instead of an entry, if it was spawned from here."""
        self.is_claimed = False
        """Whether the spawn that it came from has been answered."""
        self.inbox = Inbox(
            info.process_id,
            info.user_id,
            max_messages=limits.inbox_messages,
            max_bytes=limits.inbox_bytes,
            lossy=True,
            hub=hub,
        )

    def __repr__(self) -> str:
        return f"<RemoteProcess {self._info.state} {self._info.entry} {self._info.process_id}>"

    @property
    def process_id(self) -> str:
        """The host's id for it."""
        return self._info.process_id

    @property
    def pid(self) -> int | None:
        """Not known here: the process lives with its host."""
        return None

    @property
    def info(self) -> ProcessInfo:
        """The latest that this end knows; the last snapshot if the connection was lost meanwhile."""
        return self._info

    @property
    def state(self) -> ProcessState:
        """As `info.state`."""
        return self._info.state

    @property
    def result(self) -> JsonValue:
        """What the process has completed with; `None` before."""
        return self._result

    @property
    def post_mortem(self) -> PostMortem | None:
        """Explains its end, if nobody asked for that; `None` before."""
        return self._post_mortem

    @property
    def has_ended(self) -> bool:
        """Whether its terminal event has been heard here."""
        return self._has_ended

    @property
    def calls(self) -> CallsInterface:
        """Its calls and streams."""
        return self._calls_of(self)

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing more will be heard of it: no event, no message, and not the answer to its spawn."""
        return self._has_ended and self.inbox.is_closed and self.is_claimed

    async def send(self, payload: object, user_id: str | None = None) -> None:
        """Send a payload as soon as the connection has room for it. If cancelled, it was not sent.

        Raises:
            PayloadError: it is not JSON-safe or is over a limit.
            Exception: an earlier message was not delivered, and this one was not sent; raised once.
            trio.BrokenResourceError: the process has ended, or the connection is lost.
            trio.ClosedResourceError: the worker was closed.
        """
        await self._writer.put_bulk(*self._message(payload, user_id))

    def send_nowait(self, payload: object) -> None:
        """Send a payload if the connection has room for it.

        Raises:
            trio.WouldBlock: it has none now.
            PayloadError: as in `send`.
            trio.BrokenResourceError: as in `send`.
            trio.ClosedResourceError: as in `send`.
        """
        self._writer.put_bulk_nowait(*self._message(payload, None))

    def _message(self, payload: object, user_id: str | None) -> tuple[ProcessSend, int]:
        self._check_open()
        if (failure := self._send_failure) is not None:
            self._send_failure = None
            raise failure
        copy, size = checked_copy(payload, self._limits, "payload")
        if self.command is not None:
            from spindle_trio._supervision._command_messages import check_message  # most processes are no commands

            check_message(self.command, copy)
        if self._has_ended:
            raise trio.BrokenResourceError(f"process {self.process_id} has ended")
        return ProcessSend(self.process_id, copy, user_id), size

    async def stop(self, options: StopOptions) -> None:
        """Ask for a stop, and wait until the process is gone. Does nothing if it is known here to be.

        Raises:
            PayloadError: the reason is over its limit.
            trio.BrokenResourceError: the connection was lost.
            trio.ClosedResourceError: the worker was closed.
        """
        if self._has_ended:
            self._check_open()
            await trio.lowlevel.checkpoint()
        else:
            await self._ask_stop(self.process_id, options)
            await self.wait_ended()

    async def wait_ended(self) -> ProcessInfo:
        """Wait for the terminal event, and return the last snapshot.

        Raises:
            trio.BrokenResourceError: the connection was lost before: the host ends the process, unseen from here.
        """
        await self._gone.wait()
        if not self._has_ended:
            raise trio.BrokenResourceError(f"the connection was lost before process {self.process_id} had ended")
        return self._info

    def statistics(self) -> ProcessStatistics:
        """Count what waits here. What waits in the host, and what it has drained, is not known at this end."""
        return ProcessStatistics(
            messages_received=self.inbox.received,
            messages_dropped=self.inbox.dropped,
            inbox_messages=self.inbox.held,
            inbox_bytes=self.inbox.held_bytes,
            subscriptions=self.inbox.subscriptions,
            outbox_messages=self._writer.waiting_last,
            outbox_bytes=self._writer.waiting_last_bytes,
            output_dropped=0,
            late_answers=self.late_answers,
        )

    # ---- what the connection has heard

    def take_event(self, event: LifecycleEvent) -> None:
        """Follow a transition, before anybody hears of it."""
        self._info = info_after(self._info, event)
        if event.state.is_terminal:
            self._result = event.result
            self._post_mortem = event.post_mortem

    def take_snapshot(self, info: ProcessInfo) -> None:
        """Take over what an answer says and no event does: heartbeats. One from before an event changes nothing."""
        if info.state is self._info.state:
            self._info = info

    def note_send_failure(self, failure: Exception) -> None:
        """Note that an earlier message was not delivered; the next send raises it, once."""
        self._send_failure = failure

    def take_message(self, payload: JsonValue) -> None:
        """Take in one message."""
        try:
            size = len(encode_body(to_plain(payload)[0]))
        except (TypeError, ValueError) as error:
            about = self._describe(self.process_id)
            _log.warning("process %s: a message from it is not JSON: %s", self.process_id, error, extra=about)
        else:
            self.inbox.put(payload, size)
        if self._has_ended:
            self._to_follow -= 1
            self._close_inbox_when_complete()

    def end(self, to_follow: int) -> None:
        """Say that the process has ended; its event has been published.

        Args:
            to_follow: how many messages are still on their way.
        """
        self._has_ended = True
        self._to_follow = to_follow
        self._close_inbox_when_complete()
        self._gone.set()

    def lose(self) -> None:
        """Say that nothing more will be heard of the process."""
        self.inbox.close()
        self._gone.set()

    def _close_inbox_when_complete(self) -> None:
        if self._to_follow <= 0:
            self.inbox.close()
