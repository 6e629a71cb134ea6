"""`spindle-trio run`: one process, its events and messages on stdout, stdin as messages to it.

Beside the tasks that each session has, two print messages and read stdin. A handler prints each event in the moment of
its transition. Only the terminal event waits, until all messages before it are on their way.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Final

import trio

import spindle_trio
from spindle_trio import LifecycleEvent, ProcessLifecycle, ProcessMessage, ProcessState
from spindle_trio.cli._advice import command_instead
from spindle_trio.cli._input import LineReader, LineTooLongError, message_from
from spindle_trio.cli._options import EXIT_REFUSED, RunOptions
from spindle_trio.cli._output import event_line, message_line, printable
from spindle_trio.cli._printing import EXIT_FAILED, complain, print_error
from spindle_trio.cli._session import Session
from spindle_trio.wire import to_json

_EXIT_OF_STATE: Final = {
    ProcessState.COMPLETED: 0,
    ProcessState.STOPPED: 0,
    ProcessState.FAILED: 1,
    ProcessState.TIMED_OUT: 124,
}
_STDIN: Final = 0


def run(options: RunOptions) -> int:
    """Run one entry to its end and return the command's exit status."""
    return _Session(options).run()


class _Session(Session):
    """One run of one process."""

    command = "run"

    def __init__(self, options: RunOptions) -> None:
        super().__init__(options.common)
        self._options = options
        self._processes: spindle_trio.BackendProcesses | None = None
        self._process_id: str | None = None
        self._began = 0.0
        self._started = trio.Event()
        self._ended = trio.Event()
        self._terminal: LifecycleEvent | None = None
        self._never_ready: str | None = None
        self._printed = trio.Event()
        self._refusal: str | None = None

    async def _use(self, processes: spindle_trio.BackendProcesses, nursery: trio.Nursery) -> None:
        self._processes = processes
        processes.on_lifecycle(self._note_event)
        nursery.start_soon(self._pass_input_on)
        nursery.start_soon(self._print_messages, processes.messages())
        self._refusal = await self._see_through(processes)

    async def _conclude(self) -> int:
        await self._printed.wait()
        if self._refusal is not None:
            complain(self._refusal, "run")
            return EXIT_REFUSED
        if self._terminal is None:
            return EXIT_FAILED
        self._output.put(self._event_line(self._terminal))
        if self._terminal.post_mortem is not None and not self._options.as_json:
            # The line has the error already; this is the rest of the post-mortem.
            print_error(printable(str(self._terminal.post_mortem)))
        if self._never_ready is not None:
            complain(self._never_ready, "run")
            return EXIT_FAILED
        return _EXIT_OF_STATE[self._terminal.state]

    async def _see_through(self, processes: spindle_trio.BackendProcesses) -> str | None:
        """Spawn the process and wait for its terminal event, or return why nothing was launched."""
        common, options = self._common, self._options
        try:
            await processes.spawn(
                common.entry,
                kind=options.kind,
                key=options.key,
                payload=common.payload,
                metadata=options.metadata,
                startup_timeout=common.startup_timeout,
                heartbeat_timeout=common.heartbeat_timeout,
            )
        except spindle_trio.StartupFailedError as error:
            if error.info.state is ProcessState.COMPLETED:
                self._never_ready = str(error)  # its events alone look like a success
        except spindle_trio.SpawnError:
            pass  # its events show everything; after a stop while starting, the end is still to come
        except spindle_trio.EntryError as error:
            return f"{error}; type: {command_instead(common.entry, common.root)}"
        except (spindle_trio.SpawnRefusedError, spindle_trio.PayloadError) as error:
            return f"{error}; for the options, type: spindle-trio run --help"
        await self._ended.wait()
        return None

    def _note_event(self, event: LifecycleEvent) -> None:
        """Print an event in the moment of its transition; the terminal event waits for the messages before it."""
        if event.state is ProcessState.STARTING:
            self._process_id, self._began = event.process_id, trio.current_time()
            self._started.set()
        if event.state.is_terminal:
            self._terminal = event
            self._ended.set()
        else:
            self._output.put(self._event_line(event))

    def _event_line(self, event: LifecycleEvent) -> str:
        if self._options.as_json:
            return _wire_line(ProcessLifecycle(event))
        return event_line(self._elapsed(), event)

    async def _print_messages(self, messages: trio.abc.ReceiveChannel[ProcessMessage]) -> None:
        """Print messages until the worker has closed. A paused reader holds up only the process."""
        async for message in messages:
            if self._options.as_json:
                line = _wire_line(message)
            else:
                line = message_line(self._elapsed(), self._common.entry, message)
            await self._output.send(line)
        self._printed.set()

    def _elapsed(self) -> float:
        return trio.current_time() - self._began

    async def _stop(self, reason: str) -> None:
        """Stop the process; if there is none yet, never start it."""
        if self._processes is None or self._process_id is None:
            self._life.cancel()
        else:
            with suppress(trio.ClosedResourceError):  # it has ended, and the last lines are on their way
                await self._processes.stop(self._process_id, reason=reason)

    async def _pass_input_on(self) -> None:
        """Send each line of stdin to the process, until the process or the input ends."""
        await self._started.wait()
        assert self._processes is not None
        assert self._process_id is not None
        lines = LineReader(_STDIN)
        number = 0
        while not self._ended.is_set():
            number += 1
            try:
                line = await lines.receive()
                if line is None:
                    return
                await self._processes.send(self._process_id, message_from(line))
            except (LineTooLongError, spindle_trio.PayloadError, UnicodeDecodeError) as error:
                complain(f"line {number} of the input was not sent: {error}", "run")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return


def _wire_line(value: ProcessLifecycle | ProcessMessage) -> str:
    return json.dumps(to_json(value), ensure_ascii=False, separators=(",", ":"))
