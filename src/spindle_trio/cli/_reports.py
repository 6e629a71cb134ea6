"""What processes say and do, in order: each message as it arrives, each event in the moment of its transition."""

from __future__ import annotations

from collections.abc import Callable

import trio

import spindle_trio
from spindle_trio import LifecycleEvent, ProcessMessage
from spindle_trio.cli._output import Output


class Reports:
    """Reports the messages and events of all processes of a worker.

    Two handlers do, which keeps the order, and never wait. A channel beside them is read only while there is room in
    the output: so a paused reader holds up the processes that send messages, and nothing else.
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
        self._channel = processes.messages()
        processes.on_message(message)
        processes.on_lifecycle(event)

    async def run(self) -> None:
        """Let processes send while there is room, until the worker has closed."""
        while True:
            await self._output.wait_for_room()
            try:
                await self._channel.receive_many()  # these are printed already
            except trio.EndOfChannel:
                return
