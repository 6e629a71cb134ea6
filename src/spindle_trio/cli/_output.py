"""Standard output that never blocks the event loop, and lines that people can read.

A reader that pauses (a pager, a terminal after Ctrl-S) must not stop the host from watching and ending processes. So
lines wait in memory and leave only while the descriptor takes them. The descriptor stays in blocking mode, since other
programs share it, and a write is no longer than a ready pipe takes at once.
"""

from __future__ import annotations

import json
import os
import select
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio.wire import plain_payload

if TYPE_CHECKING:
    from spindle_trio import JsonValue, LifecycleEvent, ProcessMessage, ServiceEvent

_WRITE_BYTES: Final = select.PIPE_BUF
"""Bytes that a blocking write to a ready pipe takes without waiting, by POSIX."""
_MOST_WAITING: Final = 1024 * 1024
"""Bytes that wait before `send` does: the memory that a paused reader may take."""


class Output:
    """Lines on their way to a descriptor."""

    def __init__(self, descriptor: int) -> None:
        """Begin with nothing waiting.

        Args:
            descriptor: gets the lines; stays open, and keeps its mode.
        """
        self._descriptor = descriptor
        self._can_wait = can_wait_for(descriptor)
        self._waiting = bytearray()
        self._something = trio.Event()
        self._progress = trio.lowlevel.ParkingLot()
        self.broken = trio.Event()
        """Set once nothing can be written any more; later lines are dropped."""
        self.problem: OSError | None = None
        """Why nothing can be written any more."""

    @property
    def is_full(self) -> bool:
        """Whether so much waits that more should not be added."""
        return len(self._waiting) > _MOST_WAITING

    def put(self, line: str) -> None:
        """Add a line, however many wait already."""
        self.put_bytes(line.encode("utf-8", "backslashreplace") + b"\n")

    def put_bytes(self, data: bytes) -> None:
        """Add bytes as they are, however many wait already."""
        if not self.broken.is_set():
            self._waiting += data
            self._something.set()

    async def send(self, line: str) -> None:
        """Add a line, and wait until there is room for another one. If cancelled, it is printed all the same."""
        self.put(line)
        await self.wait_for_room()

    async def wait_for_room(self) -> None:
        """Wait until no more waits than may."""
        await trio.lowlevel.checkpoint()
        while self.is_full:
            await self._progress.park()

    async def flush(self) -> None:
        """Wait until all lines have left, or none can."""
        await trio.lowlevel.checkpoint()
        while self._waiting:
            await self._progress.park()

    async def run(self) -> None:
        """Write what waits, until cancelled."""
        while True:
            await self._something.wait()
            self._something = trio.Event()
            while self._waiting:
                await self._write_some()
                self._progress.unpark_all()

    async def _write_some(self) -> None:
        if self._can_wait:
            await trio.lowlevel.wait_writable(self._descriptor)
        else:
            await trio.lowlevel.checkpoint()
        try:
            written = os.write(self._descriptor, self._waiting[:_WRITE_BYTES])
        except OSError as error:  # a closed pipe, most often
            self.problem = error
            self.broken.set()
            self._waiting.clear()
        else:
            del self._waiting[:written]


def can_wait_for(descriptor: int) -> bool:
    """Whether a task can wait for the descriptor; files and the null device never block."""
    with select.epoll() as probe:
        try:
            probe.register(descriptor, select.EPOLLIN)
        except PermissionError:
            return False
    return True


def event_line(seconds: float, event: LifecycleEvent) -> str:
    """Write a transition for people: time since the start, state, entry, id, and what else there is to know."""
    line = _columns(seconds, event.state.value, event.entry, event.process_id)
    first, *others = event_details(event).splitlines() or [""]
    return "".join([line, first, *(f"\n{' ' * 12}{other}" for other in others)])


def event_details(event: LifecycleEvent) -> str:
    """Write what there is to know of a transition beside its state, each thing after two spaces."""
    text = ""
    if event.exit_reason is not None and event.exit_reason.value != event.state.value:
        text += f"  ({event.exit_reason.value})"
    if event.result is not None:
        text += f"  result {compact(event.result)}"
    error = event.error if event.post_mortem is None else event.post_mortem.error
    return f"{text}  {printable(error)}" if error else text


def waiting_line(seconds: float, event: ServiceEvent, entry: str, process_id: str) -> str:
    """Write for people, in the same columns, when the next process starts.

    Args:
        seconds: since the start.
        event: of the kind ``restart_scheduled``.
        entry: what is started.
        process_id: of the process that has ended.
    """
    return f"{_columns(seconds, 'waiting', entry, process_id)}  {waiting_details(event)}"


def waiting_details(event: ServiceEvent) -> str:
    """Write when the next process starts, and after how many failures."""
    failures = "1 failure" if event.failures == 1 else f"{event.failures} failures in a row"
    return f"next start in {event.seconds or 0:.2f} s, after {failures}"


def message_line(seconds: float, entry: str, message: ProcessMessage) -> str:
    """Write a message for people, in the same columns."""
    return f"{_columns(seconds, 'message', entry, message.process_id)}  {compact(message.payload)}"


def _columns(seconds: float, what: str, entry: str, process_id: str) -> str:
    return f"{seconds:9.3f}  {what:<9}  {entry}  {process_id}"


def compact(value: JsonValue) -> str:
    """Write a payload as one line of JSON, with dates and bytes as plain values."""
    return json.dumps(plain_payload(value), ensure_ascii=False)


def printable(text: str) -> str:
    """Show control characters, which could rewrite a terminal, as escapes."""
    return "".join(
        sign if sign in "\n\t" or sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )
