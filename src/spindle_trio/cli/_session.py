"""What the commands with processes share: a host, its one worker, the output, signals, and the exit status.

The body of a session is the life of its processes. Beside it run three small tasks: they wait for signals, write
output, and notice that nobody reads it.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import ClassVar, Final

import trio

import spindle_trio
from spindle_trio.cli._options import SessionOptions
from spindle_trio.cli._output import Output
from spindle_trio.cli._printing import EXIT_FAILED, STDOUT, complain, show_log, status_of

_REASONS: Final = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_EXIT_TIMED_OUT: Final = 124
_LAST_LINES_SECONDS: Final = 2.0
"""Seconds after the second signal: longer than a kill, and as long as a paused reader may hold up the exit."""


def failed_status(end: spindle_trio.LifecycleEvent) -> int:
    """Return the exit status for an end that nobody wanted."""
    return _EXIT_TIMED_OUT if end.state is spindle_trio.ProcessState.TIMED_OUT else EXIT_FAILED


class Session(ABC):
    """One run of a command."""

    command: ClassVar[str]
    """As typed after `spindle-trio`."""
    limits: ClassVar[spindle_trio.Limits] = spindle_trio.Limits()
    """Of the host."""

    def __init__(self, options: SessionOptions) -> None:
        self._settings = options
        self._output = Output(STDOUT)
        self._life = trio.CancelScope()
        self._host: spindle_trio.Host | None = None
        self._signal: int | None = None

    def run(self) -> int:
        """Return the exit status of the command, once nothing of it goes on."""
        show_log(verbose=self._settings.verbose)
        return trio.run(self._run)

    async def _run(self) -> int:
        status = EXIT_FAILED
        with trio.open_signal_receiver(*_REASONS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed, signals, nursery)
                nursery.start_soon(self._output.run)
                nursery.start_soon(self._leave_without_reader)
                with self._life:
                    status = await self._open_host(nursery)
                    await self._output.flush()
                nursery.cancel_scope.cancel()
        if self._signal is not None:
            return 128 + self._signal
        return status if self._output.problem is None else status_of(self._output.problem)

    async def _open_host(self, nursery: trio.Nursery) -> int:
        settings = self._settings
        try:
            async with (
                spindle_trio.open_host(
                    grace_period=settings.grace, max_processes=settings.processes, limits=self.limits
                ) as self._host,
                self._host.open_worker("cli", root=settings.root, user_id=settings.user) as worker,
            ):
                await self._use(worker, nursery)
        except (spindle_trio.SpindleError, OSError) as error:
            complain(f"the host cannot open: {error}; to see what is missing, type: spindle-trio doctor", self.command)
            return EXIT_FAILED
        return await self._conclude()

    @abstractmethod
    async def _use(self, worker: spindle_trio.Worker, nursery: trio.Nursery) -> None:
        """Start what runs and see it through; tasks of the nursery may go on until all is written."""

    @abstractmethod
    async def _conclude(self) -> int:
        """Return the exit status; the host is closed."""

    @abstractmethod
    async def _stop(self, reason: str) -> None:
        """Have what runs stop, or never start."""

    async def _heed(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        """Stop what runs at the first signal, and kill it at the second."""
        async for number in signals:
            if self._signal is None:
                self._signal = number
                nursery.start_soon(self._stop, _REASONS[signal.Signals(number)])
            else:
                if self._host is not None:
                    self._host.kill()
                self._life.deadline = min(self._life.deadline, trio.current_time() + _LAST_LINES_SECONDS)

    async def _leave_without_reader(self) -> None:
        """Stop what runs when the output can no longer be written, usually because its reader is gone."""
        await self._output.broken.wait()
        await self._stop("its output cannot be written")
