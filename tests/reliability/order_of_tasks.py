"""Writes down the order in which Trio's scheduler has run tasks; collected only by name, by `test_repeat.py`."""

from __future__ import annotations

import os

import trio


async def test_the_order_of_tasks_is_written_down() -> None:
    order: list[int] = []

    async def task(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(task, number)
    with open(os.environ["SPINDLE_ORDERS"], "a", encoding="utf-8") as orders:  # noqa: ASYNC230  # one line
        print(f"{os.environ['SPINDLE_SCHEDULER_SEED']}:", *order, file=orders)
