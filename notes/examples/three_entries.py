"""A host program: supervise three entries at once and print what happens to each.

    python notes/examples/three_entries.py

One completes with counts, one with a number, and one hangs and is ended by its watchdog. Whatever becomes of them, and
also if this program is interrupted, none outlives the `async with`.
"""

from __future__ import annotations

from pathlib import Path

import trio

import spindle_trio as spindle

HERE = Path(__file__).parent


async def main() -> None:
    async with (
        spindle.open_host(grace_period=2) as host,
        host.open_worker("examples", root=HERE, user_id="ada") as worker,
    ):
        processes = worker.backend_processes
        processes.on_lifecycle(print_event)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, processes, "word_index.py", {"folder": ".."})
            nursery.start_soon(supervise, processes, "primes.py", {"below": 100_000})
            nursery.start_soon(supervise, processes, "wedge.py", None)


async def supervise(processes: spindle.BackendProcesses, entry: str, payload: object) -> None:
    try:
        handle = await processes.spawn(entry, payload=payload, heartbeat_timeout=2)
    except spindle.SpawnError as error:
        print(f"{entry} never became ready: {error}")
        return
    messages = 0
    async for _ in handle.messages():
        messages += 1
    info = await handle.wait_ended()
    print(f"{entry}: {info.state} after {messages} message(s), result {handle.result}")


def print_event(event: spindle.LifecycleEvent) -> None:
    print(f"{event.at:%H:%M:%S.%f}  {event.entry:<14}  {event.previous_state or '-'} -> {event.state}")


if __name__ == "__main__":
    trio.run(main)
