"""Rows about JavaScript entries, next to Node's own `child_process.fork` and its JSON channel, used from Python."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter

import attrs
import trio

from bench import peers
from bench.hosts import PROGRAMS, default_launcher, node_launcher, open_host, spawn_sampler
from bench.instruments import kept_affinity, on_one_core, on_two_cores
from bench.measuring import Measurement, NotHereError, Race, Role, Sampler, Settings
from bench.messages import (
    BURST,
    ON_ONE_CORE,
    TEXT,
    flood,
    open_partner,
    placed,
    round_trip,
    take_batches,
    take_each,
)

SPAWN = "JavaScript entry, default launcher"
SPAWN_LEAN = "JavaScript entry, NodeLauncher"
NODE_FLOOR = "node with an empty module"

ROUND_TRIP = "round trip, JavaScript entry"
CHANNEL_ROUND_TRIP = "node's JSON channel, driven from Trio"
CHANNEL_ROUND_TRIP_TASK = "node's JSON channel, driven from Trio, read by a task"
CHANNEL_ROUND_TRIP_BLOCKING = "node's JSON channel, driven by a thread that blocks"

BATCHES = "receive_many, JavaScript entry"
EACH = "async for, JavaScript entry"
CHANNEL_RATE = "node's JSON channel, read in Trio"
CHANNEL_RATE_BLOCKING = "node's JSON channel, read by a thread that blocks"


async def spawn(settings: Settings) -> Measurement:
    """Spawn one at a time."""
    node = _node()
    async with (
        open_host(default_launcher()) as running,
        open_host(node_launcher()) as lean,
        Race("ms", settings.rounds(60, 20)) as race,
    ):
        race.add(Role.OURS, SPAWN, spawn_sampler(running.processes, "idle.js"))
        race.add(Role.OURS, SPAWN_LEAN, spawn_sampler(lean.processes, "idle.js"))
        await race.enter(Role.PEER, peers.NODE_FORK, peers.node_fork)
        race.add(Role.FLOOR, NODE_FLOOR, functools.partial(_empty_module, node))
        return await race.run()


async def round_trips(settings: Settings) -> Measurement:
    """Send 100 bytes and wait for their return, with the two ends on a core each, and on one."""
    count = settings.amount(BURST, 5)
    async with (
        open_host(default_launcher()) as running,
        open_partner(running, "echo.js") as partner,
        _channel() as in_trio,
        _channel() as in_task,
        _channel() as blocking,
        in_task.read_by_a_task() as ask_task,
        Race("µs", settings.rounds(200, 60), warm_up=5) as race,
    ):
        race.open_sync(kept_affinity())
        contenders: list[tuple[Role, str, int | None, Sampler]] = [
            (Role.OURS, ROUND_TRIP, partner.handle.pid, functools.partial(round_trip, partner, count)),
            (Role.PEER, CHANNEL_ROUND_TRIP, in_trio.pid, functools.partial(in_trio.round_trip, count)),
            (Role.PEER, CHANNEL_ROUND_TRIP_TASK, in_task.pid, functools.partial(ask_task, count)),
            (Role.PEER, CHANNEL_ROUND_TRIP_BLOCKING, blocking.pid, functools.partial(blocking.block_round_trip, count)),
        ]
        for suffix, place in (("", on_two_cores), (ON_ONE_CORE, on_one_core)):
            for role, label, pid, sample in contenders:
                race.add(role, label + suffix, functools.partial(placed, place, pid, sample))
        return await race.run()


async def child_to_host(settings: Settings) -> Measurement:
    """Receive from an entry that sends as fast as it can."""
    count = settings.amount(40_000 if settings.quick else 100_000, 100)
    async with (
        open_host(default_launcher()) as running,
        open_partner(running, "flood.js") as partner,
        _channel() as in_trio,
        _channel() as blocking,
        Race("messages/s", settings.rounds(25, 10), warm_up=1) as race,
    ):
        race.add(Role.OURS, BATCHES, functools.partial(flood, partner, count, take_batches))
        race.add(Role.OURS, EACH, functools.partial(flood, partner, count, take_each))
        race.add(Role.PEER, CHANNEL_RATE, functools.partial(in_trio.flood, count))
        race.add(Role.PEER, CHANNEL_RATE_BLOCKING, functools.partial(blocking.block_flood, count))
        await race.enter(Role.PEER, peers.NODE_IPC, functools.partial(peers.node_ipc, count))
        return await race.run()


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        raise NotHereError("node is not on the PATH")
    return node


async def _empty_module(node: str) -> float:
    return _time_empty_module(node)


def _time_empty_module(node: str) -> float:
    began = perf_counter()
    subprocess.run([node, PROGRAMS / "empty.mjs"], stdin=subprocess.DEVNULL, check=True)
    return 1000 * (perf_counter() - began)


@attrs.define
class _Channel:
    """Node's own channel: a JSON value a line, over the socket that `NODE_CHANNEL_FD` names."""

    lane: socket.socket
    stream: trio.SocketStream
    pid: int
    rest: bytes = b""

    async def round_trip(self, count: int) -> float:
        began = perf_counter()
        for _ in range(count):
            await self.stream.send_all(json.dumps(TEXT).encode() + b"\n")
            await self._lines(1)
        return 1e6 * (perf_counter() - began) / count

    @asynccontextmanager
    async def read_by_a_task(self) -> AsyncIterator[Callable[[int], Awaitable[float]]]:
        """Read in a task of its own: a program needs that to hear of messages and of the end at any time."""
        send_channel, receive_channel = trio.open_memory_channel[None](math.inf)

        async def read() -> None:
            while True:
                for _ in range(self._take(await self.stream.receive_some(65536))):
                    send_channel.send_nowait(None)

        async def sample(count: int) -> float:
            began = perf_counter()
            for _ in range(count):
                await self.stream.send_all(json.dumps(TEXT).encode() + b"\n")
                await receive_channel.receive()
            return 1e6 * (perf_counter() - began) / count

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            yield sample
            nursery.cancel_scope.cancel()

    async def flood(self, count: int) -> float:
        began = perf_counter()
        await self.stream.send_all(b"%d\n" % count)
        await self._lines(count)
        return count / (perf_counter() - began)

    async def block_round_trip(self, count: int) -> float:
        return self._block(lambda: self._rounds(count))

    async def block_flood(self, count: int) -> float:
        def ask() -> float:
            began = perf_counter()
            self.lane.sendall(b"%d\n" % count)
            self._block_lines(count)
            return count / (perf_counter() - began)

        return self._block(ask)

    def _block(self, ask: Callable[[], float]) -> float:
        self.lane.setblocking(True)
        try:
            return ask()
        finally:
            self.lane.setblocking(False)

    def _rounds(self, count: int) -> float:
        began = perf_counter()
        for _ in range(count):
            self.lane.sendall(json.dumps(TEXT).encode() + b"\n")
            self._block_lines(1)
        return 1e6 * (perf_counter() - began) / count

    async def _lines(self, count: int) -> None:
        while count > 0:
            count -= self._take(await self.stream.receive_some(65536))

    def _block_lines(self, count: int) -> None:
        while count > 0:
            count -= self._take(self.lane.recv(65536))

    def _take(self, data: bytes) -> int:
        """Decode the lines that are whole, and return how many there were."""
        assert data, "node has ended"
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            json.loads(line)
        return len(lines)


@asynccontextmanager
async def _channel() -> AsyncIterator[_Channel]:
    here, there = socket.socketpair()
    with here:
        with there:
            process = subprocess.Popen(
                [_node(), PROGRAMS / "node_channel.js"],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "NODE_CHANNEL_FD": str(there.fileno())},
            )
        lane = here.dup()  # the same socket, for blocking use
        channel = _Channel(lane, trio.SocketStream(trio.socket.from_stdlib_socket(here)), process.pid)
        try:
            await channel._lines(1)
            yield channel
        finally:
            process.kill()
            process.wait()
            lane.close()
