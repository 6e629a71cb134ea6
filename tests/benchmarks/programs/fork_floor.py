"""Forks, and nothing else: the floor under a fork server that has loaded the same modules.

    python fork_floor.py DESCRIPTOR [MODULE ...]

It answers commands on a socket: `fork` and `trio` fork a child, which says `r` itself, from a Trio run or without one;
`end` kills and reaps it; `kill N` forks N children, and says how many milliseconds it took to kill and reap them.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
from time import perf_counter


def serve(lane: socket.socket) -> None:
    pids: list[int] = []
    while command := lane.recv(64):
        match command.split():
            case [b"fork"]:
                pids.append(fork(lane.fileno()))
            case [b"trio"]:
                pids.append(fork(lane.fileno(), with_trio=True))
            case [b"end"]:
                end(pids)
                lane.sendall(b"e")
            case [b"kill", count]:
                lane.sendall(b"%f" % time_of_killing(int(count)))


def fork(lane: int, *, with_trio: bool = False) -> int:
    """Fork a child in a session of its own that says `r` and then waits to be killed."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    if with_trio:
        import trio

        async def report() -> None:
            os.write(lane, b"r")
            await trio.sleep_forever()

        trio.run(report)
    os.write(lane, b"r")
    signal.pause()
    os._exit(1)


def time_of_killing(count: int) -> float:
    read, write = os.pipe()
    pids = [fork(write) for _ in range(count)]
    reported = 0
    while reported < count:
        reported += len(os.read(read, count))
    os.close(read)
    os.close(write)
    began = perf_counter()
    end(pids)
    return 1000 * (perf_counter() - began)


def end(pids: list[int]) -> None:
    for pid in pids:
        os.killpg(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)
    pids.clear()


if __name__ == "__main__":
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as socket_to_host:
        socket_to_host.sendall(b"s")
        serve(socket_to_host)
