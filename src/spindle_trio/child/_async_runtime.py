"""Runs an `async` entry: calls it, takes stops, beats where asked, and sends the final word.

Theory of operation
-------------------

The entry runs in a cancel scope of its own, in the task that called `run_async_child`. Beside it, in one nursery, run
the task that reads the control lane and, each from the moment when it is first needed, the one that reads messages
(`MessageIntake`), the ones that drain an outbox whose lane is full, and the one that beats.

There is at most one *final word*, the frame `complete`, `fail` or `stopped`. It is sent

* at once by `complete()` and `fail()`, which then cancel the entry's scope;
* when the entry has ended, for what it returned or raised, and
* after the clean-up function, if a stop ended an entry that lived on.

An entry that ends by `SystemExit` with a code other than 0 sends none. The order at the end is always: the entry
ends, its clean-up function runs, all frames leave for the host.

A stop is judged once, when its frame arrives: handlers and waiting tasks are told; without any, the entry's scope is
cancelled. Afterwards the scope tells whether that ended the entry (`stopped`), or whether it ended by itself.

Cancellation from outside, which is how the memory launcher kills, never counts as the entry's own end.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextvars import copy_context
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._protocol._frames import encode_body
from spindle_trio._protocol._json_text import read_json
from spindle_trio._protocol._outbox import Outbox
from spindle_trio._protocol._payload import check_payload
from spindle_trio.child._async_context import ProcessContext
from spindle_trio.child._async_messages import MessageIntake
from spindle_trio.child._beating import Beating
from spindle_trio.child._exit_frames import (
    describe_error,
    encode_complete,
    encode_fail,
    encode_failure,
    encode_stopped,
    system_exit_code,
)
from spindle_trio.child._handlers import Handlers
from spindle_trio.child._stop_notice import StopNotice

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, TypeAlias

    from spindle_trio._messages._channel import MessageReceiveChannel
    from spindle_trio._model import JsonValue
    from spindle_trio.abc import FrameLane
    from spindle_trio.child._facts import ProcessFacts

    EntryFunction: TypeAlias = Callable[[ProcessContext], Awaitable[object]]
    Ender: TypeAlias = Literal["stop", "handler", "host"]
    """Why the runtime has ended an entry: an unwanted stop, ``sys.exit()`` in a handler, or no host."""

_CONTROL_FRAMES: Final = 16
_LANE_ENDED: Final = (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError, PeerProtocolError)


class ChildEnd(NamedTuple):
    """How a child has ended, for the code that ends its process."""

    code: int
    """The exit code: 0 after `complete` and `stopped`, 1 after a failure, and n after ``sys.exit(n)``."""
    messages: int
    """How many messages it has put on its messages lane in all."""


async def run_async_child(
    function: EntryFunction,
    facts: ProcessFacts,
    control: FrameLane,
    messages: FrameLane,
    *,
    beat: Callable[[], None],
    report: Callable[[str], None],
    host_gone: Callable[[], None] = lambda: None,
    nursery: trio.Nursery | None = None,
) -> ChildEnd:
    """Run an entry to its end, and say everything on its behalf but `exiting`.

    When it returns, the entry and its clean-up function have ended, and all frames are with the operating system. It
    raises nothing that the entry raises. If it is cancelled, the entry is cancelled, and nothing more is said.

    Args:
        function: the entry's `run` or `default`.
        facts: what the first frame told.
        control: what follows the first frame; a stop may be there already, and then the entry is not called.
        messages: the other lane.
        beat: leaves a heartbeat where the host looks for it; cheap.
        report: shows a text to the author of the entry, on stderr in a real process.
        host_gone: called once when the control lane has ended or is broken, before the entry is cancelled: a
            real process ends itself here, since an entry may take its time over a cancellation.
        nursery: opened around this call and nothing else, for its tasks; by default it opens one.

    Returns:
        The exit code, and the number of messages sent.
    """
    runtime = _Runtime(facts, control, messages, beat, report, host_gone)
    try:
        if nursery is not None:
            return await runtime.run(function, nursery)
        async with trio.open_nursery() as own:
            return await runtime.run(function, own)  # noqa: ASYNC121  # its tasks are this call's own
    finally:
        runtime.release()


class _Runtime:
    """One entry's run. Implements what `ProcessContext` offers."""

    __slots__ = (
        "_beat",
        "_beating",
        "_context",
        "_control",
        "_control_out",
        "_ended_by",
        "_entry_scope",
        "_exit",
        "_final",
        "_hears",
        "_host_gone",
        "_intake",
        "_is_ready",
        "_lives_on",
        "_messages",
        "_messages_out",
        "_nursery",
        "_report",
        "_sent",
        "_stop",
        "_stop_handlers",
        "_stop_waiters",
        "_waiting",
        "facts",
    )

    def __init__(
        self,
        facts: ProcessFacts,
        control: FrameLane,
        messages: FrameLane,
        beat: Callable[[], None],
        report: Callable[[str], None],
        host_gone: Callable[[], None],
    ) -> None:
        self.facts = facts
        self._control = control
        self._messages = messages
        self._beat = beat
        self._report = report
        self._host_gone = host_gone
        self._entry_scope = trio.CancelScope()
        self._control_out = Outbox(control, self._start_soon)
        self._messages_out: Outbox | None = None  # made for the first message
        self._beating: Beating | None = None  # made for the first reason to beat
        self._nursery: trio.Nursery | None = None
        self._context = copy_context()
        self._intake: MessageIntake | None = None
        self._stop_handlers: Handlers[StopNotice] | None = None
        self._waiting: trio.lowlevel.ParkingLot | None = None  # made for the first task that waits
        # What changes: how far the entry is and what has ended it; the stop, and how many tasks wait for one; how many
        # messages were sent.
        self._is_ready = self._lives_on = False
        self._hears = True
        self._final: str | None = None
        self._ended_by: Ender | None = None
        self._exit: SystemExit | None = None
        self._stop: StopNotice | None = None
        self._stop_waiters = 0
        self._sent = 0

    @property
    def status(self) -> str:
        """How far the entry is, for a `repr`."""
        if self._final is not None:
            return self._final
        if self._stop is not None:
            return "stopping"
        return "running" if self._is_ready else "starting"

    # What the entry calls, by way of its context.

    def ready(self) -> None:
        if self._is_ready or self._final is not None:
            return
        self._is_ready = True
        self._beat()
        self._send_control(encode_body({"type": "ready"}))
        if self._beating is not None:
            self._beating.ready()

    def heartbeat(self) -> None:
        if self._is_ready:
            self._beat()

    def beat_while_running(self) -> None:
        self._made_beating().begin_for_good()

    def complete(self, result: object) -> None:
        if self._final is not None:
            return
        self._say_finally("completed", encode_complete(result, self._sent, self.facts))

    def fail(self, error: str) -> None:
        if not isinstance(error, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # entries need not be typed
            raise TypeError(f"fail() takes a str, not {type(error).__name__}")
        if self._final is None:
            self._say_finally("failed", encode_fail(error.strip(), self._sent, self.facts))

    def on_stop(self, handler: Callable[[StopNotice], object]) -> Callable[[], None]:
        if self._stop_handlers is None:
            self._stop_handlers = Handlers("on_stop", self._report)
        return self._stop_handlers.add(handler)

    async def wait_stop(self) -> StopNotice:
        # Counts as waiting from the call on: an entry that goes from `ready()` straight to here cannot miss being told.
        self._stop_waiters += 1
        try:
            await trio.lowlevel.checkpoint()
            while self._stop is None:
                await self._wait()
        finally:
            self._stop_waiters -= 1
        return self._stop

    def on_message(self, handler: Callable[[JsonValue], object]) -> Callable[[], None]:
        return self._message_intake().add_handler(handler)

    def messages(self) -> MessageReceiveChannel[JsonValue]:
        return self._message_intake().open_channel()

    def send_nowait(self, payload: object) -> None:
        self._message_outbox().send_nowait(self._encode(payload), joins=True)
        self._sent += 1

    async def send(self, payload: object) -> None:
        body = self._encode(payload)
        await trio.lowlevel.checkpoint_if_cancelled()
        outbox = self._message_outbox()
        try:
            outbox.send_nowait(body)
            self._sent += 1
            if outbox.is_flushed:
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
            self._sent += 1
        finally:
            beating.end()

    def _message_outbox(self) -> Outbox:
        if self._messages_out is None:
            self._messages_out = Outbox(self._messages, self._start_soon, self.facts.outbox_bytes)
        return self._messages_out

    def _encode(self, payload: object) -> bytes:
        check_payload(payload, self.facts.bounds)
        return encode_body(payload, self.facts.frame_bytes)

    def _message_intake(self) -> MessageIntake:
        if self._intake is None:
            self._intake = MessageIntake(self._messages, self._start_soon, self._report, self._exit_by_handler)
        return self._intake

    # The run, from the call to the final word.

    async def run(self, function: EntryFunction, nursery: trio.Nursery) -> ChildEnd:
        """Run the entry to its end; see `run_async_child`."""
        self._nursery = nursery
        self._take_what_has_arrived()
        try:
            if self._ended_by is None:
                if not self._control.tell_arrival(self):
                    nursery.start_soon(self._read_control)
                code = await self._run_entry(function)
            else:
                code = self._end_by_runtime()
            if self._messages_out is not None:
                await self._messages_out.wait_flushed()
            await self._control_out.wait_flushed()
        finally:
            self._hears = False
        nursery.cancel_scope.cancel()
        return ChildEnd(code, self._sent)

    def release(self) -> None:
        """Let go of what refers back here, so that what the entry held is freed without waiting for a collection."""
        self._nursery = self._intake = self._stop_handlers = self._beating = None

    async def _run_entry(self, function: EntryFunction) -> int:
        """Call the entry, let it live on if it wants to, clean up, and say the final word if nobody has."""
        value: object = None
        try:
            with self._entry_scope:
                value = await function(ProcessContext(self))
        except BaseException as error:  # noqa: ASYNC103  # what an entry raises is data, and the next lines see to the rest
            # Who is killed has no word of its own, whatever its `finally` blocks have raised.
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102  # raises, or goes on at once
            return self._end_by_raising(error)  # noqa: ASYNC104  # as above
        clean_up = value if callable(value) else None
        is_free = self._final is None and self._stop is None and self._ended_by is None
        if is_free and (clean_up is not None or self._has_handlers):
            await self._live_on()
        if clean_up is not None:
            value = None
            await self._clean_up(clean_up)
        if self._final is None:
            if self._lives_on or self._entry_scope.cancelled_caught:
                return self._end_by_runtime()
            self._complete_with(value)
        return self._final_code

    async def _live_on(self) -> None:
        """Wait until an entry that has returned is ended, by its own final word or by this runtime."""
        self._lives_on = True
        while self._final is None and self._ended_by is None:
            await self._wait()

    async def _clean_up(self, clean_up: Callable[[], object]) -> None:
        """Run the clean-up function that the entry has returned; what it raises is reported."""
        try:
            returned = clean_up()
            if isinstance(returned, Awaitable):
                await returned
        except BaseException as error:  # noqa: ASYNC103  # as in `_run_entry`
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102  # raises, or goes on at once
            self._report(f"the clean-up function raised {describe_error(error)}")

    def _end_by_raising(self, error: BaseException) -> int:
        """Say what follows from what the entry or a handler has raised, and return the exit code."""
        code = system_exit_code(error, self._report)
        if code is None and self._final is not None:
            self._report(f"the entry raised after complete() or fail(): {describe_error(error)}")
        elif code is None:
            self._say_finally("failed", encode_failure(error, self._sent, self.facts))
        elif code == 0 and self._final is None:
            self._complete_with(None)
        elif self._final is None:
            return code
        return self._final_code

    def _end_by_runtime(self) -> int:
        """Say what follows when this runtime has ended the entry, and return the exit code."""
        if self._exit is not None:
            return self._end_by_raising(self._exit)
        if self._ended_by == "stop":
            self._say_stopped()
        return self._final_code

    def _complete_with(self, value: object) -> None:
        try:
            self.complete(value)
        except PayloadError as error:
            self._say_finally("failed", encode_fail(f"PayloadError: {error}", self._sent, self.facts))

    @property
    def _final_code(self) -> int:
        return 0 if self._final in ("completed", "stopped") else 1

    @property
    def _has_handlers(self) -> bool:
        return bool(self._stop_handlers) or (self._intake is not None and self._intake.has_handlers)

    # What comes from the host.

    def _take_what_has_arrived(self) -> None:
        try:
            self._take_control(self._control.receive_nowait(_CONTROL_FRAMES))
        except trio.WouldBlock:
            pass
        except _LANE_ENDED as error:
            self._lose_host(error)

    def arrived(self, lane: FrameLane) -> None:
        """Begin to read, in this runtime's context: this is called in the middle of somebody else's task."""
        if self._hears and lane is self._control:
            self._context.run(self._start_soon, self._read_control)

    async def _read_control(self) -> None:
        try:
            while True:
                self._take_control(await self._control.receive(_CONTROL_FRAMES))
        except _LANE_ENDED as error:
            self._lose_host(error)

    def _take_control(self, bodies: list[bytes]) -> None:
        """Take in frames of the control lane; a stop is the only kind that there is."""
        for body in bodies:
            try:
                frame: JsonValue = read_json(body)
            except ValueError as error:
                raise PeerProtocolError(f"a control frame that is not JSON: {error}") from None
            if not isinstance(frame, dict) or frame.get("type") != "stop":
                raise PeerProtocolError("a control frame other than 'stop'")
            reason = frame.get("reason")
            self._take_stop(StopNotice(reason if isinstance(reason, str) else None))

    def _take_stop(self, notice: StopNotice) -> None:
        """Judge a stop once: tell its handlers and waiters; without any, end the entry."""
        if self._stop is not None:
            return
        self._stop = notice
        if self._final is not None:
            self._wake()
            return
        if not self._stop_handlers and not self._stop_waiters:
            self._end_entry("stop")
            return
        self._wake()
        if self._stop_handlers:
            try:
                self._stop_handlers.call(notice)
            except SystemExit as asked:
                self._exit_by_handler(asked)

    def _exit_by_handler(self, asked: SystemExit) -> None:
        """End the entry because one of its handlers has called ``sys.exit()``."""
        if self._exit is None:
            self._exit = asked
            self._end_entry("handler")

    def _lose_host(self, error: BaseException) -> None:
        if isinstance(error, PeerProtocolError):
            self._report(f"the host broke the protocol: {error}")
        self._host_gone()
        self._control_out.close()
        self._message_outbox().close()
        self._end_entry("host")

    def _end_entry(self, ender: Ender) -> None:
        if self._ended_by is None:
            self._ended_by = ender
        self._entry_scope.cancel()
        self._wake()

    # What goes to the host, and beats.

    def _say_stopped(self) -> None:
        self._say_finally("stopped", encode_stopped(self._sent))

    def _say_finally(self, final: str, body: bytes) -> None:
        """Say the final word, and end the entry."""
        self._final = final
        self._send_control(body)
        if self._intake is not None:
            self._intake.retire_handlers()
        self._entry_scope.cancel()
        self._wake()

    def _send_control(self, body: bytes) -> None:
        try:
            self._control_out.send_nowait(body)
        except trio.BrokenResourceError:
            pass  # the host is gone, and the reading task ends this process for it

    def _made_beating(self) -> Beating:
        if self._beating is None:
            timeout = self.facts.heartbeat_timeout
            self._beating = Beating(self.heartbeat, timeout, self._start_soon, is_ready=self._is_ready)
        return self._beating

    async def _wait(self) -> None:
        """Wait until something may have changed; the caller looks again."""
        if self._waiting is None:
            self._waiting = trio.lowlevel.ParkingLot()
        await self._waiting.park()

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.unpark_all()

    def _start_soon(self, function: Callable[[], Awaitable[object]]) -> None:
        assert self._nursery is not None, "the context of an entry outlives no run"
        self._nursery.start_soon(function)
