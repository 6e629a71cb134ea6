"""An extension's backend, in a process of its own: see host.py, which starts it.

It asks for two processes, and what it gets are handles like those of a host of its own. The counter, in Python, gets
lines to count words in, and completes. The matcher, in JavaScript, gets patterns to find in a line; one of them makes
it hang for longer than anybody lives, and the host's watchdog ends it.
"""

from __future__ import annotations

import socket
import sys

import trio

import spindle_trio as spindle

LINES = ["the cat and the dog", "a dog and a bone", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"]
PATTERNS = ["dog", "c.t", "(a+)+$"]
"""The last one tries out all ways to cut a line of the letter a into pieces before it gives up."""


async def main(connection: int, patience: float) -> None:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=connection)))
    async with spindle.connect_worker(spindle.StreamChannel(stream)) as worker:
        processes = worker.backend_processes
        processes.on_lifecycle(tell)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_words, processes, patience)
            nursery.start_soon(match_patterns, processes, patience)


async def count_words(processes: spindle.BackendProcesses, patience: float) -> None:
    """Have words counted, line by line."""
    counter = await processes.spawn("counter.py", key="counter", heartbeat_timeout=patience)
    async with counter.messages() as counts:
        for line in LINES:
            await counter.send({"line": line})
            say(f"counter.py: {line[:20]!r} has {await counts.receive()}")
    await counter.send({"line": None})
    await counter.wait_ended()
    say(f"counter.py: {counter.state} with {counter.result}")


async def match_patterns(processes: spindle.BackendProcesses, patience: float) -> None:
    """Have patterns found, and see the one that takes too long ended."""
    matcher = await processes.spawn("matcher.js", payload={"lines": LINES}, heartbeat_timeout=patience)
    for pattern in PATTERNS:
        await matcher.send({"pattern": pattern})
    async for payload in matcher.messages():  # until the process has ended
        say(f"matcher.js: {payload}")
    info = await matcher.wait_ended()
    say(f"matcher.js: {info.state}, {info.error}")


def tell(event: spindle.LifecycleEvent) -> None:
    say(f"{event.entry}: {event.previous_state or '-'} -> {event.state}")


def say(text: str) -> None:
    print(f"backend: {text}", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), float(sys.argv[2]))
