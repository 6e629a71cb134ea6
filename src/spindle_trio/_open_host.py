"""The front door: `open_host` and its `Host`.

It stands above the worker protocol, since a host hands out workers and serves those at the far end of a channel.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import trio

from spindle_trio._environment import passed_on_environment
from spindle_trio._host._host_scope import HostScope
from spindle_trio._host._settings import (
    HostSettings,
    check_bounds,
    check_environment,
    check_kinds,
    check_require_limits,
    checked_allow,
    checked_commands,
    wall_time_from,
)
from spindle_trio._host._worker_scope import WorkerScope
from spindle_trio._model import Containment, EndedProcess, HostStatistics, Limits, check_resource_limits
from spindle_trio._trio_rules import AsyncBlock, other_thread, refuse_stream, require_trio, uninterrupted
from spindle_trio._worker import Worker
from spindle_trio._worker_protocol import WireMessage, serve_worker
from spindle_trio.abc import Launcher
from spindle_trio.launchers import DefaultLauncher

if TYPE_CHECKING:
    from spindle_trio._model._command import Command
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio._model._sandbox import Sandbox, SandboxPart


def _uuid_hex() -> str:
    """Make an id that no other process has."""
    return uuid.uuid4().hex


def _utc_now() -> datetime:
    """Read the wall clock, as an aware `datetime` in UTC."""
    return datetime.now(UTC)


def open_host(
    launcher: Launcher | None = None,
    *,
    grace_period: float = 5.0,
    max_processes: int = 16,
    limits: Limits = Limits(),  # noqa: B008  # a frozen value
    environment: Mapping[str, str] | None = None,
    new_process_id: Callable[[], str] | None = None,
    wall_clock: Callable[[], datetime] | None = None,
    require_containment: Containment | str | None = None,
    replace_grace: float | None = None,
    allow: Iterable[str] = (),
    cancel_grace: float = 1.0,
    resource_limits: ResourceLimits | None = None,
    require_limits: Literal["cgroup"] | None = None,
    sandbox: Sandbox | None = None,
    require_sandbox: Collection[SandboxPart | str] | bool = False,
    commands: Collection[str] | Callable[[Command], bool] | None = None,
) -> AbstractAsyncContextManager[Host]:
    """Open a host for as long as a block lasts.

    It owns every process, deadline and kill. When the block is left, by return, error or cancellation, every process is
    asked to stop, and killed after the grace period: the block takes at most `grace_period` plus 2 seconds to leave,
    however many processes there are, and cancellation has to wait for that. A second Ctrl-C while the main task is
    leaving skips the grace period. An error raised in the block leaves bare, not in an exception group.

    Args:
        launcher: starts the processes; by default a `DefaultLauncher`, which forks Python entries off a warm
            server, and runs JavaScript ones in Node or Bun.
        grace_period: seconds between asking a process to stop and killing it; a spawn may set another one for
            its process. A worker or host that closes gives no process more than this.
        max_processes: live processes that each worker may have; a key that is kept for a next one counts as one.
        limits: bounds on messages, frames and queues.
        environment: the environment of the processes; by default a short allow-list from this program's;
            `os.environ` for all of it.
        new_process_id: makes an id for each process, unique within the host; by default a UUID in hexadecimal digits.
        wall_clock: read once, when the host opens; times in events are that plus monotonic differences. By default
            the system's clock, in UTC.
        require_containment: the weakest level of containment to accept: a level, or its name, as in ``"pidns"``;
            `None` for the strongest that works here. ``host.statistics().containment`` tells which.
        replace_grace: seconds that a replaced process has to end; 0 kills it at once; `None` for its own grace
            period. A spawn may set another.
        allow: which options of `spawn` a worker at the far end of a channel may use: any of ``"environment"``,
            ``"folder"`` and ``"arguments"``; by default none. Workers in this program may use all of them.
        cancel_grace: seconds that a handler has to end after its call was cancelled or its time was over, if the call
            was made with ``overrun="kill"``; after that its process is killed.
        resource_limits: what each process may use, with all that it starts: the default, and the most that a spawn can
            ask for.
        require_limits: ``"cgroup"`` to accept only control groups as the means for limits on memory, pids and cpus;
            `None` for the strongest that works here. ``host.statistics().limit_means`` tells which.
        sandbox: what each process may reach whose spawn names no sandbox, such as `READ_ONLY`; `None` for everything. A
            worker at the far end of a channel may only ask for less. The host does not open where a part is missing.
        require_sandbox: parts of sandboxes without which the host does not open, as in ``["files", "network"]``; `True`
            for all that sandboxes need. A spawn whose sandbox needs a missing part is refused in any case.
        commands: which commands (`Command`) its workers may run. `None`: workers in this program any, those at the far
            end of a channel none. A collection: for all workers, those whose program is in it, by a name that is looked
            up on the `PATH`, or by an absolute path, as in ``{"git", "/opt/my/server"}``. A plain function: for all
            workers, those for which it returns `True`. With many a program, whoever chooses its arguments may do what
            they like.

    Raises:
        ValueError: a grace period or `max_processes` is out of range, `require_containment` is not a level,
            `require_limits` no means, `require_sandbox` names no part, or `commands` has a relative path in it.
        RuntimeError: raised on entering: the launcher cannot work here, or does not reach `require_containment` or
            `require_limits`, or cannot hold one of `resource_limits`, or a part of a sandbox is missing, or the program
            does not run under Trio.
        TypeError: `launcher`, `limits`, `resource_limits`, `sandbox`, `require_sandbox` or `commands` has the wrong
            type, or `environment` does not map str to str.
    """
    check_kinds(launcher, limits)
    check_bounds(grace_period, replace_grace, max_processes, cancel_grace)
    check_environment(environment)
    check_resource_limits("resource_limits", resource_limits)
    check_require_limits(require_limits)
    parts: frozenset[SandboxPart] = frozenset()
    if sandbox is not None or require_sandbox is not False:
        from spindle_trio._host._sandboxes import check_host_sandbox  # most hosts have none

        parts = check_host_sandbox(sandbox, require_sandbox)
    settings = partial(
        HostSettings,
        grace_period=grace_period,
        max_processes=max_processes,
        limits=limits,
        new_process_id=_uuid_hex if new_process_id is None else new_process_id,
        require_containment=None if require_containment is None else Containment(require_containment),
        replace_grace=replace_grace,
        allow=checked_allow(allow),
        cancel_grace=cancel_grace,
        resource_limits=resource_limits,
        require_limits=require_limits,
        sandbox=sandbox,
        require_sandbox=parts,
        commands=checked_commands(commands),
    )
    return _HostBlock(launcher, environment, _utc_now if wall_clock is None else wall_clock, settings)


@uninterrupted
class Host:
    """Owns processes for the workers that it opens or serves."""

    def __init__(self, scope: HostScope) -> None:
        self._scope = scope
        self._thread = get_ident()

    def __repr__(self) -> str:
        statistics = self.statistics()
        state = "closed" if self._scope.is_closed else "open"
        return f"<Host {state} {statistics.launcher} workers={statistics.workers} processes={statistics.processes}>"

    def open_worker(
        self, identifier: str, *, root: str | os.PathLike[str] | None = None, user_id: str | None = None
    ) -> AbstractAsyncContextManager[Worker]:
        """Open a worker in this program, for as long as a block lasts.

        As in ``async with host.open_worker("indexer", user_id="ada") as worker: …``.

        When the block is left, in whatever way, the worker's processes are ended as `backend_unloaded`, as
        `open_host` describes.

        Args:
            identifier: the worker's name, for log records.
            root: the folder below which its entries lie, and where they run; by default this program's current one.
            user_id: the user to whom all its processes belong; without one the worker is operator-scoped, and each
                spawn has to name a user.

        Raises:
            ValueError: `user_id` is blank.
            trio.ClosedResourceError: the host is closed; raised on entering.
        """
        return _WorkerBlock(_WorkerContext(self._scope, identifier, root, _checked_user(user_id)))

    async def serve_worker(
        self,
        channel: trio.abc.Channel[WireMessage],
        identifier: str,
        *,
        root: str | os.PathLike[str] | None = None,
        user_id: str | None = None,
    ) -> None:
        """Serve a worker at the far end of a channel, until the channel ends.

        When this returns, the worker's processes have been ended as `backend_unloaded` and the channel is closed. A
        lost connection counts as an unload. If it is cancelled, the same happens first.

        Args:
            channel: carries the messages of the worker protocol: a `StreamChannel`, or any Trio channel of the
                attrs values or of JSON objects.
            identifier: the worker's name, for log records.
            root: as for `open_worker`.
            user_id: as for `open_worker`.

        Raises:
            ValueError: `user_id` is blank.
            TypeError: `channel` is a bare stream.
            trio.ClosedResourceError: the host is closed.
        """
        refuse_stream(channel, "host.serve_worker(StreamChannel(stream), …)")
        opening = _WorkerContext(self._scope, identifier, root, _checked_user(user_id), distant=True)
        settings = self._scope.settings
        await serve_worker(opening, channel, limits=settings.limits, allow=settings.allow)

    def kill(self) -> None:
        """End every process at once, without a grace period, as `backend_unloaded`. Never blocks.

        Each end is announced as usual, once the process has been reaped. The host stays open.

        Raises:
            RuntimeError: it was called from another thread than Trio's.
        """
        if get_ident() != self._thread:
            raise other_thread("kill")
        self._scope.kill()

    def recent(self) -> list[EndedProcess]:
        """Describe the processes that have ended last, of all workers, oldest end first.

        At most `Limits.recent` are kept, and fewer where their metadata take more than 16 MiB; the oldest goes first.
        An ended process is listed before its terminal event. Results are not kept. Works on a closed host, too.
        """
        return self._scope.recent()

    def statistics(self) -> HostStatistics:
        """Count what the host holds."""
        return self._scope.statistics()


@uninterrupted
class _HostBlock(AsyncBlock[Host]):
    """The life of a host. What depends on when it opens is found out on entering."""

    typed = "open_host"

    def __init__(
        self,
        launcher: Launcher | None,
        environment: Mapping[str, str] | None,
        wall_clock: Callable[[], datetime],
        settings: partial[HostSettings],
    ) -> None:
        self._launcher = launcher
        self._environment = environment
        self._wall_clock = wall_clock
        self._settings = settings

    async def __aenter__(self) -> Host:
        require_trio()
        settings = self._settings(
            launcher=DefaultLauncher() if self._launcher is None else self._launcher,
            environment=passed_on_environment() if self._environment is None else dict(self._environment),
            wall_time=wall_time_from(self._wall_clock()),
        )
        self._scope = HostScope(settings)
        await self._scope.open()
        return Host(self._scope)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._scope.close(error)  # noqa: ASYNC102  # shielded and bounded there


@uninterrupted
class _WorkerContext(AbstractAsyncContextManager[WorkerScope]):
    """The life of a worker in the host."""

    def __init__(
        self,
        host: HostScope,
        identifier: str,
        root: str | os.PathLike[str] | None,
        user_id: str | None,
        *,
        distant: bool = False,
    ) -> None:
        self._host = host
        self._identifier = identifier
        self._root = root
        self._user_id = user_id
        self._distant = distant

    async def __aenter__(self) -> WorkerScope:
        root = Path(self._root or ".")
        if not root.is_absolute():  # only then: the current folder may have been deleted
            root = Path.cwd() / root
        self._port = self._host.add_worker(self._identifier, root, self._user_id, distant=self._distant)
        await self._port.open()
        return self._port

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._port.close(error, kill=self._host.kill)  # noqa: ASYNC102  # shielded and bounded there
        finally:
            self._host.remove_worker(self._port)


@uninterrupted
class _WorkerBlock(AsyncBlock[Worker]):
    """The same, with the worker that people hold."""

    typed = "host.open_worker"

    def __init__(self, port_block: _WorkerContext) -> None:
        self._port_block = port_block

    async def __aenter__(self) -> Worker:
        return Worker(await self._port_block.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._port_block.__aexit__(kind, error, traceback)  # noqa: ASYNC102  # shielded and bounded there


def _checked_user(user_id: object) -> str | None:
    if user_id is None:
        return None
    if not isinstance(user_id, str) or not user_id.strip():
        raise ValueError(f"user_id must be a non-blank str, or None for an operator-scoped worker, not {user_id!r}")
    if any("\ud800" <= character <= "\udfff" for character in user_id):
        raise ValueError(f"user_id contains a lone surrogate, which no frame can carry: {user_id!r}")
    return user_id.strip()
