"""Services: processes that stay up, one generation after another.

A client of the worker API: what belongs here uses `BackendProcesses.spawn` and `ProcessHandle` as any program could,
and so works in the host's program, over a stream and in memory. `_restart` decides, and does no I/O; `_unit` starts,
watches and stops the process of one generation; a keeper is the task that asks the one and tells the other; `_status`
is what users see of it. Nothing is imported here, since pools need `_restart` alone.
"""
