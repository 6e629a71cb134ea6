"""`open_service` and what it yields."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

import trio

from spindle_trio._model import JsonValue, SpawnArguments, StopOptions
from spindle_trio._model._spawn_arguments import options_from, with_options_shown
from spindle_trio._services._deadline import deadline_from, seconds_left
from spindle_trio._services._keeper import Keeper
from spindle_trio._services._restart import RestartPolicy
from spindle_trio._services._unit import UnitSettings
from spindle_trio._trio_rules import AsyncBlock, require_trio, uninterrupted

if TYPE_CHECKING:
    from spindle_trio._messages._broadcast import LifecycleChannel
    from spindle_trio._messages._channel import MessageReceiveChannel
    from spindle_trio._model import Overrun
    from spindle_trio._process_handle import ProcessHandle
    from spindle_trio._services._status import State
    from spindle_trio._services._values import ServiceEvent, ServiceMessage
    from spindle_trio._worker import Worker

_DEFAULT_POLICY = RestartPolicy()


@with_options_shown
def open_service(
    worker: Worker,
    entry: str | os.PathLike[str],
    *,
    restart: RestartPolicy = _DEFAULT_POLICY,
    on_start: Callable[[ProcessHandle], Awaitable[object]] | None = None,
    **options: Unpack[SpawnArguments],
) -> AbstractAsyncContextManager[Service]:
    """Keep a process up, for as long as a block lasts.

    As in ``async with spindle.open_service(worker, "db.py", key="db") as service: await service.call("query", …)``.
    """
    settings = UnitSettings(
        entry=options_from("open_service", entry, options).entry,  # checked here, since no caller sees later spawns
        spawn=options,
        key=(options.get("key") or "").strip() or None,
        on_start=on_start,
    )
    if not hasattr(worker, "backend_processes"):
        raise TypeError(
            f"open_service() takes a worker, not {worker!r}; type: async with host.open_worker(…) as worker: … "
            "open_service(worker, …)"
        )
    return _ServiceBlock(worker, settings, restart)


@uninterrupted
class Service:
    """A process that is started again as it ends; see `open_service`."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._status = keeper.status

    def __repr__(self) -> str:
        process = "" if self.process is None else f" {self.process.process_id}"
        return (
            f"<Service {self.state} {self._status.name.removeprefix('the service ')} generation={self.generation}"
            f"{process} failures={self.failures}>"
        )

    @property
    def process(self) -> ProcessHandle | None:
        """The process that can be used now; `None` between two."""
        return self._status.process

    @property
    def generation(self) -> int:
        """How many processes have been started, that included which is being started."""
        return self._status.unit.generation

    @property
    def state(self) -> State:
        """``"starting"``, ``"running"``, ``"waiting"`` for the next start, ``"stopped"`` or ``"gave_up"``."""
        return self._status.state

    @property
    def restart_at(self) -> float | None:
        """When the next start begins, in Trio's time; `None` unless it waits for that."""
        return self._status.restart_at

    @property
    def failures(self) -> int:
        """Failures in a row, as the restart policy counts them."""
        return self._status.failures

    async def wait_running(self) -> ProcessHandle:
        """Wait for a process that can be used, and return it."""
        return await self._status.wait_running()

    async def call(
        self, method: str, payload: object = None, *, timeout: float = math.inf, overrun: Overrun = "leave"
    ) -> JsonValue:
        """Call a handler in the process, as soon as it runs, and return its answer; see `ProcessHandle.call`."""
        deadline = deadline_from(timeout)
        process = await self._status.wait_until(deadline, f"the call of {method!r}")
        return await process.call(method, payload, timeout=seconds_left(deadline), overrun=overrun)

    async def send(self, payload: object) -> None:
        """Send a message to the process, as soon as it runs; see `ProcessHandle.send`."""
        await (await self._status.wait_running()).send(payload)

    async def restart(self, reason: str | None = None) -> None:
        """Put a new process in the place of the current one, gracefully, and return when it runs."""
        await self._keeper.restart(StopOptions(reason=reason).reason)

    async def stop(self, reason: str | None = None, *, grace: float | None = None) -> None:
        """Stop it for good, and return when it is gone."""
        options = StopOptions(reason=reason, grace=grace)
        self._keeper.ask_stop(options.reason, options.grace, reason or "stop() was called")
        await self._keeper.gone.wait()

    def events(self) -> LifecycleChannel[ServiceEvent]:
        """Open a channel of what happens to it, from now on."""
        return self._status.events.subscribe()

    def on_event(self, handler: Callable[[ServiceEvent], object]) -> Callable[[], None]:
        """Call a plain function with each event, before any channel hears of it."""
        return self._status.events.add_handler(handler)

    def messages(self) -> MessageReceiveChannel[ServiceMessage]:
        """Open a channel of the messages of its processes, one generation after another."""
        return self._status.messages.subscribe()


@uninterrupted
class _ServiceBlock(AsyncBlock[Service]):
    """The life of a service."""

    typed = "open_service"

    def __init__(self, worker: Worker, settings: UnitSettings, policy: RestartPolicy) -> None:
        self._worker = worker
        self._settings = settings
        self._policy = policy

    async def __aenter__(self) -> Service:
        require_trio()
        keeper = self._keeper = Keeper(self._worker, self._settings, self._policy)
        await keeper.open()
        try:
            await keeper.begun.wait()
        except BaseException as error:
            await keeper.close(error)  # noqa: ASYNC102  # shielded and bounded there
            raise
        if keeper.gone.is_set() and keeper.error is not None:
            await keeper.close(None)
            raise keeper.error
        keeper.block.__enter__()
        return Service(keeper)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        left_with = error
        try:
            if self._keeper.block.__exit__(kind, error, traceback):
                left_with = None
        except BaseException as others:  # noqa: ASYNC103  # raised below; a group has lost the block's cancellation
            left_with = others
        await self._keeper.close(left_with)  # noqa: ASYNC102  # shielded and bounded there
        if self._keeper.error is not None and (left_with is None or _is_cancelled(left_with)):
            raise self._keeper.error from self._keeper.error.__cause__
        if left_with is not None and left_with is not error:
            raise left_with


def _is_cancelled(error: BaseException) -> bool:
    """Whether nothing is in it but cancellation."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)
