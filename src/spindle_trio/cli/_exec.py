"""`spindle-trio exec`: one program under supervision, its stdin, stdout and stderr passed through.

Its lane is ``bytes``, so each chunk that it writes is a message. A paused reader therefore holds up the program, as a
pipe between the two would.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

import spindle_trio
from spindle_trio import ProcessState
from spindle_trio.cli._input import Reader
from spindle_trio.cli._options import EXIT_REFUSED, ExecOptions
from spindle_trio.cli._output import Output, printable
from spindle_trio.cli._printing import EXIT_FAILED, complain, print_error
from spindle_trio.cli._session import Session, failed_status

if TYPE_CHECKING:
    from spindle_trio import LifecycleEvent

_FINE: Final = {ProcessState.COMPLETED, ProcessState.STOPPED}
_STDIN: Final = 0
_STDERR: Final = 2


def execute(options: ExecOptions) -> int:
    """Run one program to its end and return the command's exit status."""
    return _Session(options).run()


class _Session(Session):
    """One run of one program."""

    command = "exec"

    def __init__(self, options: ExecOptions) -> None:
        super().__init__(options.session)
        self._options = options
        self._errors = Output(_STDERR)
        self._handle: spindle_trio.ProcessHandle | None = None
        self._starting = trio.CancelScope()
        self._terminal: LifecycleEvent | None = None
        self._refusal: str | None = None

    async def _use(self, worker: spindle_trio.Worker, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._errors.run)
        worker.backend_processes.on_lifecycle(self._note_event)
        with self._starting:
            self._handle = await self._spawn(worker.backend_processes)
        if self._handle is not None:
            nursery.start_soon(self._pass_input_on, self._handle)
            await self._pass_output_on(self._handle)
            await self._handle.wait_ended()

    async def _conclude(self) -> int:
        await self._errors.flush()
        await self._output.flush()
        if self._refusal is not None:
            complain(printable(self._refusal), "exec")
            return EXIT_REFUSED
        if self._terminal is None:
            return EXIT_FAILED
        if self._terminal.state in _FINE:
            return 0
        # The program's own text has been passed through, so the post-mortem needs only the rest.
        end = self._terminal.post_mortem
        error = self._terminal.error if end is None else end.error
        what = "ran out of time" if self._terminal.state is ProcessState.TIMED_OUT else "failed"
        complain(printable(f"{self._options.argv[0]} {what}: {error}"), "exec")
        if end is not None:
            print_error(printable(str(end)[len(end.error) :].lstrip("\n")))
        return failed_status(self._terminal)

    async def _stop(self, reason: str) -> None:
        self._starting.cancel()
        if self._handle is not None:
            await self._handle.stop(reason=reason)

    async def _spawn(self, processes: spindle_trio.BackendProcesses) -> spindle_trio.ProcessHandle | None:
        options = self._options
        try:
            return await processes.spawn(
                spindle_trio.Command(options.argv, environment=options.environment, lane="bytes"),
                heartbeat_timeout=math.inf,
                resource_limits=options.bounds.limits,
                sandbox=options.bounds.sandbox,
            )
        except spindle_trio.SpawnError:
            pass  # its event has the reason
        except (spindle_trio.SpawnRefusedError, spindle_trio.PayloadError, ValueError) as error:
            self._refusal = f"{error}; for the options, type: spindle-trio exec --help"
        return None

    def _note_event(self, event: LifecycleEvent) -> None:
        if event.state.is_terminal:
            self._terminal = event

    async def _pass_output_on(self, handle: spindle_trio.ProcessHandle) -> None:
        """Write what the program writes, as fast as it is taken."""
        async for chunk in handle.messages():
            for stream, data in _parts(chunk):
                output = self._errors if stream == "stderr" else self._output
                output.put_bytes(data)
                await output.wait_for_room()

    async def _pass_input_on(self, handle: spindle_trio.ProcessHandle) -> None:
        """Give the program what comes on stdin, up to its end."""
        reader = Reader(_STDIN)
        try:
            while data := await reader.receive_some():
                await handle.send(data)
            await handle.send(None)  # closes its stdin
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the program has ended


def _parts(chunk: object) -> list[tuple[str, bytes]]:
    """Take a message of the lane ``bytes`` apart: an object with bytes, which the type of a payload leaves out."""
    assert isinstance(chunk, dict)
    return list(chunk.items())
