"""What users see of a service: its state, its events and its messages, and how they wait for its process."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

import trio

from spindle_trio._errors import CallTimeoutError
from spindle_trio._messages._broadcast import Broadcast
from spindle_trio._model import PostMortem
from spindle_trio._process_handle import ProcessHandle
from spindle_trio._services._end import End
from spindle_trio._services._messages import ServiceMessages
from spindle_trio._services._settings import UnitSettings
from spindle_trio._services._unit import Unit
from spindle_trio._services._values import ServiceEvent, ServiceEventKind
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker import Worker

ServiceState: TypeAlias = Literal["starting", "running", "waiting", "stopped", "gave_up"]
"""The states of a service."""

_EVENTS = 1024
"""How many events may wait in a channel."""


@uninterrupted
class Status:
    """A service as its users see it. Its keeper says what happens; everything is told from here."""

    def __init__(self, worker: Worker, settings: UnitSettings) -> None:
        """Begin before the first start.

        Args:
            worker: starts the processes.
            settings: what each is started with.

        Raises:
            trio.ClosedResourceError: the worker is closed.
        """
        self.name: str = settings.name
        self.messages: ServiceMessages = ServiceMessages()
        self.unit: Unit = Unit(worker, settings, self.messages.take)
        self.events: Broadcast[ServiceEvent] = Broadcast("service events", _EVENTS)
        self.state: ServiceState = "starting"
        self.failures: int = 0
        """In a row."""
        self.restart_at: float | None = None
        """When the next start begins, in Trio's time, while it waits for that."""
        self._refusal: Callable[[], Exception] | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self._began_at = trio.current_time()
        self._wall = (datetime.now(UTC), trio.current_time())

    # ---- for users

    @property
    def process(self) -> ProcessHandle | None:
        """The process, if it may be used now."""
        return self.unit.process if self._refusal is None else None

    async def wait_running(self, least: int = 0) -> ProcessHandle:
        """Wait for a process that may be used.

        Args:
            least: of which generation it has to be, or of a later one.

        Raises:
            Exception: there will be none.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._refusal is not None:
                raise self._refusal()
            process = self.unit.process
            if process is not None and self.unit.generation >= least:
                return process
            await self._changed.park()

    async def wait_until(self, deadline: float, what: str) -> ProcessHandle:
        """Wait for a process that may be used, but not for ever.

        Args:
            deadline: in Trio's time.
            what: is to be done with it, for the error.

        Raises:
            CallTimeoutError: the time was over.
            Exception: there will be none.
        """
        if deadline == math.inf:
            return await self.wait_running()
        began = trio.current_time()
        with trio.CancelScope(deadline=deadline):
            return await self.wait_running()
        raise CallTimeoutError(
            f"{what} was not begun in time: it waited {trio.current_time() - began:.3g} s for {self.name}, which is "
            f"{self._doing()}; give it more time, or wait for service.wait_running() first"
        )

    def _doing(self) -> str:
        if self.restart_at is not None:
            left = max(0.0, self.restart_at - trio.current_time())
            return f"{self.state}: its next start is in {left:.3g} s, after {self.failures} failure(s) in a row"
        return self.state

    # ---- for the keeper

    def starting(self) -> None:
        """A start begins: `unit.start` follows at once."""
        self._enter("starting")
        self._began_at = trio.current_time()
        self._publish(ServiceEventKind.STARTED, self.unit.generation + 1)

    def running(self) -> None:
        """The process may be used."""
        self._enter("running")
        self._publish(
            ServiceEventKind.RUNNING,
            self.unit.generation,
            process=self.unit.last,
            seconds=trio.current_time() - self._began_at,
        )

    def recycling(self) -> None:
        """The process is being stopped, and the next one will be started."""
        self._enter("starting")

    def ended(self, end: End, failures: int) -> None:
        """The process is gone, or its start has failed."""
        self.failures = failures
        self._publish(
            ServiceEventKind.ENDED,
            self.unit.generation,
            end=end,
            seconds=None if end.ready_at is None else end.at - end.ready_at,
            error=end.said,
        )

    def waiting(self, at: float, since: float) -> None:
        """The next start has a time, after an end that has one."""
        self._enter("waiting")
        self.restart_at = at
        self._publish(
            ServiceEventKind.RESTART_SCHEDULED,
            self.unit.generation,
            restart_at=self._wall_time(at),
            seconds=at - since,
        )

    def refuse(self, make: Callable[[], Exception]) -> None:
        """Let nobody wait any longer: there will be no process. Only the first reason counts."""
        if self._refusal is None:
            self._refusal = make
            self._changed.unpark_all()

    def over(self, state: ServiceState, *, end: End | None, said: str) -> None:
        """It is over: nothing runs, and nothing follows."""
        self._enter(state)
        kind = ServiceEventKind.GAVE_UP if state == "gave_up" else ServiceEventKind.STOPPED
        self._publish(kind, self.unit.generation, end=end, error=said)
        self.events.close()
        self.messages.close()

    def _enter(self, state: ServiceState) -> None:
        self.state = state
        self.restart_at = None
        self._changed.unpark_all()

    def _wall_time(self, at: float) -> datetime:
        wall, then = self._wall
        return wall + timedelta(seconds=at - then)

    def _publish(
        self,
        kind: ServiceEventKind,
        generation: int,
        *,
        end: End | None = None,
        process: ProcessHandle | None = None,
        restart_at: datetime | None = None,
        seconds: float | None = None,
        error: str | None = None,
    ) -> None:
        if not self.events:
            return
        info = process.info if process is not None else None if end is None else end.info
        post_mortem: PostMortem | None = None if end is None else end.post_mortem
        process_id = None if info is None else info.process_id
        event = ServiceEvent(
            kind=kind,
            generation=generation,
            at=self._wall_time(trio.current_time()),
            failures=self.failures,
            process_id=process_id,
            info=info,
            post_mortem=post_mortem,
            restart_at=restart_at,
            seconds=None if seconds is None else round(seconds, 6),
            error=error,
        )
        self.events.publish(event, process_id or "-")
