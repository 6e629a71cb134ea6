"""Does what an `async` entry asks of its context, and knows what has become of the entry.

`_async_runtime` says what the final word and the judgement of a stop are. Lanes, handlers and tasks that an entry does
not use are never made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from spindle_trio._protocol._frames import encode_body
from spindle_trio._protocol._outbox import Outbox
from spindle_trio._protocol._payload import BinaryWalk, check_payload
from spindle_trio.child._async_messages import MessageIntake
from spindle_trio.child._beating import Beating
from spindle_trio.child._exit_frames import encode_complete, encode_fail, encode_ready, encode_takes_calls
from spindle_trio.child._handlers import Handlers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Literal, TypeAlias

    from spindle_trio._messages._channel import MessageReceiveChannel
    from spindle_trio._model import JsonValue
    from spindle_trio.abc import FrameLane
    from spindle_trio.child._async_calls import AsyncCalls
    from spindle_trio.child._facts import ProcessFacts
    from spindle_trio.child._handlers import StopNotice

    Ender: TypeAlias = Literal["stop", "handler", "host"]
    """Why the runtime has ended an entry: an unwanted stop, ``sys.exit()`` in a handler, or no host."""


class AsyncControls:
    """One entry's control over its process: does what `ProcessContext` offers, and is told of a stop."""

    __slots__ = (
        "_beat",
        "_beating",
        "_control_out",
        "_ends_when_idle",
        "_intake",
        "_is_ready",
        "_make_calls_lane",
        "_messages",
        "_messages_out",
        "_report",
        "_stop_handlers",
        "_stop_waiters",
        "_waiting",
        "calls",
        "ended_by",
        "entry_scope",
        "facts",
        "final",
        "handler_exit",
        "nursery",
        "sent",
        "stop",
    )

    def __init__(
        self,
        facts: ProcessFacts,
        control: FrameLane,
        messages: FrameLane,
        calls: Callable[[], FrameLane] | None,
        beat: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        """Begin with an entry that has said nothing; see `run_async_child` for the arguments."""
        self.facts: ProcessFacts = facts
        self.entry_scope: trio.CancelScope = trio.CancelScope()
        """The entry runs in it, and ends when it is cancelled."""
        self.nursery: trio.Nursery | None = None
        """For the tasks of this entry's run, which sets it."""
        self._messages = messages
        self._make_calls_lane = calls
        self._beat = beat
        self._report = report
        self._control_out = Outbox(control, self.start_soon)
        self._messages_out: Outbox | None = None  # made for the first message
        self._beating: Beating | None = None  # made for the first reason to beat
        self._intake: MessageIntake | None = None
        self._stop_handlers: Handlers[StopNotice] | None = None
        self.calls: AsyncCalls | None = None
        """The calls that the host makes, once the entry asks for them."""
        self._waiting: trio.lowlevel.ParkingLot | None = None  # made for the first task that waits
        # What changes: how far the entry is and what has ended it; the stop, and how many tasks wait for one; how many
        # messages were sent.
        self._is_ready = False
        self.final: str | None = None
        self.ended_by: Ender | None = None
        self.handler_exit: BaseException | None = None
        self.stop: StopNotice | None = None
        self._ends_when_idle = False  # a stop is to end the entry, when the calls that run have ended
        self._stop_waiters = 0
        self.sent: int = 0

    @property
    def status(self) -> str:
        """How far the entry is, for a `repr`."""
        if self.final is not None:
            return self.final
        if self.stop is not None:
            return "stopping"
        return "running" if self._is_ready else "starting"

    # What the entry calls, by way of its context.

    def ready(self) -> None:
        if self._is_ready or self.final is not None:
            return
        self._is_ready = True
        self._beat()
        calls = self.calls
        self.send_control(encode_ready(self.facts, concurrency=calls.concurrency if calls and calls.are_taken else 0))
        if self._beating is not None:
            self._beating.ready()

    def heartbeat(self) -> None:
        if self._is_ready:
            self._beat()

    def beat_while_running(self) -> None:
        self._made_beating().begin_for_good()

    def complete(self, result: object) -> None:
        if self.final is not None:
            return
        self.say_finally("completed", encode_complete(result, self.sent, self.facts))

    def fail(self, error: str) -> None:
        if not isinstance(error, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # entries need not be typed
            raise TypeError(f"fail() takes a str, not {type(error).__name__}")
        if self.final is None:
            self.say_finally("failed", encode_fail(error.strip(), self.sent, self.facts))

    def on_stop(self, handler: Callable[[StopNotice], object]) -> Callable[[], None]:
        if self._stop_handlers is None:
            self._stop_handlers = Handlers("on_stop", self._report)
        return self._stop_handlers.add(handler)

    async def wait_stop(self) -> StopNotice:
        # Counts as waiting from the call on: an entry that goes from `ready()` straight to here cannot miss being told.
        self._stop_waiters += 1
        try:
            await trio.lowlevel.checkpoint()
            while self.stop is None:
                await self.wait()
        finally:
            self._stop_waiters -= 1
        return self.stop

    def on_message(self, handler: Callable[[JsonValue], object]) -> Callable[[], None]:
        return self._message_intake().add_handler(handler)

    def messages(self) -> MessageReceiveChannel[JsonValue]:
        return self._message_intake().open_channel()

    def send_nowait(self, payload: object) -> None:
        self._message_outbox().send_nowait(self._encode(payload), joins=True)
        self.sent += 1

    async def send(self, payload: object) -> None:
        body = self._encode(payload)
        await trio.lowlevel.checkpoint_if_cancelled()
        outbox = self._message_outbox()
        try:
            outbox.send_nowait(body)
            self.sent += 1
            if outbox.is_flushed:
                if self._intake is not None:
                    self._intake.spinning.note_sent()
                await trio.lowlevel.cancel_shielded_checkpoint()
                return
        except trio.WouldBlock:
            await self._send_when_there_is_room(body)
        beating = self._made_beating()
        beating.begin()
        try:
            await outbox.wait_flushed()
        finally:
            beating.end()

    async def _send_when_there_is_room(self, body: bytes) -> None:
        beating = self._made_beating()
        beating.begin()
        try:
            await self._message_outbox().send(body)
            # No checkpoint lies between the two, so that a final word always counts right.
            self.sent += 1
        finally:
            beating.end()

    def _message_outbox(self) -> Outbox:
        if self._messages_out is None:
            self._messages_out = Outbox(self._messages, self.start_soon, self.facts.outbox_bytes)
        return self._messages_out

    def _encode(self, payload: object) -> bytes:
        if check_payload(payload, self.facts.bounds, "payload", BinaryWalk):
            from spindle_trio._protocol._binary import encode_binary

            return encode_binary(payload, self.facts.frame_bytes)
        return encode_body(payload, self.facts.frame_bytes)

    def _message_intake(self) -> MessageIntake:
        if self._intake is None:
            self._intake = MessageIntake(self._messages, self.start_soon, self._report, self._exit_by_handler)
        return self._intake

    def call_service(self) -> AsyncCalls:
        if self.calls is None:
            from spindle_trio.child._async_calls import AsyncCalls

            self.calls = AsyncCalls(
                self._make_calls_lane,
                self.facts,
                self.start_soon,
                report=self._report,
                takes_calls=self._tell_of_calls,
                idle=self._note_idle,
                exited=self._exit_by_handler,
            )
        return self.calls

    def _tell_of_calls(self) -> None:
        assert self.calls is not None, "it tells"
        if self.calls.handlers.fallback is None:  # whose entry speaks for a program, and knows best when to beat
            self.beat_while_running()
        if self._is_ready and self.final is None:
            self.send_control(encode_takes_calls(self.calls.concurrency))

    def _note_idle(self) -> None:
        if self._ends_when_idle:
            self._end_entry("stop")
        self._wake()

    # What the run, and what comes from the host, does to the entry.

    @property
    def has_handlers(self) -> bool:
        """Whether a handler is registered, so that the entry lives on after its return."""
        return (
            bool(self._stop_handlers)
            or (self._intake is not None and self._intake.has_handlers)
            or (self.calls is not None and bool(self.calls.handlers))
        )

    def take_stop(self, notice: StopNotice) -> None:
        """Judge a stop once: tell its handlers and waiters; without any, end the entry."""
        if self.stop is not None:
            return
        self.stop = notice
        if self.calls is not None:
            self.calls.stop()
        if self.final is not None:
            self._wake()
            return
        if not self._stop_handlers and not self._stop_waiters:
            self._ends_when_idle = True
            if not self.has_running_calls:
                self._end_entry("stop")
            return
        self._wake()
        if self._stop_handlers:
            try:
                self._stop_handlers.call(notice)
            except SystemExit as asked:
                self._exit_by_handler(asked)

    @property
    def has_running_calls(self) -> bool:
        """Whether the handler of a call runs."""
        return self.calls is not None and self.calls.is_running

    async def wait_calls(self) -> None:
        """Wait until no handler of a call runs: those that do have been told to end, or may finish during a stop."""
        while self.has_running_calls:
            await self.wait()

    def _exit_by_handler(self, asked: BaseException) -> None:
        """End the entry because one of its handlers has called ``sys.exit()``."""
        if self.handler_exit is None:
            self.handler_exit = asked
            self._end_entry("handler")

    def lose_host(self) -> None:
        """End the entry because nobody hears it any more."""
        self._control_out.close()
        self._message_outbox().close()
        self._end_entry("host")

    def _end_entry(self, ender: Ender) -> None:
        if self.ended_by is None:
            self.ended_by = ender
        self._retire_calls()
        self.entry_scope.cancel()
        self._wake()

    def say_finally(self, final: str, body: bytes) -> None:
        """Say the final word, and end the entry."""
        self.final = final
        self.send_control(body)
        if self._intake is not None:
            self._intake.retire_handlers()
        self._retire_calls()
        self.entry_scope.cancel()
        self._wake()

    def _retire_calls(self) -> None:
        if self.calls is not None:
            self.calls.retire()

    def send_control(self, body: bytes) -> None:
        try:
            self._control_out.send_nowait(body)
        except trio.BrokenResourceError:
            pass  # the host is gone, and the reading task ends this process for it

    def _made_beating(self) -> Beating:
        if self._beating is None:
            timeout = self.facts.heartbeat_timeout
            self._beating = Beating(self.heartbeat, timeout, self.start_soon, is_ready=self._is_ready)
        return self._beating

    async def wait(self) -> None:
        """Wait until something may have changed; the caller looks again."""
        if self._waiting is None:
            self._waiting = trio.lowlevel.ParkingLot()
        await self._waiting.park()

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.unpark_all()

    async def wait_flushed(self) -> None:
        """Wait until all frames are with the operating system."""
        if self._messages_out is not None:
            await self._messages_out.wait_flushed()
        if self.calls is not None:
            await self.calls.wait_flushed()
        await self._control_out.wait_flushed()

    def release(self) -> None:
        """Let go of what refers back here, so that what the entry held is freed without waiting for a collection."""
        if self.calls is not None:
            self.calls.close()
        self.nursery = self._intake = self._stop_handlers = self._beating = self.calls = self._make_calls_lane = None
        for outbox in (self._control_out, self._messages_out):
            if outbox is not None:
                outbox.close()

    def start_soon(self, function: Callable[[], Awaitable[object]]) -> None:
        """Start a task of this entry's run."""
        assert self.nursery is not None, "the context of an entry outlives no run"
        self.nursery.start_soon(function)
