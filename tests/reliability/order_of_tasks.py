"""A test that shows in which order Trio's scheduler has run tasks; collected by name only, by `test_repeat.py`."""

from __future__ import annotations

import pytest
import trio


async def test_the_order_of_tasks_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[int] = []

    async def task(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(task, number)
    with capsys.disabled():
        print("order:", *order)
