"""`spindle-trio call`: one process, one call or stream, and what it answers on stdout.

The body of `_Session` is the life of the process. Beside it run three small tasks: they wait for signals, write output,
and notice that nobody reads it. These two cancel the call; leaving the block of the process then stops it.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import AsyncIterator
from typing import Final

import trio

import spindle_trio
from spindle_trio.cli._advice import command_instead
from spindle_trio.cli._options import EXIT_REFUSED, CallOptions
from spindle_trio.cli._output import Output, compact, printable
from spindle_trio.cli._printing import STDOUT, complain, print_error, show_log, status_of

_EXIT_FAILED: Final = 1
_EXIT_LOST: Final = 3
_EXIT_TIMED_OUT: Final = 124
_USE_STREAM: Final = "read it with stream(), not with call()"
_USE_CALL: Final = "use call(), not stream()"
"""How the runtimes refuse the wrong form of call."""
_LAST_LINES_SECONDS: Final = 2.0
"""Seconds after the second signal, as in `run`."""


def call(options: CallOptions) -> int:
    """Call a method of an entry and return the command's exit status."""
    show_log(verbose=options.verbose)
    return trio.run(_Session(options).run)


class _Session:
    """One call."""

    def __init__(self, options: CallOptions) -> None:
        self._options = options
        self._output = Output(STDOUT)
        self._life = trio.CancelScope()
        self._asking = trio.CancelScope()
        self._host: spindle_trio.Host | None = None
        self._signal: int | None = None

    async def run(self) -> int:
        """Make the call, and return the exit status."""
        status = _EXIT_FAILED
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed, signals)
                nursery.start_soon(self._output.run)
                nursery.start_soon(self._leave_without_reader)
                with self._life:
                    status = await self._open_host()
                    await self._output.flush()
                nursery.cancel_scope.cancel()
        if self._signal is not None:
            return 128 + self._signal
        return status if self._output.problem is None else status_of(self._output.problem)

    async def _open_host(self) -> int:
        options = self._options
        status = _EXIT_FAILED
        try:
            async with (
                spindle_trio.open_host(grace_period=options.grace) as self._host,
                self._host.open_worker("cli", root=options.root, user_id=options.user) as worker,
            ):
                with self._asking:
                    status = await self._open_process(worker.backend_processes)
        except (spindle_trio.SpindleError, OSError) as error:
            complain(f"the host cannot open: {error}; to see what is missing, type: spindle-trio doctor", "call")
        return status

    async def _open_process(self, processes: spindle_trio.BackendProcesses) -> int:
        """Run the process for as long as the call takes."""
        options = self._options
        try:
            async with processes.open(
                options.entry,
                payload=options.payload,
                startup_timeout=options.startup_timeout,
                heartbeat_timeout=options.heartbeat_timeout,
            ) as handle:
                return await self._judge(handle)
        except spindle_trio.SpawnError as error:
            complain(printable(str(error)), "call")
            return _EXIT_TIMED_OUT if isinstance(error, spindle_trio.StartupTimeoutError) else _EXIT_LOST
        except spindle_trio.EntryError as error:
            meant = command_instead(options.entry, options.root, f"call {{}} {options.method}")
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
            return await self._explain(error, _EXIT_FAILED, error.traceback, advice=_form_instead(error))
        except spindle_trio.CallTimeoutError as error:
            await handle.wait_idle()  # until the handler has given up, or was killed
            return await self._explain(error, _EXIT_TIMED_OUT, handle.post_mortem)
        except spindle_trio.ProcessLostError as error:
            return await self._explain(error, _EXIT_LOST, error.post_mortem)
        except spindle_trio.CallError as error:
            return await self._explain(error, _EXIT_FAILED)
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
        return f"; type: spindle-trio call {self._options.entry} {near[0]}" if near else ""

    async def _heed(self, signals: AsyncIterator[int]) -> None:
        """Cancel the call at the first signal, and kill the process at the second."""
        async for number in signals:
            if self._signal is None:
                self._signal = number
                self._asking.cancel()
            else:
                if self._host is not None:
                    self._host.kill()
                self._life.deadline = min(self._life.deadline, trio.current_time() + _LAST_LINES_SECONDS)

    async def _leave_without_reader(self) -> None:
        """Cancel the call when its answer can no longer be written, usually because the reader is gone."""
        await self._output.broken.wait()
        self._asking.cancel()


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
