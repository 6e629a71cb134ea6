"""Takes the shields off a task that outlives its kill, so that a test fails with a diagnosis instead of hanging."""

from __future__ import annotations

from collections.abc import Iterator

import trio


def take_shields_away(root: trio.lowlevel.Task | None, outermost: trio.CancelScope | None) -> None:
    """Let a cancellation reach every task below one, through all shields that were put up inside a scope.

    Trio has no public way from a task to the scopes it is in, and rightly so. This is for a test that has failed
    already; where the inner attributes are not found, nothing happens and the task has to end by itself.

    Args:
        root: the task, with all below it; `None` does nothing.
        outermost: the scope around all shields to be taken away; it keeps its own.
    """
    for task in _with_descendants(root):
        status: object = getattr(task, "_cancel_status", None)
        while status is not None:
            scope: object = getattr(status, "_scope", None)
            if scope is outermost or not isinstance(scope, trio.CancelScope):
                break
            scope.shield = False
            status = getattr(status, "_parent", None)


def _with_descendants(root: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    if root is None:
        return
    yield root
    for nursery in root.child_nurseries:
        for task in tuple(nursery.child_tasks):
            yield from _with_descendants(task)
