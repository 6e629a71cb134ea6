"""Recorded entries in Python, as `async def`; `translations.py` says in which scenarios.

They wait in `sleep_forever` where a JavaScript entry has returned and its process lives on.
"""

from __future__ import annotations

import sys

import trio

from spindle_trio.child import ProcessContext


async def idle(process: ProcessContext) -> None:
    process.ready()
    await trio.sleep_forever()


async def never_ready(process: ProcessContext) -> None:
    await trio.sleep_forever()


async def cleans_up(process: ProcessContext) -> object:
    process.ready()
    return lambda: print("CLEANUP RAN", file=sys.stderr)


async def cleans_up_on_complete(process: ProcessContext) -> object:
    async def complete_later() -> None:
        await trio.sleep(0.1)
        process.complete()

    async def clean_up() -> None:
        print("CLEANUP RAN", file=sys.stderr)
        await process.send("from cleanup")

    process.ready()
    trio.lowlevel.spawn_system_task(complete_later)
    return clean_up


async def completes_while_stopping(process: ProcessContext) -> None:
    process.ready()
    await process.wait_stop()
    await trio.sleep(0.3)
    process.complete()


async def beats_while_stopping(process: ProcessContext) -> None:
    process.ready()
    await process.wait_stop()
    process.heartbeat()
    await trio.sleep(0.2)
    process.heartbeat()
    process.complete()


async def beats_four_times(process: ProcessContext) -> None:
    process.ready()
    for _ in range(4):
        await trio.sleep(0.2)
        process.heartbeat()
    await trio.sleep_forever()


async def sends_and_never_beats(process: ProcessContext) -> None:
    process.ready()
    while True:
        await trio.sleep(0.2)
        await process.send("x")


async def takes_a_handler_back(process: ProcessContext) -> None:
    process.ready()
    take_back = process.on_stop(lambda notice: print("never"))
    take_back()
    take_back()
    await trio.sleep_forever()


async def beats(process: ProcessContext) -> None:
    process.ready()
    while True:
        await trio.sleep(0.1)
        process.heartbeat()


async def raises_when_stopped(process: ProcessContext) -> None:
    process.ready()
    await process.wait_stop()
    await trio.lowlevel.checkpoint()
    raise RuntimeError("async stop kaboom")


async def raises(process: ProcessContext) -> None:
    await trio.sleep(0.03)
    raise RuntimeError("async kaboom")


async def raises_after_ready(process: ProcessContext) -> None:
    process.ready()
    await trio.sleep(0.05)
    raise RuntimeError("async late kaboom")


async def raises_in_a_task(process: ProcessContext) -> None:
    async def raise_later() -> None:
        await trio.sleep(0.05)
        raise RuntimeError("timer kaboom")

    process.ready()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raise_later)
        nursery.start_soon(trio.sleep_forever)
