"""The fork server's launcher: an entry runs in the process that was forked off the warm server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from spindle_trio._model import Containment, ResolvedEntry
from spindle_trio.abc import LaunchOrder
from spindle_trio.launchers._entry_path import PYTHON_SUFFIXES
from spindle_trio.launchers._local._engine import Engine, Program
from spindle_trio.launchers._local._first_frames import encode_order
from spindle_trio.launchers._local._forked_process import ProcessParent
from spindle_trio.launchers._local._interpreter import search_path
from spindle_trio.launchers._local._preload import check_preload
from spindle_trio.launchers._local._server_launcher import ServerLauncher

__all__ = ["DEFAULT_PRELOAD", "DEFAULT_SPARES", "ForkServerLauncher", "ForkedPythonEngine"]

DEFAULT_PRELOAD: Final = ("trio",)
"""The modules that a fork server loads for its processes by default."""

DEFAULT_SPARES: Final = 3


class ForkedPythonEngine(Engine):
    """Runs Python entries in the forked processes themselves."""

    suffixes = PYTHON_SUFFIXES

    def runtime(self, entry: ResolvedEntry) -> Sequence[str]:
        """List what this program's interpreter needs; see `Engine.runtime`."""
        from spindle_trio.launchers._sandbox_runtime import python_runtime  # most programs have no sandboxes

        return python_runtime()

    def prepare(self, order: LaunchOrder, parent: ProcessParent) -> Program:
        """Write the order; see `Engine.prepare`."""
        # The order leaves out what the process has from its server.
        environment = order.environment
        path = sys.path if sys.path == parent.path else search_path()  # which takes a while
        frame = encode_order(
            order,
            None if path == parent.path else path,
            root=order.root,
            environment=None if environment == parent.environment else environment,
        )
        return Program([frame], file=str(order.entry.path))


class ForkServerLauncher(ServerLauncher):
    """Forks each entry, a ``.py`` file, off a warm server process. Needs Linux 5.4 or later.

    A process starts in about a millisecond, and shares the memory of what was preloaded. All processes of one
    launcher also share their address layout and hash seed; `PythonLauncher` gives each its own.
    """

    def __init__(
        self,
        *,
        preload: Iterable[str] = DEFAULT_PRELOAD,
        preload_environment: Mapping[str, str] | None = None,
        preload_path: Iterable[str | os.PathLike[str]] = (),
        spares: int = DEFAULT_SPARES,
        containment: Containment | str | None = None,
    ) -> None:
        """Prepare; starts nothing.

        Args:
            preload: the modules that the server imports once, for all processes: `DEFAULT_PRELOAD` and others, as in
                ``(*DEFAULT_PRELOAD, "numpy")``, or ``()`` for a lean server, whose `async` entries import Trio
                themselves. A module that starts a thread or opens a descriptor is refused when the host opens.
            preload_environment: extra variables for the server while it loads these modules, as in
                ``{"OPENBLAS_NUM_THREADS": "1"}``, without which numpy starts threads. Processes do not get them: the
                host sets their environment.
            preload_path: folders in which to look for these modules first, such as that of this program. Processes
                still have the `sys.path` of this program.
            spares: how many warm processes wait for the next launches.
            containment: the level of containment: exactly this one, or the host refuses to open; `None` for the
                strongest that works here.

        Raises:
            TypeError: `preload` or `preload_path` is a str, or one of the three contains anything but str.
            ValueError: a variable of `preload_environment` is not valid, `spares` is negative or not an integer, or
                `containment` is not a level.
        """
        super().__init__(
            ForkedPythonEngine(),
            spares=spares,
            containment=containment,
            preload=check_preload(preload, preload_path, preload_environment),
        )
