"""Peers that call functions in processes: each is opened with a number of workers, and called from Trio's thread.

As in `bench.peers`, blocking calls run on Trio's thread on purpose. Workers are spawned, so that none inherits what
this program has open. Only where a replacement is timed does each peer start its workers as it does by default.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from time import perf_counter
from typing import Any

import trio

import peer_targets
from bench.measuring import Opening, Race, Role, Sampler
from bench.peers import installed, piped

EXECUTOR = "ProcessPoolExecutor"
MP_POOL = "multiprocessing.Pool"
PEBBLE = "pebble"
LOKY = "loky"
TRIO_PARALLEL = "trio-parallel"
CONNECTION = "multiprocessing.Pipe"
PEERS = (EXECUTOR, MP_POOL, PEBBLE, LOKY, TRIO_PARALLEL)

Submit = Callable[[Callable[..., object], object], Callable[[], object]]
"""Begins a call, and returns what waits for its result."""


async def enter_peers(
    race: Race, size: int, sampler: Callable[[Submit], Sampler], in_trio: Callable[[Any], Sampler], suffix: str = ""
) -> None:
    """Let all peers race.

    Args:
        race: in which they take part.
        size: how many workers each has.
        sampler: makes the sampler of one with blocking calls.
        in_trio: makes the sampler of trio-parallel, of its module's worker context.
        suffix: for their labels.
    """
    for label, pool in POOLS.items():
        await race.enter(Role.PEER, label + suffix, opening(pool, size, sampler))
    await race.enter(Role.PEER, TRIO_PARALLEL + suffix, trio_parallel_opening(in_trio))


def opening(
    pool: Callable[[int], AbstractContextManager[Submit]], size: int, sampler: Callable[[Submit], Sampler]
) -> Opening:
    """Say how to open a peer with blocking calls."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Sampler]:
        with pool(size) as submit:
            warm = [submit(peer_targets.work, 0.01) for _ in range(2 * size)]
            for wait in warm:
                wait()
            yield sampler(submit)

    return opened


def trio_parallel_opening(in_trio: Callable[[Any], Sampler]) -> Opening:
    """Say how to open trio-parallel."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Sampler]:
        trio_parallel = installed("trio_parallel", "trio-parallel")
        block = trio_parallel.open_worker_context(grace_period=1.0)
        workers = await block.__aenter__()
        try:
            yield in_trio(workers)
        finally:
            with suppress(trio_parallel.BrokenWorkerError):  # a worker that was killed has not shut down gracefully
                await block.__aexit__(None, None, None)

    return opened


class _Executor(AbstractContextManager[Submit]):
    """ProcessPoolExecutor."""

    def __init__(self, size: int) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._pool = ProcessPoolExecutor(size, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> Submit:
        return lambda function, value: self._pool.submit(function, value).result

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


class _MpPool(AbstractContextManager[Submit]):
    """multiprocessing.Pool."""

    def __init__(self, size: int) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(size)

    def __enter__(self) -> Submit:
        return lambda function, value: self._pool.apply_async(function, (value,)).get

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()
        self._pool.join()


class _Pebble(AbstractContextManager[Submit]):
    """pebble.ProcessPool."""

    def __init__(self, size: int) -> None:
        pebble = installed("pebble", "pebble")
        self._pool = pebble.ProcessPool(max_workers=size, context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> Submit:
        return lambda function, value: self._pool.schedule(function, args=(value,)).result

    def __exit__(self, *_: object) -> None:
        self._pool.stop()
        self._pool.join()


class _Loky(AbstractContextManager[Submit]):
    """loky's executor, with its own way of starting."""

    def __init__(self, size: int) -> None:
        loky = installed("loky", "loky")
        self._pool = loky.ProcessPoolExecutor(size)

    def __enter__(self) -> Submit:
        return lambda function, value: self._pool.submit(function, value).result

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(kill_workers=True)


POOLS: dict[str, Callable[[int], AbstractContextManager[Submit]]] = {
    EXECUTOR: _Executor,
    MP_POOL: _MpPool,
    PEBBLE: _Pebble,
    LOKY: _Loky,
}
"""Those with blocking calls."""


