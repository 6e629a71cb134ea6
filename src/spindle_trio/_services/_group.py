"""A group of services as its users hold it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import TYPE_CHECKING, Unpack

import attrs

from spindle_trio._model import SpawnArguments
from spindle_trio._model._spawn_arguments import with_options_shown
from spindle_trio._services._restart import RestartPolicy, check_policy
from spindle_trio._services._settings import check_recycling, settings_from
from spindle_trio._trio_rules import other_thread, uninterrupted

if TYPE_CHECKING:
    from spindle_trio._model._command import Command
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio._process_handle import ProcessHandle
    from spindle_trio._services._group_keeper import GroupKeeper
    from spindle_trio._services._line import Strategy
    from spindle_trio._services._service import Service


@uninterrupted
class Group:
    """Services that are started in order, kept up together, and stopped in reverse order; see `open_group`.

    `start` and `stop` called from another thread than Trio's raise `RuntimeError`.
    """

    def __init__(self, keeper: GroupKeeper) -> None:
        self._keeper = keeper
        self._thread = get_ident()

    def __repr__(self) -> str:
        return f"<Group {self.strategy} services={list(self._keeper.members)} failures={self.failures}>"

    def __getitem__(self, name: str) -> Service:
        """Look a service up by its name.

        Raises:
            KeyError: there is none, or it is over.
        """
        member = self._keeper.members[name]
        if not member.is_in_use:
            raise KeyError(name)
        return member.service

    @property
    def strategy(self) -> Strategy:
        """``"one_for_one"``, ``"one_for_all"`` or ``"rest_for_one"``."""
        return self._keeper.strategy

    @property
    def services(self) -> tuple[Service, ...]:
        """Its services in the order of their starts, but for those that are over, or have not run yet."""
        return tuple(member.service for member in self._keeper.members.values() if member.is_in_use)

    @property
    def failures(self) -> int:
        """Failures in a row, of all services together."""
        return self._keeper.failures

    @with_options_shown
    async def start(
        self,
        entry: str | os.PathLike[str] | Command,
        *,
        name: str | None = None,
        restart: RestartPolicy | None = None,
        on_start: Callable[[ProcessHandle], Awaitable[object]] | None = None,
        restart_above: ResourceLimits | None = None,
        **options: Unpack[SpawnArguments],
    ) -> Service:
        """Start one more service, after all others, and return it when it runs.

        As in ``db = await group.start("db.py", key="db")``. Several starts at once are served one after another. With
        ``"one_for_all"`` and ``"rest_for_one"`` it begins when the services before it run: if one of them fails
        meanwhile, it is begun again. What the first start raises is raised here, counts as no failure, and the group
        goes on without it. If this is cancelled, nothing is left of it: cancellation waits as in `Service.stop`.

        Args:
            entry: as for `BackendProcesses.spawn`.
            name: by which the group has it; no two may have the same. By default its key, or else its entry.
            restart: its own policy, of which `when` and `max_lifetime` count; everything else is the group's. By
                default the group's policy. With ``when="never"`` it is not started again with others, either.
            on_start: as for `open_service`. It may use the services before this one, and must not start another.
            restart_above: as for `open_service`. A restart takes along whom a failure does; services that are above at
                once are restarted one after another.
            kind: as for `spawn`.
            key: as for `open_service`.
            payload: as for `spawn`; each process gets the same.
            metadata: as for `spawn`.
            user_id: as for `spawn`.
            startup_timeout: as for `spawn`.
            heartbeat_timeout: as for `spawn`.
            replace_existing: as for `spawn`, for the first process.
            grace_period: as for `spawn`: how long a process has when it is stopped.
            replace_grace: as for `spawn`, for the first process.
            environment: as for `spawn`.
            folder: as for `spawn`.
            arguments: as for `spawn`.
            resource_limits: as for `spawn`.
            sandbox: as for `spawn`.

        Raises:
            ValueError: an option is out of range, contradicts the group's policy, or the name is taken.
            TypeError: an option has the wrong type.
            SpawnRefusedError: the start was refused; see `spawn` for the kinds.
            SpawnError: the process never became ready, or ended before `on_start` had returned.
            Exception: what `on_start` raised.
            trio.ClosedResourceError: the group or its worker is closed.
        """
        if get_ident() != self._thread:
            raise other_thread("start", "async")
        settings = settings_from("group.start", entry, on_start, options, restart_above)
        if name is not None and not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"name must be a str, not {name!r}")
        policy = self._keeper.policy
        if restart is not None:
            check_policy(restart)
            policy = _policy_in(policy, restart)
        check_recycling(settings, policy)
        named = name if name is not None else settings.key or settings.entry_name
        return (await self._keeper.start(settings, named, policy)).service

    async def stop(self, service: Service, reason: str | None = None, *, grace: float | None = None) -> None:
        """Stop one service for good, and return when it is gone: the same as `Service.stop`.

        The others go on, whatever the strategy. Does nothing if it is over.

        Args:
            service: one that `start` has returned.
            reason: as for `Service.stop`.
            grace: as for `Service.stop`.

        Raises:
            TypeError: it is no service, or `reason` no str.
            ValueError: `grace` is not a finite number of seconds, 0 or more.
        """
        stop = getattr(service, "stop", None)
        if stop is None:
            raise TypeError(f"group.stop() takes a service, not {service!r}; type: group.stop(group[…])")
        await service.stop(reason, grace=grace)


def _policy_in(group: RestartPolicy, own: RestartPolicy) -> RestartPolicy:
    """Make the policy of one service: when it is started again is its own; how failures are counted is its group's.

    Raises:
        ValueError: it asks for something that only a group can have.
    """
    default = RestartPolicy()
    for field in attrs.fields(RestartPolicy):
        value: object = getattr(own, field.name)
        if field.name not in {"when", "max_lifetime"} and value not in (
            getattr(default, field.name),
            getattr(group, field.name),
        ):
            raise ValueError(
                f"{field.name}={value!r} has no effect on one service of a group, whose failures are counted together: "
                f"give it to open_group(restart=…), and leave it out here"
            )
    return attrs.evolve(group, when=own.when, max_lifetime=own.max_lifetime)
