"""The spawns and calls of one connection that wait for their answers: bounded in number, and in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from spindle_trio._errors import CallError, SpawnRefusedError
from spindle_trio._model import MEBIBYTE, OMITTED, ProcessCall, name_of_entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio._errors import SpindleError
    from spindle_trio._model import ProcessCallIdle, SpawnOptions

MOST_BYTES: Final = 64 * MEBIBYTE
"""Bytes that all spawns, or all calls, may take in memory while they wait; one alone may take any number."""

MOST_CALLS: Final = 16_384
"""Calls and streams that may wait; each takes some kilobytes beside its payload."""

_VALUE_BYTES: Final = 64
"""Bytes that a value takes in memory, beside its text."""

_SHORT_LABEL: Final = 1024
"""Characters of a label that are not counted: the bound on their number is enough."""

_encode: Final = msgspec.json.Encoder().encode


class WaitingRequests:
    """Lets a request wait if there is room. What waits for a process must hold up no other request, and no memory."""

    def __init__(self, most: int, kind: str, refuse: Callable[[str], SpindleError]) -> None:
        """Begin with none.

        Args:
            most: how many may wait.
            kind: what they are, for the error.
            refuse: makes the error from its text.
        """
        self._most = most
        self._kind = kind
        self._refuse = refuse
        self._count = 0
        self._bytes = 0

    def admit(self, what: str, size: int) -> None:
        """Let a request wait.

        Args:
            what: the request, as in ``spawn 'a.py'``.
            size: what it takes in memory; also for `release`.

        Raises:
            SpindleError: there is no room for it; says which bound was reached.
        """
        refused = f"cannot {what}: {self._count} {self._kind} of this connection are waiting"
        if self._count >= self._most:
            raise self._refuse(f"{refused}, the most allowed; wait until one is answered")
        if self._bytes and size and self._bytes + size > MOST_BYTES:
            raise self._refuse(
                f"{refused}; with this one they would take about {self._bytes + size} bytes in memory, "
                f"more than {MOST_BYTES}; wait until one is answered"
            )
        self._count += 1
        self._bytes += size

    def release(self, size: int) -> None:
        """Note that a request has been answered."""
        self._count -= 1
        self._bytes -= size


class WaitingSpawns(WaitingRequests):
    """The spawns that wait."""

    def __init__(self, most: int) -> None:
        super().__init__(most, "spawns", SpawnRefusedError)

    def admit_spawn(self, options: SpawnOptions) -> int:
        """Let a spawn wait, and return its size in memory.

        Raises:
            SpawnRefusedError: there is no room for it.
        """
        size = sum(map(_size_of, (options.payload, options.metadata, options.environment, options.arguments)))
        if options.sandbox is not None:
            size += sum(map(_size_of, (options.sandbox.read, options.sandbox.write, options.sandbox.deny)))
        name = name_of_entry(options.entry)
        if not isinstance(options.entry, str):
            size += sum(_size_of(getattr(options.entry, part, None)) for part in ("argv", "environment"))
        labels = (name, options.kind, options.key, options.user_id, options.folder, options.successor_of)
        size += sum(len(label) for label in labels if label is not None and len(label) > _SHORT_LABEL)
        self.admit(f"spawn {name[:200]!r}", size)
        return size


class WaitingCalls(WaitingRequests):
    """The calls that wait, and the streams that have not ended."""

    def __init__(self, most: int = MOST_CALLS) -> None:
        super().__init__(most, "calls", CallError)

    def admit_call(self, call: ProcessCall | ProcessCallIdle) -> int:
        """Let a call wait, and return its size in memory.

        Raises:
            CallError: there is no room for it.
        """
        size = sum(len(label) for label in (call.request_id, call.process_id) if len(label) > _SHORT_LABEL)
        what = "wait for calls"
        if isinstance(call, ProcessCall):
            size += _size_of(call.payload) + (0 if call.user_id is None else len(call.user_id))
            what = f"call {call.method[:200]!r}"
        self.admit(what, size)
        return size


def _size_of(value: object) -> int:
    """Estimate what a value takes in memory. What cannot be written is refused at once, and does not wait."""
    if value is OMITTED or not value:
        return 0
    try:
        body = _encode(value)
    except (TypeError, ValueError, RecursionError):
        return 0
    return len(body) + _VALUE_BYTES * (body.count(b",") + body.count(b"[") + body.count(b"{"))
