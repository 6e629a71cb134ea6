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
    """What a process is told to run, and how what it runs behaves."""

    first_frames: Sequence[bytes]
    """The bodies of the first frames on its control lane, which leave together with the host's first one."""
    leaves_stacks: bool = True
    """Whether it writes its stacks into the page when it is asked to."""
    waits_to_send: bool = True
    """Whether it does nothing else while a message of its has left in part; else such a frame may take any time."""


class Engine(ABC):
    """Writes what a process is told first, on its control lane, so that it runs an entry."""

    suffixes: ClassVar[tuple[str, ...]]
    """The ends of the names of the files that it runs."""

    def require(self, entry: ResolvedEntry) -> None:
        """Make sure that it can run an entry.

        Raises:
            EntryError: it cannot; says what to do.
        """

    @abstractmethod
    def prepare(self, order: LaunchOrder, parent: ProcessParent) -> Program:
        """Write what a process is told.

        Args:
            order: what was ordered.
            parent: who has forked the process.

        Raises:
            OSError: it is known already that this launch cannot succeed.
        """
