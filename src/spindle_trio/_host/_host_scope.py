"""The workers of one host, and the order of shutdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from spindle_trio._host._recent_ends import RecentEnds
from spindle_trio._host._settings import HostSettings
from spindle_trio._host._worker_scope import WorkerScope
from spindle_trio._model import Containment, EndedProcess, HostStatistics
from spindle_trio._nursery_scope import NurseryScope
from spindle_trio.abc import Launcher

HELD_BY_THE_HOST: Final[Mapping[str, str]] = {"run_seconds": "deadline"}
"""The limits that need no launcher, and their means."""


class HostScope:
    """The state that the workers of a host share, and the order of shutdown."""

    def __init__(self, settings: HostSettings) -> None:
        """Prepare a host with no workers.

        Args:
            settings: the host's settings.
        """
        self.settings = settings
        self.is_closed: bool = False
        self._workers: dict[WorkerScope, None] = {}
        self._recent = RecentEnds(settings.limits.recent)
        self._scope = NurseryScope()

    async def open(self) -> None:
        """Make the launcher ready and open the nursery.

        Raises:
            RuntimeError: the launcher's level of containment is weaker than this host requires, or the launcher cannot
                hold its limits, or only by weaker means, or a part of a sandbox is missing.
        """
        launcher = self.settings.launcher
        await launcher.start()
        refusal = _refusal(self.settings)
        if refusal is not None:
            await launcher.aclose()
            raise RuntimeError(refusal)
        await self._scope.open()

    async def close(self, error: BaseException | None) -> None:
        """End every worker's processes, and return when none is left; see `NurseryScope.close`."""
        self.is_closed = True
        for worker in list(self._workers):
            worker.unload()
        try:
            await self._scope.close(error, ended=self._wait_empty, kill=self.kill)
        finally:
            await self.settings.launcher.aclose()  # noqa: ASYNC102  # shields itself; no scope may be between it and `start`

    async def _wait_empty(self) -> None:
        for worker in list(self._workers):
            await worker.wait_empty()

    def add_worker(self, identifier: str, root: Path, user_id: str | None, *, distant: bool = False) -> WorkerScope:
        """Make a worker; the caller opens and closes it.

        Raises:
            trio.ClosedResourceError: the host is closed.
        """
        if self.is_closed:
            raise trio.ClosedResourceError("the host is closed")
        worker = WorkerScope(self.settings, identifier, root, user_id, self._recent, distant=distant)
        self._workers[worker] = None
        return worker

    def remove_worker(self, worker: WorkerScope) -> None:
        """Forget a worker that has been closed."""
        self._workers.pop(worker, None)

    def kill(self) -> None:
        """End every process as unloaded, without a grace period."""
        for worker in list(self._workers):
            worker.kill()

    def recent(self) -> list[EndedProcess]:
        """Describe the processes that ended most recently."""
        return self._recent.show()

    def statistics(self) -> HostStatistics:
        """Count what the host holds."""
        processes = [process for worker in self._workers for process in worker]
        return HostStatistics(
            launcher=type(self.settings.launcher).__name__,
            workers=sum(not worker.is_closed for worker in self._workers),
            processes=len(processes),
            states=dict(Counter(process.state for process in processes)),
            queued=sum(worker.queued for worker in self._workers),
            abandoned=sum(worker.abandoned for worker in self._workers),
            containment=self.settings.launcher.containment,
            containment_problems=self.settings.launcher.containment_problems,
            limit_means={**self.settings.launcher.limit_means, **HELD_BY_THE_HOST},
            limit_problems=self.settings.launcher.limit_problems,
        )


def _refusal(settings: HostSettings) -> str | None:
    """Say why a host cannot have what it requires; `None` if it can."""
    launcher, required = settings.launcher, settings.require_containment
    if required is not None and not (launcher.containment and launcher.containment.is_at_least(required)):
        return _too_weak(launcher, required)
    return _unlimited(settings) or _unboxed(settings)


def _unlimited(settings: HostSettings) -> str | None:
    """Say which limits cannot be held; `None` if all can."""
    launcher = settings.launcher
    if settings.resource_limits is None and settings.require_limits is None:
        return None
    from spindle_trio._host._resource_bounds import what_cannot_be_held, what_is_weaker  # most hosts have no limits

    if settings.require_limits is not None and (weaker := what_is_weaker(launcher, settings.require_limits)):
        return weaker
    if settings.resource_limits is not None and (problem := what_cannot_be_held(settings.resource_limits, launcher)):
        return f"{problem}; open the host without it"
    return None


def _unboxed(settings: HostSettings) -> str | None:
    """Say which parts of sandboxes are missing; `None` if none is."""
    if settings.sandbox is None and not settings.require_sandbox:
        return None
    from spindle_trio._host._sandboxes import missing_parts  # most hosts have none

    needed = settings.require_sandbox | frozenset(() if settings.sandbox is None else settings.sandbox.needs())
    missing = missing_parts(needed, settings.launcher)
    if missing is None:
        return None
    return f"this host requires parts of a sandbox that cannot be had here: {missing}; see `spindle-trio doctor`"


def _too_weak(launcher: Launcher, required: Containment) -> str:
    name, level = type(launcher).__name__, launcher.containment
    text = f"this host requires containment {str(required)!r} or better, and {name} offers "
    if level is None:
        return text + "none: it starts no processes of the operating system"
    problems = "; ".join(f"{wanted}: {why}" for wanted, why in launcher.containment_problems.items())
    why = problems or "the level that it was asked for"
    return f"{text}{str(level)!r} here ({why}); require less, or see `spindle-trio doctor`"
