"""When a process uses more than it is to: it is looked at, and then stopped gracefully and followed by another.

Loaded by the first service or pool with `restart_above`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._model import check_resource_limits
from spindle_trio._model._resource_limits import ResourceLimits, limit_text

if TYPE_CHECKING:
    from spindle_trio._model._usage import Usage
    from spindle_trio._process_handle import ProcessHandle

__all__ = ["LOOK_SECONDS", "ExcessWatch", "check_restart_above"]

LOOK_SECONDS: Final = 0.5
"""Between two looks at a process."""

_LOOKED_AT: Final = ("memory", "pids", "cpu_seconds")

_log = logging.getLogger("spindle_trio.services")


def check_restart_above(bound: ResourceLimits, limits: ResourceLimits | None) -> None:
    """Refuse what cannot be looked at, and what no process can reach.

    Args:
        bound: above which a process is recycled.
        limits: of its spawn.

    Raises:
        TypeError: it is no `ResourceLimits`.
        ValueError: it has nothing to look at, or something that nobody looks at, or contradicts the limits.
    """
    check_resource_limits("restart_above", bound)
    given = bound.given()
    if not given:
        raise ValueError("restart_above has no limit; type: restart_above=ResourceLimits(memory=…)")
    for name, value in given.items():
        if name not in _LOOKED_AT:
            instead = "; RestartPolicy(max_lifetime=…) does that" if name == "run_seconds" else ""
            raise ValueError(f"restart_above takes {', '.join(_LOOKED_AT)}, not {name}{instead}")
        most = None if limits is None else limits.given().get(name)
        if most is not None and value >= most:
            raise ValueError(
                f"restart_above with {name}={value} and resource_limits with {name}={most} contradict each other: the "
                "process is killed before it is recycled; lower the first, or raise the second"
            )


class ExcessWatch:
    """Looks at the processes of one service or pool, one after another or all."""

    def __init__(self, bound: ResourceLimits, name: str) -> None:
        """Begin.

        Args:
            bound: what they may use.
            name: of the service or pool, for the log.
        """
        self._bound = bound
        self._name = name
        self._has_complained = False

    async def wait_above(self, handle: ProcessHandle) -> str | None:
        """Wait until a process uses more than it is to, and say so; `None`: it has ended.

        Raises:
            trio.BrokenResourceError: the connection to the host is lost.
        """
        while True:
            with trio.move_on_after(LOOK_SECONDS):
                await handle.wait_ended()
                return None
            excess = await self.look(handle)
            if excess is not None:
                return excess

    async def look(self, handle: ProcessHandle) -> str | None:
        """Look at a process once, and say what it uses that is more than it is to; `None` for nothing."""
        try:
            usage = await handle.usage()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None  # it has ended, or will in a moment
        bound = self._bound
        for name, used, most in (
            ("memory", usage.memory, bound.memory),
            ("pids", usage.pids, bound.pids),
            ("cpu_seconds", usage.processor_seconds, bound.cpu_seconds),
        ):
            if most is None:
                continue
            if used is None:
                self._complain(name, usage)
            elif used > most:
                return f"it is above restart_above: {limit_text(name, used, most)}"
        return None

    def _complain(self, name: str, usage: Usage) -> None:
        """Say once that a figure is unknown: then nothing is recycled for it."""
        if not self._has_complained:
            self._has_complained = True
            _log.warning("%s: restart_above has no effect on %s, which is unknown here: %s", self._name, name, usage)
