"""The launcher of a host that was opened without one: it picks by suffix what runs an entry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from spindle_trio._model import Containment, ResolvedEntry
from spindle_trio.abc import LaunchOrder
from spindle_trio.launchers._entry_path import JAVASCRIPT_SUFFIXES, PYTHON_SUFFIXES, resolve_entry
from spindle_trio.launchers._fork import DEFAULT_PRELOAD, DEFAULT_SPARES, ForkServerLauncher
from spindle_trio.launchers._local._fork_server_client import ForkServer
from spindle_trio.launchers._node import JavaScriptEngine

__all__ = ["DefaultLauncher"]


class DefaultLauncher(ForkServerLauncher):
    """Forks Python entries (``.py``) off a warm server process, and runs JavaScript ones (``.js .mjs .cjs``) in Node.

    Both come from one server: a process of it becomes Node by `exec`. Needs Linux 5.4 or later, and Node (20.19 or
    later) or Bun once a JavaScript entry is spawned, which is refused with `EntryError` where there is neither.
    """

    def __init__(
        self,
        *,
        preload: Iterable[str] = DEFAULT_PRELOAD,
        spares: int = DEFAULT_SPARES,
        containment: Containment | None = None,
        node: str | None = None,
    ) -> None:
        """Prepare; starts nothing.

        Args:
            preload: as for `ForkServerLauncher`.
            spares: as there.
            containment: as there.
            node: the program that runs JavaScript, as for `NodeLauncher`.

        Raises:
            TypeError: as there.
            ValueError: as there.
        """
        super().__init__(preload=preload, spares=spares, containment=containment)
        self._engine = JavaScriptEngine(node)

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        """Accept or refuse an entry; see `Launcher.resolve`.

        Raises:
            EntryError: as there, and for a JavaScript entry where nothing can run it.
        """
        resolved = resolve_entry(entry, root, PYTHON_SUFFIXES + JAVASCRIPT_SUFFIXES)
        if _is_javascript(resolved):
            self._engine.require(resolved)
        return resolved

    def _first_frames(self, order: LaunchOrder, server: ForkServer) -> Sequence[bytes]:
        return self._engine.first_frames(order) if _is_javascript(order.entry) else super()._first_frames(order, server)

    def _leaves_stacks(self, order: LaunchOrder) -> bool:
        return not _is_javascript(order.entry)

    def _waits_to_send(self, order: LaunchOrder) -> bool:
        return not _is_javascript(order.entry)


def _is_javascript(entry: ResolvedEntry) -> bool:
    return entry.entry.endswith(JAVASCRIPT_SUFFIXES)
