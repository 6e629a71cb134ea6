"""`spindle-trio up`: the services of a file as one group; what they print, say and do on stdout."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

import spindle_trio
from spindle_trio import LifecycleEvent, ProcessMessage, ProcessState, ServiceEvent, ServiceEventKind
from spindle_trio.cli._checked_table import FileRefusedError
from spindle_trio.cli._options import EXIT_REFUSED, SessionOptions, UpOptions
from spindle_trio.cli._output import compact, event_details, printable, waiting_details
from spindle_trio.cli._printing import STDOUT, complain, print_error
from spindle_trio.cli._reports import Reports
from spindle_trio.cli._service_file import ServiceFile, ServiceSpec, read_service_file
from spindle_trio.cli._service_lines import ServiceLines, Sign, what_processes_print
from spindle_trio.cli._session import Session, failed_status

if TYPE_CHECKING:
    from spindle_trio import Group, PostMortem

_FAILED = {ProcessState.FAILED, ProcessState.TIMED_OUT}
_USER = "local"


def up(options: UpOptions) -> int:
    """Run the services of a file and return the command's exit status."""
    try:
        file = read_service_file(options.file).with_only(options.only)
    except FileRefusedError as error:
        for line in str(error).splitlines():
            complain(printable(line), "up")
        return EXIT_REFUSED
    except OSError as error:
        complain(f"{options.file} cannot be read: {error.strerror}; type: spindle-trio up FILE.toml", "up")
        return EXIT_REFUSED
    session = _Session(file, verbose=options.verbose)
    with what_processes_print(session.lines):
        return session.run()


class _Session(Session):
    """One run of the services of a file. The kind of each process is the name of its service."""

    command = "up"
    limits = spindle_trio.Limits(log_lines=1000)

    def __init__(self, file: ServiceFile, *, verbose: bool) -> None:
        specs = file.services
        grace = max(spec.grace_period for spec in specs)
        super().__init__(SessionOptions(root=file.root, user=_USER, grace=grace, processes=len(specs), verbose=verbose))
        self._file = file
        is_coloured = os.isatty(STDOUT) and not os.environ.get("NO_COLOR")
        self.lines: ServiceLines = ServiceLines(self._output, [spec.name for spec in specs], is_coloured=is_coloured)
        self._names: dict[str, str] = {}  # of the services, by the ids of their live processes
        self._ends: dict[str, LifecycleEvent] = {}  # the last of each service
        self._worker: spindle_trio.Worker | None = None
        self._serving = trio.CancelScope()
        self._leaving = trio.Event()
        self._reason: str | None = None
        self._over: set[str] = set()
        self._gave_up = ""
        self._status = 0
        self._why: str | None = None
        self._post_mortem: PostMortem | None = None

    async def _use(self, worker: spindle_trio.Worker, nursery: trio.Nursery) -> None:
        self._worker = worker
        reports = Reports(worker.backend_processes, self._output, message=self._print_message, event=self._note_event)
        nursery.start_soon(reports.run)
        nursery.start_soon(self._hasten)
        name = ""
        try:
            async with spindle_trio.open_group(
                worker, strategy=self._file.strategy, restart=self._file.restart
            ) as group:
                try:
                    with self._serving:
                        for spec in self._file.services:
                            name = spec.name
                            await self._start(group, spec)
                        await trio.sleep_forever()  # until nothing runs, or a signal, or a service gives up
                finally:
                    self._leaving.set()
        except spindle_trio.ServiceGaveUpError as error:
            name = self._gave_up or name  # it may have run for no longer than a moment
            self._fail(failed_status(self._ends[name]), f"{name}: {error}", error.post_mortem)
        except spindle_trio.SpawnError as error:
            end = self._ends[name]
            self._fail(failed_status(end), f"{name} did not start: {error}", end.post_mortem)
        except (spindle_trio.SpawnRefusedError, spindle_trio.PayloadError) as error:
            self._fail(EXIT_REFUSED, f"{name} was refused: {error}", None)

    async def _start(self, group: Group, spec: ServiceSpec) -> None:
        """Start a service, and wait until it runs."""
        service = await group.start(
            spec.entry,
            name=spec.name,
            kind=spec.name,
            key=spec.key,
            restart=spec.restart,
            payload=spec.payload,
            environment=spec.environment,
            arguments=spec.arguments,
            folder=spec.folder,
            startup_timeout=spec.startup_timeout,
            heartbeat_timeout=spec.heartbeat_timeout,
            grace_period=spec.grace_period,
            resource_limits=spec.limits,
            restart_above=spec.restart_above,
            sandbox=spec.sandbox,
        )
        service.on_event(partial(self._note_service, spec.name))
        if service.state == "stopped":  # it has run for no longer than a moment
            self._note_over(spec.name)

    async def _conclude(self) -> int:
        if self._why is not None:
            await self._output.flush()
            if self._post_mortem is not None:
                print_error(printable(str(self._post_mortem)))
            complain(printable(self._why), "up")
        return self._status

    async def _stop(self, reason: str) -> None:
        """Have the group stop its services, one after another."""
        self._reason = reason
        self._serving.cancel()

    async def _hasten(self) -> None:
        """See to it that the group does not stop for longer than the longest grace period.

        When half of it is over, all that are left are asked at once; at its end they are killed.
        """
        await self._leaving.wait()
        patience = self._settings.grace / 2
        await trio.sleep(patience)
        with trio.move_on_after(patience):
            async with trio.open_nursery() as nursery:
                for process_id in reversed(self._names):
                    nursery.start_soon(self._ask, process_id)
                await trio.sleep_forever()
        if self._host is not None:
            self._host.kill()

    async def _ask(self, process_id: str) -> None:
        """Ask one process to stop; the group, which is closing, starts no other."""
        assert self._worker is not None, "it has this process"
        with suppress(trio.ClosedResourceError):  # the host is ending it
            await self._worker.backend_processes.stop(process_id, reason=self._reason)

    def _fail(self, status: int, why: str, post_mortem: PostMortem | None) -> None:
        """Note why the command ends, unless a service has failed for good before."""
        self._status = self._status or status
        self._why, self._post_mortem = why, post_mortem

    # ---- what happens

    def _note_event(self, event: LifecycleEvent) -> None:
        """Print what happens to a process."""
        self._names[event.process_id] = event.kind
        if event.state.is_terminal:
            del self._names[event.process_id]
            self._ends[event.kind] = event
        self.lines.put(event.kind, Sign.EVENT, f"{event.state.value}{event_details(event)}")

    def _print_message(self, message: ProcessMessage) -> None:
        self.lines.put(self._names[message.process_id], Sign.MESSAGE, compact(message.payload))

    def _note_service(self, name: str, event: ServiceEvent) -> None:
        """Print when the next process starts, and note that none does."""
        if event.kind is ServiceEventKind.RESTART_SCHEDULED:
            self.lines.put(name, Sign.EVENT, waiting_details(event))
        elif event.kind is ServiceEventKind.GAVE_UP:
            self._gave_up = name
        elif event.kind is ServiceEventKind.STOPPED:
            self._note_over(name)

    def _note_over(self, name: str) -> None:
        """End the command when nothing runs, and nothing follows."""
        end = self._ends[name]
        if end.state in _FAILED and not self._serving.cancel_called:
            self._status = self._status or failed_status(end)
        self._over.add(name)
        if len(self._over) == len(self._file.services):
            self._serving.cancel()
