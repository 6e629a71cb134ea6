"""`open_pool` and what it yields."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._errors import CallFailedError, CallTimeoutError, ProcessLostError, UnknownMethodError
from spindle_trio._model import OMITTED, JsonValue, SpawnArguments
from spindle_trio._model._calls import too_late, within
from spindle_trio._model._options import DEFAULT_TIMEOUT, SpawnOptions
from spindle_trio._pools._crew import Crew
from spindle_trio._pools._pool_map import MapRun, PoolMap
from spindle_trio._pools._settings import PoolSettings
from spindle_trio._services._deadline import deadline_from, seconds_left
from spindle_trio._trio_rules import AsyncBlock, other_thread, require_trio, uninterrupted
from spindle_trio._worker import check_start_payload, check_worker

if TYPE_CHECKING:
    from spindle_trio._messages._channel import MessageReceiveChannel
    from spindle_trio._model._calls import Overrun
    from spindle_trio._model._command import Command
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio._model._sandbox import Sandbox
    from spindle_trio._pools._lending import Lending
    from spindle_trio._pools._member import Member
    from spindle_trio._pools._statistics import PoolStatistics
    from spindle_trio._worker import Worker

_SHORTEST_WAIT: Final = 0.01
"""Seconds; a shorter wait for a process is not worth a word in an error."""

_AHEAD = 4
"""For each process of a pool: how many calls of a map may be begun, or be ended and not taken yet."""


def open_pool(
    worker: Worker,
    entry: str | os.PathLike[str] | Command,
    *,
    size: int = 4,
    prestart: bool = False,
    max_calls: float = math.inf,
    max_idle: float = math.inf,
    max_lifetime: float = math.inf,
    give_up_after: int | None = 8,
    payload: object = OMITTED,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    sandbox: Sandbox | None = None,
    folder: str | os.PathLike[str] | None = None,
    user_id: str | None = None,
    startup_timeout: float = DEFAULT_TIMEOUT,
    heartbeat_timeout: float = DEFAULT_TIMEOUT,
    grace_period: float | None = None,
    resource_limits: ResourceLimits | None = None,
    restart_above: ResourceLimits | None = None,
) -> AbstractAsyncContextManager[Pool]:
    """Open a pool of processes of one entry, for as long as a block lasts.

    As in ``async with spindle.open_pool(worker, "tools.py") as pool: answer = await pool.call("square", {"n": 3})``.

    A process is started when a call needs one, until there are `size`. Each serves one call at a time; a call gets
    the idle process that was used last. Where none is idle, the call waits, first come, first served: that holds up
    its caller, and nothing else is queued. A process that ends unasked is replaced at once; where that happens again
    before any process has answered, starts wait 1, 2, 4 … seconds, at most 30, less up to a fifth by chance. After
    `give_up_after` such failures in a row the pool is broken. An overrun, a stop by somebody else, and an end that
    comes 30 seconds or more after `ready` do not add to them.

    When the block is left, in whatever way, calls that wait get `trio.ClosedResourceError`, and all processes are
    asked to stop. A call that a task outside the block has under way may end within the grace period. Leaving takes
    no longer than to stop one process; cancellation has to wait for that, and a second Ctrl-C skips the grace period.
    An error of the block leaves it bare.

    Args:
        worker: starts the processes, in this program or at the far end of a stream. They count towards its
            host's `max_processes`.
        entry: as for `BackendProcesses.spawn`: a Python or JavaScript file whose process answers calls, or a
            `Command` with a lane for JSON-RPC.
        size: how many processes there may be, those included that are being stopped.
        prestart: whether all are started as the block is entered. Nothing waits for them.
        max_calls: a process that has had so many calls is stopped and replaced.
        max_idle: seconds without a call after which a process is stopped, and not replaced until a call needs one.
        max_lifetime: seconds since `ready` after which a process is stopped and replaced, once it has no call.
        give_up_after: how many failures in a row break the pool; `None` for any number.
        payload: as for `spawn`; each process gets the same.
        environment: as for `spawn`.
        arguments: as for `spawn`.
        sandbox: as for `spawn`.
        folder: as for `spawn`.
        user_id: as for `spawn`.
        startup_timeout: as for `spawn`.
        heartbeat_timeout: as for `spawn`. While a blocking handler runs nothing beats for it.
        grace_period: as for `spawn`; a process that is recycled, or stopped with the pool, has so long.
        resource_limits: as for `spawn`, for each process.
        restart_above: what a process may use: `memory`, `pids` and `cpu_seconds` count. One that uses more is stopped
            and replaced, once it has no call. It is looked at twice a second; see `ProcessHandle.usage`.

    Raises:
        ValueError: an argument is out of range, or contradicts another.
        TypeError: an argument has the wrong type.
        PayloadError: the payload is not JSON-safe.
        trio.ClosedResourceError: the worker is closed; raised on entering.
    """
    spawn = SpawnArguments(
        payload=payload,
        environment=environment,
        arguments=arguments,
        sandbox=sandbox,
        folder=None if folder is None else os.fspath(folder),
        user_id=user_id,
        startup_timeout=startup_timeout,
        heartbeat_timeout=heartbeat_timeout,
        grace_period=grace_period,
        resource_limits=resource_limits,
    )
    if restart_above is not None:
        from spindle_trio._services._excess import check_restart_above  # most pools have none

        check_restart_above(restart_above, resource_limits)
    settings = PoolSettings(
        entry=SpawnOptions(entry, **spawn).entry,  # checked here, since no caller sees the spawns
        spawn=spawn,
        size=size,
        prestart=prestart,
        max_calls=max_calls,
        max_idle=max_idle,
        max_lifetime=max_lifetime,
        give_up_after=give_up_after,
        restart_above=restart_above,
    )
    check_start_payload(payload)
    check_worker("open_pool", worker)
    return PoolBlock(worker, settings)


@uninterrupted
class Pool:
    """Processes of one entry that answer calls; see `open_pool`."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._thread = get_ident()

    def __repr__(self) -> str:
        now = self.statistics()
        return (
            f"<Pool {self._crew.state} {self._crew.settings.entry_name} size={now.size} starting={now.starting} "
            f"idle={now.idle} busy={now.busy} waiting={now.waiting}>"
        )

    async def call(
        self, method: str, payload: object = None, *, timeout: float = math.inf, overrun: Overrun = "kill"
    ) -> JsonValue:
        """Call a handler in one of the processes, and return its answer; see `ProcessHandle.call`.

        It waits for an idle process first, in order. A call is never repeated: if its process is lost, that is raised.
        Only a call that has certainly not left this program waits on, before all others.

        If it is cancelled while it waits, nothing was called; after that the handler is cancelled, and this returns at
        once. Its process gets no other call before the handler has given up or has been killed.

        Args:
            method: the name that the entry has given to the handler.
            payload: a JSON-safe value. It is read when a process has been found: leave it as it is until then.
            timeout: seconds until the call is cancelled; the wait for a process counts.
            overrun: what becomes of a process whose handler goes on after its call was cancelled: after
                `open_host(cancel_grace=)` it is ended (``"kill"``), or the pool does without it until the handler
                has given up (``"leave"``).

        Raises:
            CallTimeoutError: no answer within `timeout`. Its text says so if the call waited for a process only.
            CallFailedError: the handler raised, or returned what is not JSON-safe.
            UnknownMethodError: there is no handler of that name.
            ProcessLostError: the process ended before it answered.
            PoolBrokenError: the processes kept ending, and the pool has given up.
            PayloadError: the payload is not JSON-safe, or over a limit, or the name is over its limit.
            TypeError: `method` is no plain str.
            ValueError: `timeout` or `overrun` is out of range.
            trio.ClosedResourceError: the pool or its worker is closed, or closed while the call waited.
            RuntimeError: it was called from another thread than Trio's.
        """
        if get_ident() != self._thread:
            raise other_thread("call", "async")
        deadline = deadline_from(timeout)
        asked, at_head = trio.current_time(), False
        while True:
            member = await self._crew.lending.lease(method, deadline, at_head=at_head)
            began = trio.current_time()
            try:
                answer = await member.handle.call(method, payload, timeout=seconds_left(deadline), overrun=overrun)
            except ProcessLostError as error:
                self._crew.lending.lost(member)
                if error.handed_over:
                    raise
                at_head = True
            except (CallFailedError, UnknownMethodError):
                self._crew.lending.answered(member)
                raise
            except CallTimeoutError as error:
                self._crew.lending.unanswered(member)
                raise _with_wait(error, timeout, began - asked) from None
            except BaseException:
                self._crew.lending.unanswered(member)
                raise
            else:
                self._crew.lending.answered(member)
                return answer

    def stream(
        self,
        method: str,
        payload: object = None,
        *,
        timeout: float = math.inf,
        window: int = 16,
        overrun: Overrun = "kill",
    ) -> AbstractAsyncContextManager[MessageReceiveChannel[JsonValue]]:
        """Open a stream from a generator in one of the processes; see `ProcessHandle.stream`.

        As in ``async with pool.stream("index") as items: async for item in items: …``. Entering waits for a process, as
        `call` does and with the same errors. The stream has the process until the block is left and the generator has
        given up.

        Args:
            method: the name that the entry has given to the generator.
            payload: as for `call`.
            timeout: seconds for the whole stream; the wait for a process counts.
            window: how many items may be under way.
            overrun: as for `call`.

        Raises:
            RuntimeError: it was called from another thread than Trio's.
        """
        if get_ident() != self._thread:
            raise other_thread("stream", "reader")
        return _StreamBlock(self._crew.lending, method, payload, timeout, window, overrun)

    def map(
        self,
        method: str,
        payloads: Iterable[object] | AsyncIterable[object],
        *,
        ordered: bool = True,
        timeout: float = math.inf,
        overrun: Overrun = "kill",
    ) -> PoolMap:
        """Call a handler with each payload, in all processes at once, and iterate over the answers.

        As in ``async for answer in pool.map("square", payloads): …``. Payloads are taken as answers are: at most four
        for each process are under way, or answered and not taken yet.

        The first error of a call, or of `payloads`, is raised in its place: answers before it come first. It ends the
        map: no further payload is taken, and calls under way are cancelled. So do a cancellation of the iteration, the
        end of the pool, and `aclose`. Who leaves the loop early closes it: ``async with pool.map(…) as answers:`` does.

        Args:
            method: as for `call`.
            payloads: any iterable, also an endless or asynchronous one. It is iterated in a task of the pool.
            ordered: whether answers come in the order of their payloads, or as they are there.
            timeout: seconds for each call, from when its payload was taken.
            overrun: as for `call`.

        Raises:
            RuntimeError: it was called from another thread than Trio's.
        """
        if get_ident() != self._thread:
            raise other_thread("map", "reader")

        async def call(payload: object) -> JsonValue:
            return await self.call(method, payload, timeout=timeout, overrun=overrun)

        deadline_from(timeout)
        size = self._crew.settings.size
        return PoolMap(MapRun(call, payloads, ordered=ordered, at_once=size, room=_AHEAD * size), self._crew.begin_map)

    def statistics(self) -> PoolStatistics:
        """Count what the pool holds, and what it has done so far. Works on a closed pool, too."""
        return self._crew.statistics()


