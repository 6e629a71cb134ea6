"""`open_group`: the block that is the life of a group of services."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, get_args

from spindle_trio._services._group import Group
from spindle_trio._services._group_keeper import GroupKeeper
from spindle_trio._services._line import Strategy
from spindle_trio._services._restart import RestartPolicy, check_policy
from spindle_trio._trio_rules import AsyncBlock, require_trio, uninterrupted
from spindle_trio._worker import check_worker

if TYPE_CHECKING:
    from spindle_trio._worker import Worker

_DEFAULT_POLICY = RestartPolicy()


def open_group(
    worker: Worker, *, strategy: Strategy = "one_for_one", restart: RestartPolicy = _DEFAULT_POLICY
) -> AbstractAsyncContextManager[Group]:
    """Keep several processes up that belong together, for as long as a block lasts.

    As in ``async with spindle.open_group(worker, strategy="rest_for_one") as group: db = await group.start("db.py")``,
    and then ``api = await group.start("api.py")``, which begins when the first one runs.

    Services are started in order, each after the last one is running. When the block is left, in whatever way, they
    are stopped in reverse order, one after another: each is asked to stop, and killed after its grace period.
    Cancellation has to wait for that, and a second Ctrl-C skips the grace periods.

    If a service fails, the strategy says which ones are started again: those are stopped in reverse order, and after
    the delay that the policy says all start in order. The same happens when a service is restarted or recycled, without
    a delay; services whose `max_lifetime` is over are recycled one after another. A service that somebody stops or
    replaces is left out from then on, and so is one that ends in a way that its policy leaves alone: that takes no
    other along.

    After as many failures in a row as the policy allows, of all services together, the group gives up: the block is
    cancelled, the others are stopped in reverse order, and `ServiceGaveUpError` of the one that failed last leaves the
    block. A row ends when all have run for `stable_after` seconds since the last restart after a failure. If the
    connection to the host is lost, `trio.BrokenResourceError` does the same. An error that the block raises itself
    leaves it bare.

    Groups nest: open one in the block of another, or of a service. An inner one that gives up raises into the outer
    block, which may catch that; an outer one that gives up cancels the inner block, and so stops it first.

    Args:
        worker: starts the processes, in this program or at the far end of a stream.
        strategy: which services are started again when one has failed: ``"one_for_one"``: that one, while the others
            run on; ``"one_for_all"``: all of them; ``"rest_for_one"``: that one and those that were started after it.
        restart: how failures are counted, how long it is until the next start, and when the group gives up. Its `when`
            and `max_lifetime` are the defaults of its services.

    Raises:
        ValueError: there is no such strategy.
        TypeError: `restart` is no `RestartPolicy`, or `worker` no worker.
        ServiceGaveUpError: leaves the block.
        trio.ClosedResourceError: leaves the block: the worker is closed.
        trio.BrokenResourceError: leaves the block: the connection to the host is lost.
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy must be one of {', '.join(get_args(Strategy))}, not {strategy!r}")
    check_policy(restart)
    check_worker("open_group", worker)
    return _GroupBlock(worker, strategy, restart)


@uninterrupted
class _GroupBlock(AsyncBlock[Group]):
    """The life of a group."""

    typed = "open_group"

    def __init__(self, worker: Worker, strategy: Strategy, policy: RestartPolicy) -> None:
        self._worker = worker
        self._strategy: Strategy = strategy
        self._policy = policy

    async def __aenter__(self) -> Group:
        require_trio()
        self._keeper = GroupKeeper(self._worker, self._strategy, self._policy)
        await self._keeper.open()
        return Group(self._keeper)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._keeper.leave(error)  # noqa: ASYNC102  # shielded and bounded there
