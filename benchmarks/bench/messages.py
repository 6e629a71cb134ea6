"""Rows about messages: round trips, floods either way, and payloads just under the limit of a frame."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING

import attrs
import trio

import spindle_trio as spindle
from bench import peers
from bench.floors import socket_echo, trio_echo
from bench.hosts import Running, default_launcher, open_host
from bench.instruments import StepTimes, kept_affinity, on_one_core, on_two_cores
from bench.measuring import Measurement, Race, Role, Sampler, Settings

if TYPE_CHECKING:
    from spindle_trio._messages._inbox import MessageChannel

ROUND_TRIP = "round trip, blocking entry"
ROUND_TRIP_ASYNC = "round trip, async entry"
SOCKET_ECHO = "raw socket echo"
TRIO_ECHO = "echo through a trio.SocketStream"
ON_ONE_CORE = ", on one core"

BATCHES_BLOCKING = "receive_many, blocking entry"
BATCHES_ASYNC = "receive_many, async entry"
BATCHES = "receive_many, the better entry"
EACH_BLOCKING = "async for, blocking entry"
EACH_ASYNC = "async for, async entry"
EACH = "async for, the better entry"

SINK_BLOCKING = "read by a blocking entry"
SINK_ASYNC = "read by an async entry"
SINK = "read by the better entry"

TEXT_UP = "text, child to host"
TEXT_DOWN = "text, host to child"
RECORDS_UP = "records, child to host"
RECORDS_DOWN = "records, host to child"
TIMES_UP = "times, JavaScript to host"
LONGEST_STEP = "longest scheduler step, "

TEXT = "x" * 98  # 100 bytes as JSON
BURST = 50
"""Round trips in a sample."""
LARGE_BYTES = 2**20 - 1024


async def round_trips(settings: Settings) -> Measurement:
    """Send 100 bytes and wait for their return; a sample is the mean of a burst.

    The kernel puts two processes that only wait for each other on one core or on two, and an echo takes more than twice
    as long between two. So both ends are pinned: each to a core of its own, as for two processes that work, and in turn
    to the same one, for comparison.
    """
    count = settings.amount(BURST, 5)
    async with (
        open_host(default_launcher()) as running,
        socket_echo() as (echo, echo_pid),
        trio_echo() as (echo_in_trio, trio_echo_pid),
        open_partner(running, "echo.py") as blocking,
        open_partner(running, "echo_async.py") as asynchronous,
        Race("µs", settings.rounds(400, 120), warm_up=5) as race,
    ):
        race.open_sync(kept_affinity())
        for suffix, place in (("", on_two_cores), (ON_ONE_CORE, on_one_core)):
            for label, partner in ((ROUND_TRIP, blocking), (ROUND_TRIP_ASYNC, asynchronous)):
                sample = functools.partial(round_trip, partner, count)
                race.add(Role.OURS, label + suffix, functools.partial(placed, place, partner.handle.pid, sample))
            sample = functools.partial(_raw_round_trip, echo, count)
            race.add(Role.FLOOR, SOCKET_ECHO + suffix, functools.partial(placed, place, echo_pid, sample))
            sample = functools.partial(_trio_round_trip, echo_in_trio, count)
            race.add(Role.FLOOR, TRIO_ECHO + suffix, functools.partial(placed, place, trio_echo_pid, sample))
            opening = functools.partial(peers.trio_parallel_warm, TEXT, count, place)
            await race.enter(Role.PEER, peers.TRIO_PARALLEL_WARM + suffix, opening)
        return await race.run()


async def child_to_host(settings: Settings) -> Measurement:
    """Receive from an entry that sends as fast as it can, in batches and one by one."""
    count = settings.amount(40_000 if settings.quick else 100_000, 100)
    async with (
        open_host(default_launcher()) as running,
        open_partner(running, "flood_blocking.py") as blocking,
        open_partner(running, "flood_async.py") as asynchronous,
        Race("messages/s", settings.rounds(25, 10), warm_up=1) as race,
    ):
        race.add(Role.OURS, BATCHES_BLOCKING, functools.partial(flood, blocking, count, take_batches))
        race.add(Role.OURS, BATCHES_ASYNC, functools.partial(flood, asynchronous, count, take_batches))
        race.add(Role.OURS, EACH_BLOCKING, functools.partial(flood, blocking, count, take_each))
        race.add(Role.OURS, EACH_ASYNC, functools.partial(flood, asynchronous, count, take_each))
        await race.enter(Role.PEER, peers.NODE_IPC, functools.partial(peers.node_ipc, count))
        await race.enter(Role.PEER, peers.MP_CONNECTION, functools.partial(peers.multiprocessing_connection, count))
        measured = await race.run()
    measured.add_better(BATCHES, BATCHES_BLOCKING, BATCHES_ASYNC)
    measured.add_better(EACH, EACH_BLOCKING, EACH_ASYNC)
    return measured


async def host_to_child(settings: Settings) -> Measurement:
    """Send without waiting as long as there is room; a sample ends when the entry says that it has read everything."""
    count = settings.amount(40_000 if settings.quick else 100_000, 100)
    async with (
        open_host(default_launcher()) as running,
        open_partner(running, "sink_blocking.py") as blocking,
        open_partner(running, "sink_async.py") as asynchronous,
        Race("messages/s", settings.rounds(25, 10), warm_up=1) as race,
    ):
        race.add(Role.OURS, SINK_BLOCKING, functools.partial(_pour, blocking, count))
        race.add(Role.OURS, SINK_ASYNC, functools.partial(_pour, asynchronous, count))
        measured = await race.run()
    measured.add_better(SINK, SINK_BLOCKING, SINK_ASYNC)
    return measured


async def large_payloads(settings: Settings) -> Measurement:
    """Pass on payloads just under 1 MiB, a long text, many small records or times, and time each scheduler step."""
    count = settings.amount(20, 2)
    steps: dict[str, list[float]] = {}
    async with (
        open_host(default_launcher()) as running,
        Race("MB/s", settings.rounds(20, 8), warm_up=1) as race,
    ):
        for payload, up, down in ((_text(), TEXT_UP, TEXT_DOWN), (_records(), RECORDS_UP, RECORDS_DOWN)):
            peer = await race.open(open_partner(running, "large.py"))
            await peer.handle.send(payload)
            race.add(Role.OURS, up, _watched(steps, up, functools.partial(_take_large, peer, count)))
            race.add(Role.OURS, down, _watched(steps, down, functools.partial(_send_large, peer, payload, count)))
        if shutil.which("node"):
            peer = await race.open(open_partner(running, "large_times.js"))
            with trio.move_on_after(2):  # an old revision, with which another is compared, may refuse times
                await _take_large(peer, 1)
                race.add(Role.OURS, TIMES_UP, _watched(steps, TIMES_UP, functools.partial(_take_large, peer, count)))
        measured = await race.run()
    for label, longest in steps.items():
        measured.add(LONGEST_STEP + label, Role.OURS, "ms", longest)
    return measured


@attrs.frozen
class Partner:
    """A process and a subscription to its messages."""

    handle: spindle.ProcessHandle
    messages: MessageChannel


@asynccontextmanager
async def open_partner(running: Running, entry: str) -> AsyncIterator[Partner]:
    async with running.processes.open(entry, heartbeat_timeout=float("inf")) as handle:
        yield Partner(handle, handle.messages())


async def placed(place: Callable[[int | None], None], pid: int | None, sample: Sampler) -> float:
    place(pid)
    return await sample()


async def round_trip(partner: Partner, count: int) -> float:
    send, receive = partner.handle.send, partner.messages.receive
    began = perf_counter()
    for _ in range(count):
        await send(TEXT)
        await receive()
    return 1e6 * (perf_counter() - began) / count


async def _raw_round_trip(echo: Callable[[bytes], None], count: int) -> float:
    body = TEXT.encode()
    began = perf_counter()
    for _ in range(count):
        echo(body)
    return 1e6 * (perf_counter() - began) / count


async def _trio_round_trip(echo: Callable[[bytes], Awaitable[None]], count: int) -> float:
    body = TEXT.encode()
    began = perf_counter()
    for _ in range(count):
        await echo(body)
    return 1e6 * (perf_counter() - began) / count


async def flood(partner: Partner, count: int, take: Callable[[MessageChannel, int], Awaitable[None]]) -> float:
    began = perf_counter()
    await partner.handle.send(count)
    await take(partner.messages, count)
    return count / (perf_counter() - began)


async def take_batches(messages: MessageChannel, count: int) -> None:
    while count:
        count -= len(await messages.receive_many())


async def take_each(messages: MessageChannel, count: int) -> None:
    async for _ in messages:
        count -= 1
        if not count:
            return


async def _pour(partner: Partner, count: int) -> float:
    handle = partner.handle
    send_nowait = handle.send_nowait
    began = perf_counter()
    await handle.send(count)
    for _ in range(count):
        try:
            send_nowait(TEXT)
        except trio.WouldBlock:
            await handle.send(TEXT)
    await partner.messages.receive()
    return count / (perf_counter() - began)


async def _take_large(partner: Partner, count: int) -> float:
    began = perf_counter()
    await partner.handle.send(count)
    for _ in range(count):
        await partner.messages.receive()
    return count * LARGE_BYTES / 1e6 / (perf_counter() - began)


async def _send_large(partner: Partner, payload: object, count: int) -> float:
    began = perf_counter()
    for _ in range(count):
        await partner.handle.send(payload)
    await partner.handle.send("end")
    await partner.messages.receive()
    return count * LARGE_BYTES / 1e6 / (perf_counter() - began)


def _watched(steps: dict[str, list[float]], label: str, sample: Sampler) -> Sampler:
    """Note the longest step that the host's scheduler has taken during each sample, in milliseconds."""
    longest = steps.setdefault(label, [])

    async def watched() -> float:
        with StepTimes() as times:
            figure = await sample()
        longest.append(1000 * times.longest)
        return figure

    return watched


def _text() -> str:
    return "x" * (LARGE_BYTES - 2)


def _records() -> list[dict[str, object]]:
    """Make a list of small records that is as long as the text."""
    records: list[dict[str, object]] = []
    left = LARGE_BYTES - 2
    while left > 200:
        number = len(records)
        record = {"id": number, "title": f"document {number:06}, and some more of its title", "score": number / 7}
        left -= len(json.dumps(record, separators=(",", ":"))) + 1
        records.append(record)
    return records
