"""What a pool tells of itself."""

from __future__ import annotations

import attrs

from spindle_trio._model._field_docs import show_fields


@show_fields
@attrs.frozen
class PoolStatistics:
    """What a pool holds at one moment, and has done so far."""

    size: int
    """How many processes it may have."""
    starting: int
    """Processes that are being started, or will be when their delay is over."""
    idle: int
    """Processes that wait for a call."""
    busy: int
    """Processes that have a call or a stream, or one that was cancelled and has not given up."""
    ending: int
    """Processes that are being stopped, or have been lost and are not gone yet."""
    waiting: int
    """Calls and streams that wait for a process."""
    calls: int
    """Calls and streams that have got a process, so far."""
    starts: int
    """Processes that have become ready, so far."""
    restarts: int
    """Of those, how many took the place of one that had ended."""
    failures: int
    """Processes that never became ready, or ended though nobody asked for it, so far."""
    overruns: int
    """Processes that were ended because a handler did not give up after its call's time or a cancellation, so far."""
    recycled: int
    """Processes that the pool has stopped after their calls, their time or their idleness, so far."""
    failures_in_a_row: int
    """Failures since a process last answered."""
    is_broken: bool
    """Whether the pool has given up."""
