"""Floors: the least that the operating system and the interpreter demand, measured with as little code as possible.

All of these block the calling thread. So they have it to themselves while they are measured.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import trio

from bench.hosts import PROGRAMS, exec_launcher, open_host


class ForkFloor:
    """A server that has loaded the same modules as ours, and forks: see ``programs/fork_floor.py``."""

    def __init__(self, lane: socket.socket) -> None:
        self._lane = lane

    async def fork(self) -> float:
        """Time a fork until the child reports, in milliseconds; then kill and reap the child."""
        return self._time_fork(b"fork")

    async def fork_with_trio(self) -> float:
        """Time a fork until a Trio run in the child reports, in milliseconds."""
        return self._time_fork(b"trio")

    async def kill(self, count: int) -> float:
        """Time the kill and the reaping of that many children, in milliseconds."""
        return float(self._ask(b"kill %d" % count))

    def _time_fork(self, command: bytes) -> float:
        began = perf_counter()
        self._ask(command)
        elapsed = perf_counter() - began
        self._ask(b"end")
        return 1000 * elapsed

    def _ask(self, command: bytes) -> bytes:
        self._lane.sendall(command)
        answer = self._lane.recv(64)
        assert answer, "the program behind the floor has died"
        return answer


@asynccontextmanager
async def fork_floor(preload: Iterable[str], level: str) -> AsyncIterator[ForkFloor]:
    """Start the server of the floor, at a level of containment, and wait until it has loaded everything."""
    async with _program("fork_floor.py", level, *preload) as (lane, _):
        assert lane.recv(1) == b"s"
        yield ForkFloor(lane)


@asynccontextmanager
async def socket_echo() -> AsyncIterator[tuple[Callable[[bytes], None], int]]:
    """Start a process that sends back what it gets. Yield a function that sends and awaits the answer, and its pid."""
    async with _program("socket_echo.py") as (lane, pid):

        def echo(body: bytes) -> None:
            lane.sendall(body)
            left = len(body)
            while left:
                left -= len(lane.recv(left))

        yield echo, pid


@asynccontextmanager
async def trio_echo() -> AsyncIterator[tuple[Callable[[bytes], Awaitable[None]], int]]:
    """Do the same through a `trio.SocketStream`: what any Trio program pays."""
    async with _program("socket_echo.py") as (lane, pid):
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(lane))

        async def echo(body: bytes) -> None:
            await stream.send_all(body)
            left = len(body)
            while left:
                left -= len(await stream.receive_some(left))

        yield echo, pid


@asynccontextmanager
async def empty_interpreter() -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """Yield a sampler of an interpreter that does nothing, with the exec launcher's flags, in milliseconds."""
    flags = await launcher_flags()

    async def sample() -> float:
        return _time_interpreter(flags)

    yield sample


async def launcher_flags() -> list[str]:
    """Find the interpreter flags of the exec launcher, from a process that it has started."""
    async with open_host(exec_launcher()) as running:
        handle = await running.processes.spawn("idle_blocking.py")
        return _flags(handle.pid)


def _flags(pid: int | None) -> list[str]:
    words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    flags: list[str] = []
    for word in words[1:]:
        if word in {"-c", "-m"} or os.path.isfile(word):
            break
        flags.append(word)
    return flags


def _time_interpreter(flags: list[str]) -> float:
    began = perf_counter()
    subprocess.run([sys.executable, *flags, "-c", "pass"], stdin=subprocess.DEVNULL, check=True)
    return 1000 * (perf_counter() - began)


@asynccontextmanager
async def _program(name: str, *arguments: str) -> AsyncIterator[tuple[socket.socket, int]]:
    """Run one of the benchmark's programs. Yield a socket to it, whose end also ends it, and its pid."""
    here, there = socket.socketpair()
    with here:
        with there:
            process = subprocess.Popen(
                [sys.executable, "-P", PROGRAMS / name, str(there.fileno()), *arguments],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
            )
        try:
            yield here, process.pid
        finally:
            here.close()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(process.wait)