def one_after_another(submit: Submit, text: str, calls: int, place: Callable[[int], None]) -> Sampler:
    """Time a call, in microseconds: the mean of a burst. `place` pins the one worker, not the pool's own threads."""
    pid = submit(peer_targets.own_pid, None)()
    assert isinstance(pid, int)

    async def sample() -> float:
        await trio.lowlevel.checkpoint()
        place(pid)
        began = perf_counter()
        for _ in range(calls):
            submit(peer_targets.echo, text)()
        return 1e6 * (perf_counter() - began) / calls

    return sample


def in_flight(submit: Submit, function: Callable[..., object], value: object, calls: int, window: int) -> Sampler:
    """Count calls a second, with so many of them begun and not ended."""

    async def sample() -> float:
        await trio.lowlevel.checkpoint()
        began = perf_counter()
        waiting: deque[Callable[[], object]] = deque()
        for _ in range(calls):
            if len(waiting) == window:
                waiting.popleft()()
            waiting.append(submit(function, value))
        while waiting:
            waiting.popleft()()
        return calls / (perf_counter() - began)

    return sample


def trio_in_flight(
    workers: Any, function: Callable[..., object], value: object, calls: int, window: int, size: int
) -> Sampler:
    """Count the calls of trio-parallel a second, made by so many tasks, in so many workers."""
    limiter = trio.CapacityLimiter(size)

    async def sample() -> float:
        left = calls

        async def call() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await workers.run_sync(function, value, limiter=limiter)

        began = perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(window):
                nursery.start_soon(call)
        return calls / (perf_counter() - began)

    return sample


def trio_one_after_another(workers: Any, text: str, calls: int, place: Callable[[int], None]) -> Sampler:
    """Time a call of trio-parallel in one worker, in microseconds."""
    limiter = trio.CapacityLimiter(1)

    async def sample() -> float:
        place(await workers.run_sync(peer_targets.own_pid, None, limiter=limiter))
        began = perf_counter()
        for _ in range(calls):
            await workers.run_sync(peer_targets.echo, text, limiter=limiter)
        return 1e6 * (perf_counter() - began) / calls

    return sample


@asynccontextmanager
async def pebble_hung(timeout: float) -> AsyncIterator[Sampler]:
    """Time from the deadline of a call that hangs to the next answer, in milliseconds."""
    pebble = installed("pebble", "pebble")
    pool = pebble.ProcessPool(max_workers=1)

    async def sample() -> float:
        await trio.lowlevel.checkpoint()
        pool.schedule(peer_targets.echo, args=("",)).result()
        deadline = perf_counter() + timeout
        try:
            pool.schedule(peer_targets.hang, args=("",), timeout=timeout).result()
        except TimeoutError:
            pool.schedule(peer_targets.echo, args=("",)).result()
            return 1000 * (perf_counter() - deadline)
        raise AssertionError("it hangs")

    try:
        yield sample
    finally:
        pool.stop()
        pool.join()


def trio_parallel_hung(workers: Any, timeout: float) -> Sampler:
    """Time the same with trio-parallel, which kills the worker of a cancelled call."""
    limiter = trio.CapacityLimiter(1)

    async def sample() -> float:
        await workers.run_sync(peer_targets.echo, "", limiter=limiter)
        deadline = perf_counter() + timeout
        with trio.move_on_after(timeout):
            await workers.run_sync(peer_targets.hang, "", kill_on_cancel=True, limiter=limiter)
        await workers.run_sync(peer_targets.echo, "", limiter=limiter)
        return 1000 * (perf_counter() - deadline)

    return sample


@asynccontextmanager
async def connection(array: object) -> AsyncIterator[Sampler]:
    """Send an array through a connection to a process, and take it back."""
    with piped(peer_targets.send_back) as ours:

        async def sample() -> float:
            began = perf_counter()
            ours.send(array)
            ours.recv()
            return (perf_counter() - began) * 1e3

        yield sample


def trio_parallel_array(workers: Any, *, array: object) -> Sampler:
    """Send an array to trio-parallel's worker and back."""

    async def sample() -> float:
        began = perf_counter()
        await workers.run_sync(peer_targets.echo, array)
        return (perf_counter() - began) * 1e3

    return sample
