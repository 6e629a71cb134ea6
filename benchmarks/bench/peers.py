"""Peers: what a user would pick instead, set up to do as little as possible. Each opens and yields a sampler.

Blocking calls run on Trio's thread on purpose: they then have the program to themselves, as in a program without Trio.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from time import perf_counter
from types import ModuleType

import trio

import peer_targets
from bench.hosts import PROGRAMS, default_preload
from bench.measuring import NotHereError, Sampler

TRIO_PARALLEL_COLD = "trio-parallel, cold"
TRIO_PARALLEL_WARM = "trio-parallel, warm call"
ANYIO = "anyio to_process, cold"
MP_SPAWN = "multiprocessing spawn"
MP_FORKSERVER = "multiprocessing forkserver, same preload"
MP_FORKSERVER_TRIO = "multiprocessing forkserver, same preload, running Trio"
MP_CONNECTION = "multiprocessing Connection"
NODE_FORK = "node child_process.fork"
NODE_IPC = "node IPC"


@asynccontextmanager
async def trio_parallel_cold() -> AsyncIterator[Sampler]:
    """Time the first call in a fresh worker, in milliseconds."""
    trio_parallel = installed("trio_parallel", "trio-parallel")

    async def sample() -> float:
        async with trio_parallel.open_worker_context() as workers:
            began = perf_counter()
            await workers.run_sync(peer_targets.do_nothing)
            return 1000 * (perf_counter() - began)

    yield sample


@asynccontextmanager
async def trio_parallel_warm(text: str, calls: int, place: Callable[[int], None]) -> AsyncIterator[Sampler]:
    """Time a call in an existing worker, in microseconds: the mean of a burst. `place` pins the worker."""
    trio_parallel = installed("trio_parallel", "trio-parallel")
    async with trio_parallel.open_worker_context() as workers:
        pid = await workers.run_sync(os.getpid)

        async def sample() -> float:
            place(pid)
            began = perf_counter()
            for _ in range(calls):
                await workers.run_sync(peer_targets.echo, text)
            return 1e6 * (perf_counter() - began) / calls

        yield sample


@asynccontextmanager
async def anyio_cold() -> AsyncIterator[Sampler]:
    """Time the first call in a fresh worker, in milliseconds."""
    to_process = installed("anyio.to_process", "anyio")

    async def call() -> float:
        began = perf_counter()
        await to_process.run_sync(peer_targets.do_nothing)
        return 1000 * (perf_counter() - began)

    async def sample() -> float:
        # Workers are kept until the end of the run that they were started in: so each sample has a run of its own.
        return await trio.to_thread.run_sync(trio.run, call)

    yield sample


@asynccontextmanager
async def multiprocessing_spawn() -> AsyncIterator[Sampler]:
    """Time the start of a process until it reports, in milliseconds."""
    yield _start_sampler(multiprocessing.get_context("spawn"))


@asynccontextmanager
async def multiprocessing_forkserver() -> AsyncIterator[Sampler]:
    """Time the same from a server with the preload of ours."""
    yield _start_sampler(forkserver_context())


@asynccontextmanager
async def multiprocessing_connection(count: int) -> AsyncIterator[Sampler]:
    """Count messages of 100 bytes from a child, a second."""
    with piped(peer_targets.flood) as connection:

        async def sample() -> float:
            began = perf_counter()
            connection.send(count)
            for _ in range(count):
                connection.recv()
            return count / (perf_counter() - began)

        yield sample


@contextmanager
def piped(target: Callable[[Connection], None]) -> Iterator[Connection]:
    """Run a function in a process with the other end of a connection, and end it with the block."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        process.kill()
        process.join()
        here.close()


@asynccontextmanager
async def node_fork() -> AsyncIterator[Sampler]:
    """Time a fork until the child's first message, in milliseconds, measured in Node.js."""
    async with _node() as ask:

        async def sample() -> float:
            return ask("spawn")

        yield sample


@asynccontextmanager
async def node_ipc(count: int) -> AsyncIterator[Sampler]:
    """Count messages of 100 bytes from a child, a second, measured in Node.js."""
    async with _node() as ask:

        async def sample() -> float:
            return ask(f"flood {count}")

        yield sample


def installed(module: str, package: str) -> ModuleType:
    """Import a peer.

    Raises:
        NotHereError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotHereError(f"not installed: pip install {package}") from error


def forkserver_context() -> ForkServerContext:
    """Return the context of a fork server with the same preload as ours."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(default_preload())
    return context


def _start_sampler(context: SpawnContext | ForkServerContext) -> Callable[[], Awaitable[float]]:
    async def sample() -> float:
        began = perf_counter()
        here, there = context.Pipe()
        process = context.Process(target=peer_targets.say_ready, args=(there,), daemon=True)
        process.start()
        here.recv_bytes()
        elapsed = perf_counter() - began
        process.kill()
        process.join()
        here.close()
        there.close()
        return 1000 * elapsed

    return sample


@asynccontextmanager
async def _node() -> AsyncIterator[Callable[[str], float]]:
    node = shutil.which("node")
    if node is None:
        raise NotHereError("node is not on the PATH")
    with subprocess.Popen(
        [node, PROGRAMS / "node_parent.js"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        commands, answers = process.stdin, process.stdout
        assert commands is not None
        assert answers is not None

        def ask(command: str) -> float:
            commands.write(command + "\n")
            commands.flush()
            return float(answers.readline())

        try:
            yield ask
        finally:
            process.kill()
