"""What a caller asks of a process: one call, or one stream; and the words for one that was not answered in time."""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

import attrs

Overrun: TypeAlias = Literal["leave", "kill"]
"""What becomes of a process whose handler goes on after its call was cancelled: `leave` it, or `kill` it."""

METHOD_BYTES: Final = 1024
"""How long the name of a method may be, in bytes of UTF-8."""

MOST_WINDOW: Final = 65_536
"""The largest window of a stream, in items."""


@attrs.frozen
class CallRequest:
    """One call, checked but for its payload."""

    method: str
    """The name that the entry has given to its handler."""
    payload: object = None
    """JSON-safe."""
    timeout: float = math.inf
    """Seconds until the call is cancelled; `math.inf` for no bound of its own."""
    overrun: Overrun = "leave"
    """What becomes of a process whose handler goes on after that."""
    window: int | None = None
    """For a stream: how many items may be under way. `None` for a call with one answer."""


def within(timeout: float) -> str:
    """Say how long a call had, to the millisecond: a pool passes on what is left, a little less than it got."""
    if timeout == math.inf:
        return "in time"  # by a cancel scope that has moved its deadline since
    return f"within {round(timeout, 3) or timeout:g} s"


def too_late(method: str, process_id: str, entry: str, within_time: str) -> str:
    """Say that a call was not answered in time."""
    return f"{method[:200]!r} was not answered by process {process_id} ({entry}) {within_time}, and was cancelled"
