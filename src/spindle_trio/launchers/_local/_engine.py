"""An engine runs entries of one kind in a process that a fork server has forked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import attrs

from spindle_trio._model import ResolvedEntry
from spindle_trio.abc import LaunchOrder
from spindle_trio.launchers._local._forked_process import ProcessParent

__all__ = ["Engine", "Program"]


@attrs.frozen
class Program:
    """What a process runs, and how that behaves."""

    first_frames: Sequence[bytes]
    """The bodies of the first frames on its control lane. They leave before `init` is written."""
    file: str | None = None
    """What spares may read ahead for later launches of the same entry."""
    leaves_stacks: bool = True
    """Whether it writes its stacks into the page on request."""
    waits_to_send: bool = True
    """Whether it always finishes a message that it has begun to write. If not, such a frame may take any time."""


class Engine(ABC):
    """Writes the first frames of a process, which have it run an entry."""

    suffixes: ClassVar[tuple[str, ...]]
    """The suffixes of the files that it runs."""

    def require(self, entry: ResolvedEntry) -> None:
        """Make sure that it can run an entry.

        Raises:
            EntryError: it cannot run it; says what to do.
        """

    @abstractmethod
    def runtime(self, entry: ResolvedEntry) -> Sequence[str]:
        """List the files and folders that ``@runtime`` stands for in a sandbox: absolute paths without links."""

    @abstractmethod
    def prepare(self, order: LaunchOrder, parent: ProcessParent) -> Program:
        """Write the first frames of a process.

        Args:
            order: the launch order.
            parent: the server that has forked the process.

        Raises:
            OSError: this launch certainly cannot succeed.
        """
