"""Runs an `async` entry: calls it, hears what the host says meanwhile, and sees that there is a final word.

Theory of operation
-------------------

`AsyncControls` does what the entry asks for, and knows what has become of it. The entry runs in a cancel scope of its
own, in the task that called `run_async_child`. Beside it, in one nursery, run the task that reads the control lane and,
each from the moment when it is first needed, the one that reads messages (`MessageIntake`), the ones that drain an
outbox whose lane is full, and the one that beats.

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
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._protocol._json_text import read_json
from spindle_trio.child._async_context import ProcessContext
from spindle_trio.child._async_controls import AsyncControls
from spindle_trio.child._exit_frames import describe_error, encode_failure, encode_stopped, system_exit_code
from spindle_trio.child._handlers import StopNotice

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from spindle_trio._model import JsonValue
    from spindle_trio.abc import FrameLane
    from spindle_trio.child._facts import ProcessFacts

    EntryFunction: TypeAlias = Callable[[ProcessContext], Awaitable[object]]

_CONTROL_FRAMES: Final = 16
_LANE_ENDED: Final = (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError, PeerProtocolError)


class ChildEnd(NamedTuple):
    """How a child has ended, for the code that ends its process."""

    code: int
    """The exit code: 0 after `complete` and `stopped`, n after ``sys.exit(n)``, and 1 after any other failure."""
    messages: int
    """How many messages it has put on its messages lane in all."""


async def run_async_child(
    function: EntryFunction,
    facts: ProcessFacts,
    control: FrameLane,
    messages: FrameLane,
    calls: Callable[[], FrameLane] | None = None,
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
        messages: the messages lane.
        calls: makes the calls lane, for an entry that takes calls; `None` if there is none.
        beat: leaves a heartbeat where the host looks for it; cheap.
        report: shows a text to the author of the entry, on stderr in a real process.
        host_gone: called once when the control lane has ended or is broken, before the entry is cancelled: a
            real process ends itself here, since an entry may take its time over a cancellation.
        nursery: opened around this call and nothing else, for its tasks; by default it opens one.

    Returns:
        The exit code, and the number of messages sent.
    """
    controls = AsyncControls(facts, control, messages, calls, beat, report)
    runtime = _Runtime(controls, control, report, host_gone)
    try:
        if nursery is not None:
            return await runtime.run(function, nursery)
        async with trio.open_nursery() as own:
            return await runtime.run(function, own)  # noqa: ASYNC121  # its tasks are this call's own
    finally:
        controls.release()


