"""`spindle-trio call`: one process, one call or stream, and what it answers on stdout.

A signal, or that nobody reads the output, cancels the call; leaving the block of the process then stops it.
"""

from __future__ import annotations

import difflib
from typing import Final

import trio

import spindle_trio
from spindle_trio.cli._advice import command_instead
from spindle_trio.cli._options import EXIT_REFUSED, CallOptions
from spindle_trio.cli._output import compact, printable
from spindle_trio.cli._printing import EXIT_FAILED, complain, print_error
from spindle_trio.cli._session import Session

_EXIT_LOST: Final = 3
_EXIT_TIMED_OUT: Final = 124
_USE_STREAM: Final = "read it with stream(), not with call()"
_USE_CALL: Final = "use call(), not stream()"
"""How the runtimes refuse the wrong form of call."""


def call(options: CallOptions) -> int:
    """Call a method of an entry and return the command's exit status."""
    return _Session(options).run()


class _Session(Session):
    """One call."""

    command = "call"

    def __init__(self, options: CallOptions) -> None:
        super().__init__(options.common)
        self._common = options.common
        self._options = options
        self._asking = trio.CancelScope()
        self._status = EXIT_FAILED

    async def _use(self, worker: spindle_trio.Worker, nursery: trio.Nursery) -> None:
        with self._asking:
            self._status = await self._open_process(worker.backend_processes)

    async def _conclude(self) -> int:
        return self._status

    async def _stop(self, reason: str) -> None:
        self._asking.cancel()

    async def _open_process(self, processes: spindle_trio.BackendProcesses) -> int:
        """Run the process for as long as the call takes."""
        common = self._common
        try:
            async with processes.open(
                common.entry,
                payload=common.payload,
                startup_timeout=common.startup_timeout,
                heartbeat_timeout=common.heartbeat_timeout,
                resource_limits=common.bounds.limits,
                sandbox=common.bounds.sandbox,
            ) as handle:
                return await self._judge(handle)
        except spindle_trio.SpawnError as error:
            said, _, details = str(error).partition("\n")
            complain(printable(said), "call")
            if details:
                print_error(printable(details))
            return _EXIT_TIMED_OUT if isinstance(error, spindle_trio.StartupTimeoutError) else _EXIT_LOST
        except spindle_trio.EntryError as error:
            meant = command_instead(common.entry, common.root, f"call {{}} {self._options.method}")
            complain(f"{error}; type: {meant}", "call")
        except (spindle_trio.SpawnRefusedError, spindle_trio.PayloadError) as error:
            complain(f"{error}; for the options, type: spindle-trio call --help", "call")
        return EXIT_REFUSED

    async def _judge(self, handle: spindle_trio.ProcessHandle) -> int:
        """Make the call; say what went wrong, once all items before that are printed."""
        try:
            await self._ask(handle)
        except spindle_trio.UnknownMethodError as error:
            return await self._explain(error, EXIT_REFUSED, advice=self._method_instead(error))
        except spindle_trio.PayloadError as error:
            return await self._explain(error, EXIT_REFUSED)
        except spindle_trio.CallFailedError as error:
            return await self._explain(error, EXIT_FAILED, error.traceback, advice=_form_instead(error))
        except spindle_trio.CallTimeoutError as error:
            await handle.wait_idle()  # until the handler has given up, or was killed
            return await self._explain(error, _EXIT_TIMED_OUT, handle.post_mortem)
        except spindle_trio.ProcessLostError as error:
            return await self._explain(error, _EXIT_LOST, error.post_mortem)
        except spindle_trio.CallError as error:
            return await self._explain(error, EXIT_FAILED)
        return 0

    async def _ask(self, handle: spindle_trio.ProcessHandle) -> None:
        """Print the answer, or the items as they come. A paused reader holds up only the generator."""
        method, argument, timeout = self._options.method, self._options.argument, self._options.timeout
        if not self._options.is_stream:
            try:
                answer = await handle.call(method, argument, timeout=timeout, overrun="kill")
            except spindle_trio.CallFailedError as error:
                if not _is_uncalled_generator(error):
                    raise
            else:
                self._output.put(compact(answer))
                return
        async with handle.stream(method, argument, timeout=timeout, overrun="kill") as items:
            async for item in items:
                await self._output.send(compact(item))

    async def _explain(self, error: Exception, status: int, details: object = None, *, advice: str = "") -> int:
        await self._output.flush()
        complain(printable(f"{error}{advice}"), "call")
        if details is not None:
            print_error(printable(str(details)))
        return status

    def _method_instead(self, error: spindle_trio.UnknownMethodError) -> str:
        near = difflib.get_close_matches(self._options.method, error.known, n=1)
        return f"; type: spindle-trio call {self._common.entry} {near[0]}" if near else ""


def _is_uncalled_generator(error: spindle_trio.CallFailedError) -> bool:
    """Whether a runtime has refused a call since its handler is a generator, before it called anything.

    Such a refusal has no traceback. What a handler raises has one, whatever its text.
    """
    return (
        error.error_type == "TypeError"
        and error.traceback is None
        and error.text.endswith(f" is a generator: {_USE_STREAM}")
    )


def _form_instead(error: spindle_trio.CallFailedError) -> str:
    """Advise the other form of call."""
    if error.text.endswith(_USE_STREAM):
        return "; to print its items, add --stream"
    if error.text.endswith(_USE_CALL):
        return "; to print its answer, leave out --stream"
    return ""
