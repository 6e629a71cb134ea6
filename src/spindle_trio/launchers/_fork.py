"""The fork server's own launcher: an entry runs in the very process that was forked off the warm server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from spindle_trio._model import Containment
from spindle_trio.abc import LaunchOrder
from spindle_trio.launchers._local._first_frames import encode_order
from spindle_trio.launchers._local._fork_server_client import ForkServer
from spindle_trio.launchers._local._interpreter import search_path
from spindle_trio.launchers._local._server_launcher import ServerLauncher

__all__ = ["DEFAULT_PRELOAD", "DEFAULT_SPARES", "ForkServerLauncher"]

DEFAULT_PRELOAD: Final = ("trio",)
"""What a fork server loads for its processes unless it is told otherwise."""

DEFAULT_SPARES: Final = 3


class ForkServerLauncher(ServerLauncher):
    """Forks each entry, a ``.py`` file, off a warm server process. Needs Linux 5.4 or later.

    A process comes into being in about a millisecond, and shares the memory of what was preloaded. All processes of one
    launcher also share their address layout and hash seed; `PythonLauncher` gives each its own.
    """

    def __init__(
        self,
        *,
        preload: Iterable[str] = DEFAULT_PRELOAD,
        spares: int = DEFAULT_SPARES,
        containment: Containment | None = None,
    ) -> None:
        """Prepare; starts nothing.

        Args:
            preload: the modules that the server imports once, for all processes: `DEFAULT_PRELOAD` and others, as in
                ``(*DEFAULT_PRELOAD, "numpy")``, or ``()`` for a lean server, whose `async` entries import Trio
                themselves. A module that starts a thread or opens a descriptor is refused when the host opens.
            spares: how many processes wait, warm, for the next launches.
            containment: how well the trees of processes are to be held together: by exactly this level, or the host
                refuses to open; `None` for the strongest that works here.

        Raises:
            TypeError: `preload` is one text, or has something else in it than texts.
            ValueError: `spares` is negative or no integer, or `containment` is no level.
        """
        if isinstance(preload, str):
            raise TypeError(f"preload must be a collection of module names, not the text {preload!r}")
        modules = tuple(preload)
        if not all(isinstance(name, str) for name in modules):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"preload must hold module names, not {modules!r}")
        super().__init__(preload=modules, spares=spares, containment=containment, execs=False)

    def __repr__(self) -> str:
        server = "no server" if self._server is None else f"server pid={self._server.pid}"
        return f"{type(self).__name__}(preload={self._preload!r}, spares={self._wanted_spares}) <{server}>"

    def _first_frames(self, order: LaunchOrder, server: ForkServer) -> Sequence[bytes]:
        # What the process has from its server need not be said.
        path, environment = search_path(), order.environment
        return [
            encode_order(
                order,
                None if path == server.path else path,
                root=order.root,
                environment=None if environment == server.environment else environment,
            )
        ]
