"""The processes that ended most recently, bounded in number and in bytes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from spindle_trio._model import MEBIBYTE
from spindle_trio._protocol._json_codec import write_body
from spindle_trio._supervision._snapshots import keep_end, show_end

if TYPE_CHECKING:
    from spindle_trio._model import EndedProcess
    from spindle_trio._supervision._process_record import Identity, ProcessRecord
    from spindle_trio._supervision._snapshots import KeptEnd

MOST_BYTES: Final = 16 * MEBIBYTE
"""Bytes of metadata and labels that ended processes may keep in memory. The last one may take any number."""


class RecentEnds:
    """The ended processes that a host remembers; the oldest goes first."""

    def __init__(self, most: int) -> None:
        """Begin with none.

        Args:
            most: how many to keep.
        """
        self._most = most
        self._ends: deque[tuple[KeptEnd, int]] = deque()
        self._bytes = 0

    def add(self, record: ProcessRecord) -> None:
        """Keep a process that has just ended."""
        size = _size_of(record.identity)
        self._ends.append((keep_end(record), size))
        self._bytes += size
        while len(self._ends) > self._most or (self._bytes > MOST_BYTES and len(self._ends) > 1):
            self._bytes -= self._ends.popleft()[1]

    def show(self) -> list[EndedProcess]:
        """Describe them, oldest end first."""
        return [show_end(kept) for kept, _ in self._ends]


def _size_of(identity: Identity) -> int:
    size = len(identity.entry) + len(identity.kind) + len(identity.key or "") + len(identity.user_id or "")
    return size if identity.metadata is None else size + len(write_body(identity.metadata))
