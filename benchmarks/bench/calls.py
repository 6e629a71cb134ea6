"""Rows about calls and streams, and pools of processes that answer them."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import trio

import peer_targets
import spindle_trio as spindle
from bench import call_peers
from bench.hosts import ENTRIES, Running, default_launcher, open_host
from bench.instruments import kept_affinity, on_two_cores
from bench.measuring import Measurement, Race, Role, Sampler, Settings
from bench.messages import TEXT, flood, open_partner, placed, round_trip, take_batches
from bench.peers import installed

CALL = "call, blocking entry"
CALL_ASYNC = "call, async entry"
CALL_POOL = "call, pool of one"
MESSAGES = "round trip of messages"

POOL = "pool of 2"
HANDLES = "two processes without a pool, calls"
BARE_MESSAGES = "two processes, messages"
WAITING = 32
"""How many calls are under way or wait, where many do."""
IN_FLIGHT = 8
"""How many messages are under way to each process then."""

WORK = "pool of 2, map"
WORK_SECONDS = 0.001

HUNG = "pool of 1, no grace"
HANG_SECONDS = 0.05

FUNCTIONS = "pool of functions, one process"

STREAM = "stream, the better entry, window 16"
STREAM_WIDE = "stream, the better entry, window 1024"
STREAM_BLOCKING = "stream, blocking entry, window 16"
STREAM_ASYNC = "stream, async entry, window 16"
STREAM_WIDE_BLOCKING = "stream, blocking entry, window 1024"
STREAM_WIDE_ASYNC = "stream, async entry, window 1024"
RECEIVE_MANY = "receive_many of messages, blocking entry"


async def warm_calls(settings: Settings) -> Measurement:
    """Call with 100 bytes, one call after another; a sample is the mean of a burst, each end on a core of its own."""
    count = settings.amount(50, 5)
    async with (
        open_host(default_launcher()) as running,
        running.processes.open("calls_blocking.py", heartbeat_timeout=math.inf) as blocking,
        running.processes.open("calls_async.py", heartbeat_timeout=math.inf) as asynchronous,
        open_pool(running, 1) as pool,
        open_partner(running, "echo.py") as partner,
        Race("µs", settings.rounds(300, 60), warm_up=5) as race,
    ):
        race.open_sync(kept_affinity())
        for label, handle in ((CALL, blocking), (CALL_ASYNC, asynchronous)):
            sample = functools.partial(_burst, handle.call, count)
            race.add(Role.OURS, label, functools.partial(placed, on_two_cores, handle.pid, sample))
        await pool.call("pin", max(os.sched_getaffinity(0)))
        sample = functools.partial(_burst, pool.call, count)
        race.add(Role.OURS, CALL_POOL, functools.partial(placed, on_two_cores, partner.handle.pid, sample))
        sample = functools.partial(round_trip, partner, count)
        race.add(Role.OURS, MESSAGES, functools.partial(placed, on_two_cores, partner.handle.pid, sample))
        await call_peers.enter_peers(
            race,
            1,
            lambda submit: call_peers.one_after_another(submit, TEXT, count, on_two_cores),
            lambda workers: call_peers.trio_one_after_another(workers, TEXT, count, on_two_cores),
        )
        return await race.run()


async def calls_a_second(settings: Settings) -> Measurement:
    """Call from two tasks at once, in two processes."""
    return await _rates(settings, 2)


async def waiting_calls_a_second(settings: Settings) -> Measurement:
    """Call from 32 tasks at once, in two processes."""
    return await _rates(settings, WAITING)


async def _rates(settings: Settings, window: int) -> Measurement:
    count = settings.amount(1_000 if settings.quick else 5_000, 64)
    async with (
        open_host(default_launcher()) as running,
        open_pool(running, 2) as pool,
        running.processes.open("calls_blocking.py", heartbeat_timeout=math.inf) as first,
        running.processes.open("calls_blocking.py", heartbeat_timeout=math.inf) as second,
        open_partner(running, "echo.py") as one,
        open_partner(running, "echo.py") as other,
        Race("calls/s", settings.rounds(30, 12), warm_up=1) as race,
    ):
        race.add(Role.OURS, POOL, _by_tasks([pool.call] * window, count))
        race.add(Role.OURS, HANDLES, _by_tasks([first.call, second.call] * (window // 2), count))
        ahead = 1 if window == 2 else IN_FLIGHT
        race.add(Role.OURS, BARE_MESSAGES, functools.partial(_exchange, [one, other], count, ahead))
        await call_peers.enter_peers(
            race,
            2,
            lambda submit: call_peers.in_flight(submit, peer_targets.echo, TEXT, count, window),
            lambda workers: call_peers.trio_in_flight(workers, peer_targets.echo, TEXT, count, window, 2),
        )
        return await race.run()


async def work(settings: Settings) -> Measurement:
    """Have a thousand calls compute for a millisecond of processor time each; in percent of two cores."""
    count = settings.amount(1_000, 20)

    def share(sample: Sampler) -> Sampler:
        async def measured() -> float:
            return 100 * WORK_SECONDS * await sample() / 2

        return measured

    async with (
        open_host(default_launcher()) as running,
        open_pool(running, 2) as pool,
        Race("% of 2 cores", settings.rounds(20, 3), warm_up=1) as race,
    ):
        race.add(Role.OURS, WORK, share(functools.partial(_map, pool, count)))
        await call_peers.enter_peers(
            race,
            2,
            lambda submit: share(call_peers.in_flight(submit, peer_targets.work, WORK_SECONDS, count, WAITING)),
            lambda workers: share(
                call_peers.trio_in_flight(workers, peer_targets.work, WORK_SECONDS, count, WAITING, 2)
            ),
        )
        return await race.run()


async def hung_call(settings: Settings) -> Measurement:
    """Time from the deadline of a call that hangs to the answer of the next one, by the process that replaces it.

    Nobody asks the handlers of peers to give up, so ours has no time for that either.
    """
    async with (
        spindle.open_host(default_launcher(), cancel_grace=0) as host,
        host.open_worker("benchmark", root=ENTRIES, user_id="ada") as worker,
        spindle.open_pool(worker, "calls_blocking.py", size=1, give_up_after=None) as pool,
        Race("ms", settings.rounds(40, 15), warm_up=2) as race,
    ):
        race.add(Role.OURS, HUNG, functools.partial(_hang, pool))
        opening = functools.partial(call_peers.pebble_hung, HANG_SECONDS)
        await race.enter(Role.PEER, call_peers.PEBBLE, opening)
        in_trio = functools.partial(call_peers.trio_parallel_hung, timeout=HANG_SECONDS)
        await race.enter(Role.PEER, call_peers.TRIO_PARALLEL, call_peers.trio_parallel_opening(in_trio))
        return await race.run()


async def streams(settings: Settings) -> Measurement:
    """Read items of 100 bytes as fast as they come, beside messages of the same length."""
    count = settings.amount(20_000 if settings.quick else 100_000, 100)
    async with (
        open_host(default_launcher()) as running,
        running.processes.open("calls_blocking.py", heartbeat_timeout=math.inf) as blocking,
        running.processes.open("calls_async.py", heartbeat_timeout=math.inf) as asynchronous,
        open_partner(running, "flood_blocking.py") as partner,
        Race("items/s", settings.rounds(25, 10), warm_up=1) as race,
    ):
        race.add(Role.OURS, STREAM_BLOCKING, functools.partial(_read, blocking, count, 16))
        race.add(Role.OURS, STREAM_ASYNC, functools.partial(_read, asynchronous, count, 16))
        race.add(Role.OURS, STREAM_WIDE_BLOCKING, functools.partial(_read, blocking, count, 1024))
        race.add(Role.OURS, STREAM_WIDE_ASYNC, functools.partial(_read, asynchronous, count, 1024))
        race.add(Role.OURS, RECEIVE_MANY, functools.partial(flood, partner, count, take_batches))
        measured = await race.run()
    measured.add_better(STREAM, STREAM_BLOCKING, STREAM_ASYNC)
    measured.add_better(STREAM_WIDE, STREAM_WIDE_BLOCKING, STREAM_WIDE_ASYNC)
    return measured


async def large_array(settings: Settings) -> Measurement:
    """Send 100 MB of numbers to a process and back, as a NumPy array."""
    numpy = installed("numpy", "numpy")
    array = numpy.arange(100_000_000 // 8, dtype=float)
    async with (
        spindle.open_function_pool(size=1) as pool,
        Race("ms", settings.rounds(20, 5), warm_up=1) as race,
    ):
        race.add(Role.OURS, FUNCTIONS, functools.partial(_there_and_back, pool.run_sync, array))
        await race.enter(Role.PEER, call_peers.CONNECTION, functools.partial(call_peers.connection, array))
        in_trio = functools.partial(call_peers.trio_parallel_array, array=array)
        await race.enter(Role.PEER, call_peers.TRIO_PARALLEL, call_peers.trio_parallel_opening(in_trio))
        return await race.run()


async def _there_and_back(run_sync: Callable[..., Awaitable[object]], array: object) -> float:
    began = perf_counter()
    await run_sync(peer_targets.echo, array)
    return (perf_counter() - began) * 1e3


@asynccontextmanager
async def open_pool(running: Running, size: int) -> AsyncIterator[spindle.Pool]:
    """Open a pool of the blocking entry, with all its processes warm."""
    async with spindle.open_pool(
        running.worker, "calls_blocking.py", size=size, heartbeat_timeout=math.inf, prestart=True
    ) as pool:
        while pool.statistics().idle < size:  # noqa: ASYNC110  # nothing tells
            await trio.sleep(0.01)
        yield pool


async def _burst(call: Callable[..., Awaitable[object]], count: int) -> float:
    began = perf_counter()
    for _ in range(count):
        await call("echo", TEXT)
    return 1e6 * (perf_counter() - began) / count


def _by_tasks(callers: list[Callable[..., Awaitable[object]]], count: int) -> Sampler:
    """Count the calls a second that so many tasks make together."""

    async def sample() -> float:
        left = count

        async def call(one: Callable[..., Awaitable[object]]) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await one("echo", TEXT)

        began = perf_counter()
        async with trio.open_nursery() as nursery:
            for one in callers:
                nursery.start_soon(call, one)
        return count / (perf_counter() - began)

    return sample


async def _exchange(partners: list[Any], count: int, ahead: int) -> float:
    async def exchange(partner: Any) -> None:
        send, receive = partner.handle.send, partner.messages.receive
        for _ in range(ahead):
            await send(TEXT)
        for _ in range(count // 2 - ahead):
            await receive()
            await send(TEXT)
        for _ in range(ahead):
            await receive()

    began = perf_counter()
    async with trio.open_nursery() as nursery:
        for partner in partners:
            nursery.start_soon(exchange, partner)
    return count / (perf_counter() - began)


async def _map(pool: spindle.Pool, count: int) -> float:
    began = perf_counter()
    async for _ in pool.map("work", [WORK_SECONDS] * count):
        pass
    return count / (perf_counter() - began)


async def _hang(pool: spindle.Pool) -> float:
    await pool.call("echo", "")
    deadline = perf_counter() + HANG_SECONDS
    try:
        await pool.call("hang", timeout=HANG_SECONDS)
    except spindle.CallTimeoutError:
        await pool.call("echo", "")
    return 1000 * (perf_counter() - deadline)


async def _read(handle: spindle.ProcessHandle, count: int, window: int) -> float:
    began = perf_counter()
    async with handle.stream("items", count, window=window) as items:
        left = count
        while left:
            left -= len(await items.receive_many())
    return count / (perf_counter() - began)
