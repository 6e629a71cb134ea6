"""The spawns of one connection that wait for their answers: bounded in number, and in what they keep in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from spindle_trio._errors import SpawnRefusedError
from spindle_trio._model import MEBIBYTE, OMITTED

if TYPE_CHECKING:
    from spindle_trio._model import SpawnOptions

MOST_BYTES: Final = 64 * MEBIBYTE
"""Bytes that payloads and metadata may take in memory while their spawns wait; one spawn alone may take any number."""

_VALUE_BYTES: Final = 64
"""Bytes that a value takes in memory, beside its text."""

_SHORT_LABEL: Final = 1024
"""Characters of a label that are not counted: the bound on their number is enough."""

_encode: Final = msgspec.json.Encoder().encode


class WaitingSpawns:
    """Lets a spawn wait if there is room. What waits for a process must hold up no other request, and no memory."""

    def __init__(self, max_spawns: int) -> None:
        """Begin with none.

        Args:
            max_spawns: how many may wait.
        """
        self._max_spawns = max_spawns
        self._spawns = 0
        self._bytes = 0

    def admit(self, options: SpawnOptions) -> int:
        """Let a spawn wait.

        Returns:
            Its size in memory, for `release`.

        Raises:
            SpawnRefusedError: there is no room for it; says which bound was reached.
        """
        size = sum(map(_size_of, (options.payload, options.metadata, options.environment, options.arguments)))
        labels = (options.entry, options.kind, options.key, options.user_id, options.folder)
        size += sum(len(label) for label in labels if label is not None and len(label) > _SHORT_LABEL)
        entry = repr(options.entry[:200])
        refused = f"cannot spawn {entry}: {self._spawns} spawns of this connection are waiting"
        if self._spawns >= self._max_spawns:
            raise SpawnRefusedError(f"{refused}, the most allowed; wait until one is answered")
        if self._bytes and size and self._bytes + size > MOST_BYTES:
            raise SpawnRefusedError(
                f"{refused}; with this one they would take about {self._bytes + size} bytes in memory, "
                f"more than {MOST_BYTES}; wait until one is answered"
            )
        self._spawns += 1
        self._bytes += size
        return size

    def release(self, size: int) -> None:
        """Note that a spawn has been answered."""
        self._spawns -= 1
        self._bytes -= size


def _size_of(value: object) -> int:
    """Estimate what a value takes in memory. What cannot be written is refused at once, and does not wait."""
    if value is OMITTED or not value:
        return 0
    try:
        body = _encode(value)
    except (TypeError, ValueError, RecursionError):
        return 0
    return len(body) + _VALUE_BYTES * (body.count(b",") + body.count(b"[") + body.count(b"{"))
