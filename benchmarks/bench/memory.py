"""The row about memory: the unique set size (USS) of an idle child."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext

import trio

import peer_targets
from bench import peers
from bench.hosts import Running, default_launcher, exec_launcher, lean_launcher, open_host
from bench.instruments import ancestors, unique_set_size
from bench.measuring import Measurement, Role, Settings

LEAN_BLOCKING = "blocking entry, lean server"
DEFAULT_BLOCKING = "blocking entry, default server"
DEFAULT_ASYNC = "async entry, default server"
EXEC_BLOCKING = "blocking entry, exec launcher"

IDLE_SECONDS = 1.0
"""How long a child has been idle when it is measured."""


async def idle_children(settings: Settings) -> Measurement:
    """Start some children of each kind at once, and measure each; sizes need no turns."""
    count = settings.rounds(30, 10)
    measured = Measurement()
    async with AsyncExitStack() as stack:
        lean = await stack.enter_async_context(open_host(lean_launcher()))
        default = await stack.enter_async_context(open_host(default_launcher(), max_processes=2 * count))
        fresh = await stack.enter_async_context(open_host(exec_launcher()))
        pids = {
            LEAN_BLOCKING: await _spawn(lean, "idle_blocking.py", count),
            DEFAULT_BLOCKING: await _spawn(default, "idle_blocking.py", count),
            DEFAULT_ASYNC: await _spawn(default, "idle.py", count),
            EXEC_BLOCKING: await _spawn(fresh, "idle_blocking.py", min(count, 5)),
        }
        theirs = {
            peers.MP_FORKSERVER: _start(stack, peers.forkserver_context(), peer_targets.say_ready, count),
            peers.MP_FORKSERVER_TRIO: _start(
                stack, peers.forkserver_context(), peer_targets.say_ready_under_trio, count
            ),
            peers.MP_SPAWN: _start(stack, multiprocessing.get_context("spawn"), peer_targets.say_ready, min(count, 5)),
        }
        await trio.sleep(IDLE_SECONDS)
        for label, ours in pids.items():
            measured.add(label, Role.OURS, "MiB", [unique_set_size(pid) for pid in ours])
            others = ", ".join(f"{unique_set_size(pid):.1f} MiB (pid {pid})" for pid in ancestors(ours[0]))
            measured.notes.append(f"{label}: processes between the host and a child: {others or 'none'}")
        for label, pids_of_peer in theirs.items():
            measured.add(label, Role.PEER, "MiB", [unique_set_size(pid) for pid in pids_of_peer])
    return measured


async def _spawn(running: Running, entry: str, count: int) -> Sequence[int | None]:
    return [(await running.processes.spawn(entry)).pid for _ in range(count)]


def _start(
    stack: AsyncExitStack,
    context: ForkServerContext | SpawnContext,
    target: Callable[[Connection], None],
    count: int,
) -> Sequence[int | None]:
    """Start idle processes of multiprocessing, which are killed when the stack unwinds."""
    pids = []
    for _ in range(count):
        here, there = context.Pipe()
        process = context.Process(target=target, args=(there,), daemon=True)
        process.start()
        there.close()
        here.recv_bytes()
        stack.callback(here.close)
        stack.callback(process.join)
        stack.callback(process.kill)
        pids.append(process.pid)
    return pids
