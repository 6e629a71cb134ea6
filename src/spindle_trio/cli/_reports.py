"""What processes say and do, in order: each message as it arrives, each event in the moment of its transition."""

from __future__ import annotations

from collections.abc import Callable

import trio

import spindle_trio
from spindle_trio import LifecycleEvent, ProcessMessage, ProcessState
from spindle_trio.cli._output import Output

_MOMENT_SECONDS = 0.05


class Reports:
    """Reports the messages and events of all processes of a worker.

    Two handlers do, which keeps the order, and never wait. A channel beside them is read only while there is room in
    the output: so a paused reader holds up the processes that send messages, and nothing else.

    The word that a process is ready comes on a lane of its own, and may be read a moment after what follows it. So the
    messages of a process that is starting wait for that moment.
    """

    def __init__(
        self,
        processes: spindle_trio.BackendProcesses,
        output: Output,
        *,
        message: Callable[[ProcessMessage], object],
        event: Callable[[LifecycleEvent], object],
    ) -> None:
        """Listen to a worker; `run` has to follow.

        Args:
            processes: of the worker.
            output: takes what is printed.
            message: prints a message.
            event: prints an event.
        """
        self._output = output
        self._message = message
        self._event = event
        self._starting: set[str] = set()
        self._early: list[ProcessMessage] = []
        self._no_longer_early = trio.lowlevel.ParkingLot()
        self._channel = processes.messages()
        processes.on_message(self._report_message)
        processes.on_lifecycle(self._report_event)

    async def run(self) -> None:
        """Let processes send while there is room, until the worker has closed."""
        while True:
            await self._output.wait_for_room()
            try:
                await self._channel.receive_many()  # these are printed already, or early
            except trio.EndOfChannel:
                return
            if self._early:
                with trio.move_on_after(_MOMENT_SECONDS):
                    await self._no_longer_early.park()
                self._report_early()

    def _report_message(self, message: ProcessMessage) -> None:
        if message.process_id in self._starting:
            self._early.append(message)
        else:
            self._message(message)

    def _report_event(self, event: LifecycleEvent) -> None:
        if event.state is ProcessState.STARTING:
            self._starting.add(event.process_id)
        else:
            self._starting.discard(event.process_id)
        if event.state.is_terminal:
            self._report_early()
        self._event(event)
        if event.state is ProcessState.RUNNING:
            self._report_early()

    def _report_early(self) -> None:
        self._no_longer_early.unpark_all()
        early, self._early = self._early, []
        for message in early:
            self._message(message)
