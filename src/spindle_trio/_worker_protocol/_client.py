"""`connect_worker`: a `Worker` whose host is at the other end of a channel."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from spindle_trio._model import (
    Limits,
)
from spindle_trio._nursery_scope import NurseryScope
from spindle_trio._trio_rules import AsyncBlock, refuse_stream, require_trio, uninterrupted
from spindle_trio._worker import Worker
from spindle_trio._worker_protocol._remote_worker import RemoteWorker

if TYPE_CHECKING:
    from types import TracebackType

    from spindle_trio._worker_protocol._stream_channel import WireChannel


def connect_worker(
    channel: WireChannel,
    *,
    limits: Limits = Limits(),  # noqa: B008  # it is frozen
) -> AbstractAsyncContextManager[Worker]:
    """Connect to a host that serves the other end of a channel (`Host.serve_worker`), and be its worker.

    Leaving the block closes the channel, and so the host unloads the worker: its processes end as `backend_unloaded`,
    which this end does not see. If the connection is lost inside the block, calls that wait and later ones raise
    `trio.BrokenResourceError`, and subscriptions end once they have been read. A handle then keeps its last snapshot;
    its `wait_ended` raises `trio.BrokenResourceError` if this end had not seen the process end.

    A worker behaves here as in the host's own program, with these differences. Timeouts travel as whole milliseconds, a
    startup timeout between 1 and 120 seconds, a heartbeat timeout of up to 120 seconds or none. The host
    checks whether a message names the right user. A process's `pid` and the worker's own
    `user_id` are not known here. A message that the host cannot deliver is logged here, and the next `send` or
    `send_nowait` to that process raises why: `PayloadError` (with `size` and `limit`), `ProcessAccessError` or
    `trio.BrokenResourceError`. If the host accepts a message and cannot hold it for the process, that process
    ends as failed, since no sender waits here.

    Calls and streams are as in the host's own program, with these differences: what the host has against a stream is
    raised by its channel, not on entering its block; if the connection is lost, a call raises
    `trio.BrokenResourceError`, which does not say whether it had been handed over; and the host refuses one with
    `CallError` while 16 384 of this connection wait, or 64 MiB of their payloads.

    Messages have no back-pressure per process: this end always reads, holds each process's messages up to the bounds,
    and a message subscription that falls behind them gets `LaggedError`. A `spawn` that is cancelled returns at once;
    the process is stopped when the host names it, and a key that it had taken over is given back when it is gone.

    Args:
        channel: is taken over; nobody else may use it.
        limits: bounds for what waits here and for what is sent; normally the host's own.

    Raises:
        TypeError: `channel` is a bare stream.
    """
    refuse_stream(channel, "connect_worker(StreamChannel(stream))")
    return _WorkerConnection(channel, limits)


@uninterrupted
class _WorkerConnection(AsyncBlock[Worker]):
    """The block of `connect_worker`: a class, so that an error raised in its body leaves it bare."""

    typed = "connect_worker"

    def __init__(self, channel: WireChannel, limits: Limits) -> None:
        self._port = RemoteWorker(channel, limits)

    async def __aenter__(self) -> Worker:
        require_trio()
        self._scope = NurseryScope()
        await self._scope.open()
        self._scope.nursery.start_soon(self._port.run)
        return Worker(self._port)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._port.leave()
        # Shielded there, and bounded: `leave` has cancelled what it waits for.
        await self._scope.close(error, ended=self._port.finished.wait, kill=self._port.leave)  # noqa: ASYNC102