def _with_wait(error: CallTimeoutError, timeout: float, waited: float) -> CallTimeoutError:
    """Say in an error how long the call had, where it had waited for its process first."""
    method, process_id, entry = error.method, error.process_id, error.entry
    if waited < _SHORTEST_WAIT or method is None or process_id is None or entry is None:
        return error
    how_long = f"{within(timeout)} ({waited:.2g} s of it waiting for a process)"
    text = too_late(method, process_id, entry, how_long)
    return CallTimeoutError(text).concerning(method, entry=entry, process_id=process_id)


@uninterrupted
class _StreamBlock(AsyncBlock["MessageReceiveChannel[JsonValue]"]):
    """A stream, and the process that it has meanwhile."""

    typed = "pool.stream"

    def __init__(
        self, lending: Lending, method: str, payload: object, timeout: float, window: int, overrun: Overrun
    ) -> None:
        deadline_from(timeout)
        self._lending = lending
        self._method = method
        self._payload = payload
        self._timeout = timeout
        self._window = window
        self._overrun = overrun

    async def __aenter__(self) -> MessageReceiveChannel[JsonValue]:
        deadline = deadline_from(self._timeout)
        at_head = False
        while True:
            self._member: Member = await self._lending.lease(self._method, deadline, at_head=at_head)
            try:
                self._block = self._member.handle.stream(
                    self._method,
                    self._payload,
                    timeout=seconds_left(deadline),
                    window=self._window,
                    overrun=self._overrun,
                )
                return await self._block.__aenter__()
            except ProcessLostError as error:
                self._lending.lost(self._member)
                if error.handed_over:
                    raise
                at_head = True
            except BaseException:
                self._lending.unanswered(self._member)
                raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._block.__aexit__(kind, error, traceback)  # noqa: ASYNC102  # bounded there: it waits for nothing of the process
        finally:
            if isinstance(error, ProcessLostError):
                self._lending.lost(self._member)
            else:
                self._lending.unanswered(self._member)


@uninterrupted
class PoolBlock(AsyncBlock[Pool]):
    """The life of a pool."""

    typed = "open_pool"

    def __init__(self, worker: Worker, settings: PoolSettings) -> None:
        self._worker = worker
        self._settings = settings

    async def __aenter__(self) -> Pool:
        require_trio()
        self._crew = Crew(self._worker, self._settings)
        await self._crew.open()
        return Pool(self._crew)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._crew.close(error)  # noqa: ASYNC102  # shielded and bounded there
