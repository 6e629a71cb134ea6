"""Records what a worker's processes do, for tests to wait for, to compare, and to show when they fail."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import attrs
import trio

from spindle_trio._model import JsonValue, LifecycleEvent, ProcessMessage, ProcessState
from spindle_trio._worker import BackendProcesses

_DETAIL_CHARACTERS: Final = 70


@attrs.frozen
class _Entry:
    """One line of the record."""

    seconds: float
    """Since the recorder was made, on Trio's clock."""
    what: LifecycleEvent | ProcessMessage


class EventRecorder:
    """Records the lifecycle events and messages of one worker's processes, from its making to its close.

    For example::

        with EventRecorder(worker.backend_processes) as recorder:
            handle = await worker.backend_processes.spawn("entry")
            await handle.stop()
            recorder.assert_states(["starting", "running", "stopping", "stopped"])

    It uses handlers, so that nothing is lost or late: once `spawn`, `stop` or `wait_ended` has returned, the record has
    everything that led to it. (As a message handler it counts as a subscription that is never behind.)
    """

    def __init__(self, processes: BackendProcesses) -> None:
        """Begin to record.

        Args:
            processes: of an open worker.

        Raises:
            TypeError: it is something else, such as the worker itself.
        """
        if not isinstance(processes, BackendProcesses):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"a recorder takes the processes of a worker, not {processes!r}; "
                "type: EventRecorder(worker.backend_processes)"
            )
        self._began = trio.current_time()
        self._record: list[_Entry] = []
        self._changed = trio.lowlevel.ParkingLot()
        self._is_closed = False
        self._unsubscribe = (processes.on_lifecycle(self._take), processes.on_message(self._take))

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<EventRecorder {state}, {len(self.events)} events, {len(self.messages)} messages>"

    def __str__(self) -> str:
        """Show the record as a table."""
        return "\n".join(self._table())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop recording; the record stays. A task in `wait_for` gets an `AssertionError`."""
        self._is_closed = True
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._changed.unpark_all()

    @property
    def events(self) -> list[LifecycleEvent]:
        """All transitions so far, in order."""
        return [entry.what for entry in self._record if isinstance(entry.what, LifecycleEvent)]

    @property
    def messages(self) -> list[ProcessMessage]:
        """All messages so far, in order of arrival."""
        return [entry.what for entry in self._record if isinstance(entry.what, ProcessMessage)]

    def states(self, process_id: str | None = None) -> list[ProcessState]:
        """Return the states that one process, or all of them, have entered, in order."""
        return [event.state for event in self.events if process_id in (None, event.process_id)]

    def payloads(self, process_id: str | None = None) -> list[JsonValue]:
        """Return what one process, or all of them, have sent, in order of arrival."""
        return [message.payload for message in self.messages if process_id in (None, message.process_id)]

    async def wait_for(self, state: ProcessState | str, process_id: str | None = None) -> LifecycleEvent:
        """Wait until a process has entered a state, and return the first event that says so.

        An event that has been recorded already counts, too.

        Args:
            state: which state.
            process_id: which process; by default any.

        Raises:
            AssertionError: it can no longer happen: the process has ended in another state, or this recorder was
                closed. The text shows what was recorded.
        """
        wanted = ProcessState(state)
        await trio.lowlevel.checkpoint()
        while True:
            for event in self.events:
                if event.state is wanted and process_id in (None, event.process_id):
                    return event
            whose = "no process" if process_id is None else f"process {process_id} never"
            ended = [event for event in self.events if event.process_id == process_id and event.state.is_terminal]
            if ended:
                raise AssertionError(self._explained(f"{whose} entered {wanted}: it has ended as {ended[0].state}"))
            if self._is_closed:
                raise AssertionError(self._explained(f"{whose} entered {wanted} before the recorder was closed"))
            await self._changed.park()

    def assert_states(self, expected: Sequence[ProcessState | str], process_id: str | None = None) -> None:
        """Make sure that one process, or all of them, have entered exactly these states, in this order.

        Raises:
            AssertionError: they have not; shows both, and the record.
        """
        wanted = [ProcessState(state) for state in expected]
        seen = self.states(process_id)
        if seen != wanted:
            whose = "" if process_id is None else f" of process {process_id}"
            raise AssertionError(
                self._explained(
                    f"the states{whose} are not as expected\n  expected: {_arrows(wanted)}\n  recorded: {_arrows(seen)}"
                )
            )

    def assert_payloads(self, expected: Sequence[object], process_id: str | None = None) -> None:
        """Make sure that one process, or all of them, have sent exactly these payloads, in this order.

        Raises:
            AssertionError: they have not; shows both, and the record.
        """
        seen = self.payloads(process_id)
        if seen != list(expected):
            whose = "" if process_id is None else f" of process {process_id}"
            raise AssertionError(
                self._explained(
                    f"the messages{whose} are not as expected\n  expected: {expected!r}\n  recorded: {seen!r}"
                )
            )

    def _take(self, what: LifecycleEvent | ProcessMessage) -> None:
        self._record.append(_Entry(trio.current_time() - self._began, what))
        self._changed.unpark_all()

    def _explained(self, problem: str) -> str:
        return "\n".join([problem, "what was recorded:", *(f"  {line}" for line in self._table())])

    def _table(self) -> list[str]:
        if not self._record:
            return ["(nothing)"]
        rows = [_row(entry) for entry in self._record]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(entry: _Entry) -> tuple[str, str, str, str]:
    """Write one line of the table: when, who, what, and what goes with it."""
    what = entry.what
    when = f"{entry.seconds:.3f} s"
    if isinstance(what, ProcessMessage):
        return when, what.process_id, "message", _shortened(repr(what.payload))
    change = f"{what.previous_state} → {what.state}" if what.previous_state else str(what.state)
    details = [what.entry]
    if what.exit_reason is not None and str(what.exit_reason) != str(what.state):
        details.append(str(what.exit_reason))
    if what.result is not None:
        details.append(f"result {what.result!r}")
    if what.error is not None:
        details.append(what.error.partition("\n")[0])
    return when, what.process_id, change, _shortened("; ".join(details))


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _DETAIL_CHARACTERS else f"{line[: _DETAIL_CHARACTERS - 1]}…"


def _arrows(states: Sequence[ProcessState]) -> str:
    return " → ".join(states) or "(none)"
