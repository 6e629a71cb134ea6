"""The default launcher of a host. The suffix of an entry decides what runs it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from spindle_trio._model import Containment
from spindle_trio.launchers._fork import DEFAULT_PRELOAD, DEFAULT_SPARES, ForkedPythonEngine
from spindle_trio.launchers._local._preload import check_preload
from spindle_trio.launchers._local._server_launcher import ServerLauncher
from spindle_trio.launchers._node import JavaScriptEngine

__all__ = ["DefaultLauncher"]


class DefaultLauncher(ServerLauncher):
    """Forks Python entries (``.py``) off a warm server process, and runs JavaScript ones (``.js .mjs .cjs``) in Node.

    Both come from one server: a JavaScript process is forked too, and becomes Node by `exec`. Needs Linux 5.4 or later,
    and Node (20.19 or later) or Bun once a JavaScript entry is spawned, which is refused with `EntryError` if neither
    is installed.
    """

    def __init__(
        self,
        *,
        preload: Iterable[str] = DEFAULT_PRELOAD,
        preload_environment: Mapping[str, str] | None = None,
        preload_path: Iterable[str | os.PathLike[str]] = (),
        spares: int = DEFAULT_SPARES,
        containment: Containment | str | None = None,
        node: str | None = None,
    ) -> None:
        """Prepare; starts nothing.

        Args:
            preload: the modules that the server imports once, for all Python entries, as in
                ``(*DEFAULT_PRELOAD, "numpy")``; `ForkServerLauncher` says more.
            preload_environment: extra variables for the server while it loads these modules.
            preload_path: folders in which to look for these modules first.
            spares: how many warm processes wait for the next launches.
            containment: the level of containment: exactly this one, or the host refuses to open; `None` for the
                strongest that works here.
            node: the program that runs JavaScript, as a path or as a command that is looked up; by default ``node``,
                or else ``bun``, on the `PATH`.

        Raises:
            TypeError: `preload`, `preload_environment` or `preload_path` is of a wrong type.
            ValueError: `spares` is negative or not an integer, `containment` is not a level, or a variable of
                `preload_environment` is not valid.
        """
        super().__init__(
            ForkedPythonEngine(),
            JavaScriptEngine(node, naming='DefaultLauncher(node="/…/node")'),
            spares=spares,
            containment=containment,
            preload=check_preload(preload, preload_path, preload_environment),
        )