class _Runtime:
    """One entry's run: calls it, hears what the host says meanwhile, and sees that there is a final word."""

    __slots__ = ("_context", "_control", "_controls", "_hears", "_host_gone", "_lives_on", "_report")

    def __init__(
        self,
        controls: AsyncControls,
        control: FrameLane,
        report: Callable[[str], None],
        host_gone: Callable[[], None],
    ) -> None:
        self._controls = controls
        self._control = control
        self._report = report
        self._host_gone = host_gone
        self._context = copy_context()
        self._lives_on = False
        self._hears = True

    async def run(self, function: EntryFunction, nursery: trio.Nursery) -> ChildEnd:
        """Run the entry to its end; see `run_async_child`."""
        controls = self._controls
        controls.nursery = nursery
        try:
            self._take_control(self._control.receive_nowait(_CONTROL_FRAMES))
        except trio.WouldBlock:
            pass
        except _LANE_ENDED as error:
            self._lose_host(error)
        try:
            if controls.ended_by is None:
                if not self._control.tell_arrival(self):
                    nursery.start_soon(self._read_control)
                code = await self._run_entry(function)
            else:
                code = self._end_by_runtime()
            await controls.wait_flushed()
        finally:
            self._hears = False
        nursery.cancel_scope.cancel()
        return ChildEnd(code, controls.sent)

    async def _run_entry(self, function: EntryFunction) -> int:
        """Call the entry, let it live on if it wants to, clean up, and say the final word if nobody has."""
        controls = self._controls
        value: object = None
        try:
            with controls.entry_scope:
                value = await function(ProcessContext(controls))
        except BaseException as error:  # noqa: ASYNC103  # what an entry raises is data, and the next lines see to the rest
            # A cancelled run says nothing more, whatever the `finally` blocks of its entry have raised.
            if isinstance(error, trio.Cancelled) and trio.current_effective_deadline() == -inf:
                raise
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102  # raises, or returns at once
            return self._end_by_raising(error)  # noqa: ASYNC104  # as above
        clean_up = value if callable(value) else None
        is_free = controls.final is None and controls.stop is None and controls.ended_by is None
        if is_free and (clean_up is not None or controls.has_handlers):
            await self._live_on()
        await controls.wait_calls()
        if clean_up is not None:
            value = None
            await self._clean_up(clean_up)
        if controls.final is None:
            if self._lives_on or controls.entry_scope.cancelled_caught:
                return self._end_by_runtime()
            self._complete_with(value)
        return self._final_code

    async def _live_on(self) -> None:
        """Wait until an entry that has returned is ended, by its own final word or by this runtime."""
        self._lives_on = True
        while self._controls.final is None and self._controls.ended_by is None:
            await self._controls.wait()

    async def _clean_up(self, clean_up: Callable[[], object]) -> None:
        """Run the clean-up function that the entry has returned; what it raises is reported."""
        try:
            returned = clean_up()
            if isinstance(returned, Awaitable):
                await returned
        except BaseException as error:  # noqa: ASYNC103  # as in `_run_entry`
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102  # raises, or returns at once
            self._report(f"the clean-up function raised {describe_error(error)}")

    def _end_by_raising(self, error: BaseException) -> int:
        """Say what follows from what the entry or a handler has raised, and return the exit code."""
        controls = self._controls
        code = system_exit_code(error, self._report)
        if code is None and controls.final is not None:
            self._report(f"the entry raised after complete() or fail(): {describe_error(error)}")
        elif code is None:
            controls.say_finally("failed", encode_failure(error, controls.sent, controls.facts))
        elif code == 0 and controls.final is None:
            self._complete_with(None)
        elif controls.final is None or (controls.final == "failed" and code):
            return code
        return self._final_code

    def _end_by_runtime(self) -> int:
        """Say what follows when this runtime has ended the entry, and return the exit code."""
        controls = self._controls
        if controls.handler_exit is not None:
            return self._end_by_raising(controls.handler_exit)
        if controls.ended_by == "stop":
            controls.say_finally("stopped", encode_stopped(controls.sent))
        return self._final_code

    def _complete_with(self, value: object) -> None:
        try:
            self._controls.complete(value)
        except PayloadError as error:
            self._controls.fail(f"PayloadError: {error}")

    @property
    def _final_code(self) -> int:
        return 0 if self._controls.final in ("completed", "stopped") else 1

    # What comes from the host.

    def arrived(self, lane: FrameLane) -> None:
        """Begin to read, in this runtime's context: this is called in the middle of somebody else's task."""
        if self._hears and lane is self._control:
            self._context.run(self._controls.start_soon, self._read_control)

    async def _read_control(self) -> None:
        try:
            while True:
                self._take_control(await self._control.receive(_CONTROL_FRAMES))
        except _LANE_ENDED as error:
            self._lose_host(error)

    def _take_control(self, bodies: list[bytes]) -> None:
        """Take in frames of the control lane."""
        for body in bodies:
            try:
                frame: JsonValue = read_json(body)
            except ValueError as error:
                raise PeerProtocolError(f"a control frame that is not JSON: {error}") from None
            kind = frame.get("type") if isinstance(frame, dict) else None
            if not isinstance(frame, dict) or kind not in ("stop", "cancel", "credit"):
                raise PeerProtocolError("a control frame other than 'stop', 'cancel' and 'credit'")
            if kind == "stop":
                reason = frame.get("reason")
                self._controls.take_stop(StopNotice(reason if isinstance(reason, str) else None))
            elif self._controls.calls is not None:
                self._controls.calls.take_control(frame)

    def _lose_host(self, error: BaseException) -> None:
        if isinstance(error, PeerProtocolError):
            self._report(f"the host broke the protocol: {error}")
        self._host_gone()
        self._controls.lose_host()
