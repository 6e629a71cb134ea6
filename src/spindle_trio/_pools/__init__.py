"""Pools: processes of one entry, kept warm for calls and replaced as they end.

A client of the worker API: what belongs here uses `BackendProcesses.spawn` and `ProcessHandle` as any program could,
and so works in the host's program, over a stream and in memory. A call has no task here: its caller makes it, on a
process that he holds alone meanwhile. Each process has one task, which starts it, watches it and stops it.
"""

from __future__ import annotations

from spindle_trio._pools._pool import Pool, open_pool
from spindle_trio._pools._pool_map import PoolMap
from spindle_trio._pools._statistics import PoolStatistics

__all__ = ["Pool", "PoolMap", "PoolStatistics", "open_pool"]
