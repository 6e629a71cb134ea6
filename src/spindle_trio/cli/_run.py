"""`spindle-trio run`: one process, its events and messages on stdout, stdin as messages to it.

The process is a service, which `--restart` lets start again. Beside the tasks that each session has, two hold up
processes while nobody reads, and read stdin.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

import spindle_trio
from spindle_trio import LifecycleEvent, ProcessLifecycle, ProcessMessage, ProcessState, ServiceEvent, ServiceEventKind
from spindle_trio.cli._advice import command_instead, command_with, only_takes_calls
from spindle_trio.cli._input import LineReader, LineTooLongError, message_from
from spindle_trio.cli._options import EXIT_REFUSED, RunOptions
from spindle_trio.cli._output import event_line, message_line, printable, waiting_line
from spindle_trio.cli._printing import EXIT_FAILED, complain, print_error
from spindle_trio.cli._reports import Reports
from spindle_trio.cli._session import Session, failed_status
from spindle_trio.wire import to_json

if TYPE_CHECKING:
    from spindle_trio import JsonValue

_FINE: Final = {ProcessState.COMPLETED, ProcessState.STOPPED}
_STDIN: Final = 0


def run(options: RunOptions) -> int:
    """Run one entry to its end and return the command's exit status."""
    return _Session(options).run()


class _Session(Session):
    """One run of one entry."""

    command = "run"

    def __init__(self, options: RunOptions) -> None:
        super().__init__(options.common)
        self._common = options.common
        self._options = options
        self._processes: spindle_trio.BackendProcesses | None = None
        self._service: spindle_trio.Service | None = None
        self._process_id: str | None = None
        self._began = 0.0
        self._started = trio.Event()
        self._over = trio.Event()
        self._terminal: LifecycleEvent | None = None
        self._never_ready: str | None = None
        self._gave_up: str | None = None
        self._refusal: str | None = None

    async def _use(self, worker: spindle_trio.Worker, nursery: trio.Nursery) -> None:
        self._processes = processes = worker.backend_processes
        nursery.start_soon(self._pass_input_on)
        reports = Reports(processes, self._output, message=self._print_message, event=self._note_event)
        nursery.start_soon(reports.run)
        self._refusal = await self._see_through(worker)
        self._over.set()

    async def _conclude(self) -> int:
        if self._refusal is not None:
            complain(self._refusal, "run")
            return EXIT_REFUSED
        if self._terminal is None:
            return EXIT_FAILED
        if self._terminal.post_mortem is not None and not self._options.as_json:
            # The line has the error already; this is the rest of the post-mortem.
            print_error(printable(str(self._terminal.post_mortem)))
        failure = self._never_ready or self._gave_up
        if failure is not None:
            complain(printable(failure), "run")
            return failed_status(self._terminal)
        return 0 if self._terminal.state in _FINE else failed_status(self._terminal)

    async def _see_through(self, worker: spindle_trio.Worker) -> str | None:
        """Keep the process up until nothing is to follow, or return why nothing was launched."""
        common, options = self._common, self._options
        try:
            async with spindle_trio.open_service(
                worker,
                common.entry,
                restart=options.restart,
                kind=options.kind,
                key=options.key,
                payload=common.payload,
                metadata=options.metadata,
                startup_timeout=common.startup_timeout,
                heartbeat_timeout=common.heartbeat_timeout,
                resource_limits=common.bounds.limits,
                sandbox=common.bounds.sandbox,
            ) as service:
                service.on_event(self._note_service)
                self._service = service
                if service.state != "stopped":  # it may have run for no longer than a moment
                    await self._over.wait()
        except spindle_trio.ServiceGaveUpError as error:
            self._gave_up = str(error)
        except spindle_trio.StartupFailedError as error:
            if error.info.state is ProcessState.COMPLETED:
                self._never_ready = str(error)  # its events alone look like a success
        except spindle_trio.SpawnError:
            pass  # its events show everything
        except spindle_trio.EntryError as error:
            return f"{error}; type: {command_instead(common.entry, common.root)}"
        except (spindle_trio.SpawnRefusedError, spindle_trio.PayloadError) as error:
            return f"{error}; for the options, type: spindle-trio run --help"
        return None

    def _note_event(self, event: LifecycleEvent) -> None:
        """Print an event, and note what it tells."""
        is_first = event.state is ProcessState.STARTING and not self._started.is_set()
        if event.state is ProcessState.STARTING:
            if is_first:
                self._began = trio.current_time()
            self._process_id = event.process_id
            self._started.set()
        if event.state.is_terminal:
            self._terminal = event
        as_json = self._options.as_json
        self._output.put(_wire_line(ProcessLifecycle(event)) if as_json else event_line(self._elapsed(), event))
        if is_first:
            self._hint_at_calls()  # it reads the file, so the line comes first

    def _hint_at_calls(self) -> None:
        """Say what to type if the entry does nothing but wait for calls."""
        entry, root = self._common.entry, self._common.root
        if only_takes_calls(root / entry):
            meant = command_with(entry, root, "call {} NAME")
            complain(f"{entry} only answers calls; type: {meant}", "run")

    def _note_service(self, event: ServiceEvent) -> None:
        """Print when the next process starts, and note that none does."""
        if event.kind is ServiceEventKind.STOPPED:
            self._over.set()
        elif event.kind is ServiceEventKind.RESTART_SCHEDULED and not self._options.as_json:
            assert self._process_id is not None
            self._output.put(waiting_line(self._elapsed(), event, self._common.entry, self._process_id))

    def _print_message(self, message: ProcessMessage) -> None:
        if self._options.as_json:
            line = _wire_line(message)
        else:
            line = message_line(self._elapsed(), self._common.entry, message)
        self._output.put(line)

    def _elapsed(self) -> float:
        return trio.current_time() - self._began

    async def _stop(self, reason: str) -> None:
        """Stop the process, and start no other; if there is none yet, never start it."""
        if self._service is not None:
            await self._service.stop(reason)
        elif self._processes is None or self._process_id is None:
            self._life.cancel()
        else:
            with suppress(trio.ClosedResourceError):  # it has ended, and the last lines are on their way
                await self._processes.stop(self._process_id, reason=reason)

    async def _pass_input_on(self) -> None:
        """Send each line of stdin to the process that runs or the next one, until there is none, or no more input."""
        await self._started.wait()
        assert self._processes is not None
        lines = LineReader(_STDIN)
        number = 0
        while not self._over.is_set():
            number += 1
            try:
                line = await lines.receive()
                if line is None:
                    return
                await self._send(message_from(line))
            except (LineTooLongError, spindle_trio.PayloadError, UnicodeDecodeError) as error:
                complain(f"line {number} of the input was not sent: {error}", "run")
            except trio.BrokenResourceError:
                if self._options.restart.when == "never":
                    return
                complain(f"line {number} of the input was not sent: the process had ended", "run")
            except (trio.ClosedResourceError, spindle_trio.ServiceGaveUpError):
                return

    async def _send(self, payload: JsonValue) -> None:
        if self._service is not None:
            await self._service.send(payload)
        elif self._processes is not None and self._process_id is not None:
            await self._processes.send(self._process_id, payload)  # waits there until the entry is ready


def _wire_line(value: ProcessLifecycle | ProcessMessage) -> str:
    return json.dumps(to_json(value), ensure_ascii=False, separators=(",", ":"))
