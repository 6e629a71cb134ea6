"""`open_service`: the block that is the life of a service."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from spindle_trio._model import SpawnArguments
from spindle_trio._model._spawn_arguments import with_service_options_shown
from spindle_trio._services._keeper import Keeper
from spindle_trio._services._restart import RestartPolicy, check_policy
from spindle_trio._services._service import Service
from spindle_trio._services._settings import UnitSettings, check_recycling, settings_from
from spindle_trio._trio_rules import AsyncBlock, require_trio, uninterrupted
from spindle_trio._worker import check_worker

if TYPE_CHECKING:
    from spindle_trio._model._command import Command
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio._process_handle import ProcessHandle
    from spindle_trio._worker import Worker

_DEFAULT_POLICY = RestartPolicy()


@with_service_options_shown
def open_service(
    worker: Worker,
    entry: str | os.PathLike[str] | Command,
    *,
    restart: RestartPolicy = _DEFAULT_POLICY,
    on_start: Callable[[ProcessHandle], Awaitable[object]] | None = None,
    restart_above: ResourceLimits | None = None,
    **options: Unpack[SpawnArguments],
) -> AbstractAsyncContextManager[Service]:
    """Keep a process up for as long as a block lasts: one that ends is followed by another, as a policy says.

    As in ``async with spindle.open_service(worker, "db.py", key="db") as service: await service.call("query", …)``.

    Entering starts the first process, and raises what `spawn` raises. From then on ends are events. After a failure
    the next process is started, after a delay that grows; a process that has been ready for a while begins a new row.
    A stop is followed by no start: `Service.stop`, a stop of its process by anybody, a replacement of its key. Then the
    block goes on, and who waits for the service gets `trio.ClosedResourceError`. A key is held between two processes.

    After as many failures in a row as the policy allows the service gives up: the block is cancelled, and
    `ServiceGaveUpError` leaves it, with the last post-mortem. If the worker has gone, `trio.BrokenResourceError` or
    `trio.ClosedResourceError` does the same. An error that the block raises itself leaves it bare.

    When the block is left, in whatever way, the process is asked to stop, and killed after its grace period. One that
    is still starting is killed at once, as it is when the opening is cancelled; at the far end of a stream only with a
    key: without, leaving does not wait for it, and the host stops it once it is ready.
    Cancellation has to wait for that, and a second Ctrl-C skips the grace period. A cancelled block can use the service
    until it is left.

    Args:
        worker: starts the processes, in this program or at the far end of a stream.
        entry: as for `BackendProcesses.spawn`: a Python or JavaScript file, or a `Command`.
        restart: when the next process is started, and when the service gives up.
        on_start: an async function that is called with each process when it is ready, before anybody else gets it:
            a handshake, a migration. If it raises, that is the end of this process, and counts as a failure; of the
            first one it is raised here. It is cancelled if the process ends, and has no other bound. It uses the handle
            that it is given: the service's own `call`, `send` and `restart` wait for `on_start` itself.
        restart_above: what a process may use, as in ``ResourceLimits(memory=2**30)``: `memory`, `pids` and
            `cpu_seconds` count. One that uses more is stopped gracefully, and the next one started at once. If it had
            not been ready for `RestartPolicy.stable_after` seconds, that counts as a failure. It is looked at twice a
            second, as by `ProcessHandle.usage`. What kills it is in `resource_limits`.
        kind: as for `spawn`.
        key: as for `spawn`. It is kept between two processes: nobody but a spawn with `replace_existing` can take it,
            and that one replaces the service. With a key, also a stop of the process by somebody else counts that comes
            in the moment of its end, or after it.
        payload: as for `spawn`; each process gets the same: leave it as it is meanwhile.
        metadata: as for `spawn`.
        user_id: as for `spawn`.
        startup_timeout: as for `spawn`.
        heartbeat_timeout: as for `spawn`.
        replace_existing: as for `spawn`, for the first process.
        grace_period: as for `spawn`: how long a process has when it is stopped or recycled.
        replace_grace: as for `spawn`, for the first process.
        environment: as for `spawn`.
        folder: as for `spawn`.
        arguments: as for `spawn`.
        resource_limits: as for `spawn`.
        sandbox: as for `spawn`.

    Raises:
        ValueError: an option is out of range, or contradicts another.
        TypeError: an option has the wrong type.
        SpawnRefusedError: raised on entering: the first start was refused; see `spawn` for the kinds.
        SpawnError: raised on entering: the first process never became ready, or ended before `on_start` had returned.
        ServiceGaveUpError: leaves the block.
        trio.ClosedResourceError: the worker is closed; raised on entering, or leaves the block.
        trio.BrokenResourceError: the connection to the host is lost; raised on entering, or leaves the block.
    """
    check_policy(restart)
    settings = settings_from("open_service", entry, on_start, options, restart_above)
    check_recycling(settings, restart)
    check_worker("open_service", worker)
    return _ServiceBlock(worker, settings, restart)


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
        self._keeper = Keeper(self._worker, self._settings, self._policy)
        await self._keeper.open()
        return Service(self._keeper.status, self._keeper)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._keeper.leave(error)  # noqa: ASYNC102  # shielded and bounded there
