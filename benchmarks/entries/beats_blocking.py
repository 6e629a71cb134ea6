"""Times what a message names: `heartbeat`, a bare store to a page, a beat over a socket, or nothing.

A message is a list of what and how often; the answer is the seconds.
"""

from __future__ import annotations

import mmap
import socket
from itertools import repeat
from time import monotonic, perf_counter

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")
    here, there = socket.socketpair()
    process.ready()

    def time_heartbeats(count: int) -> float:
        beat = process.heartbeat
        began = perf_counter()
        for _ in repeat(None, count):
            beat()
        return perf_counter() - began

    def time_stores(count: int) -> float:
        began = perf_counter()
        for _ in repeat(None, count):
            words[0] = monotonic()
        return perf_counter() - began

    def time_socket(count: int) -> float:
        elapsed = 0.0
        while count > 0:
            burst = min(count, 200)
            count -= burst
            began = perf_counter()
            for _ in repeat(None, burst):
                here.send(b"beat")
            elapsed += perf_counter() - began
            there.recv(1 << 16)
        return elapsed

    def time_nothing(count: int) -> float:
        began = perf_counter()
        for _ in repeat(None, count):
            pass
        return perf_counter() - began

    what = {"heartbeat": time_heartbeats, "store": time_stores, "socket": time_socket, "nothing": time_nothing}
    while True:
        name, count = process.receive()
        process.send(what[name](count))
