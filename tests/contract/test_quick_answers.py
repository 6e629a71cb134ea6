"""Exchanges that are quick enough for both sides to look again before they sleep. On real processes only."""

from __future__ import annotations

import pytest
import trio

from spindle_trio import ProcessState

BLOCKING = """
    def run(process):
        process.ready()
        while True:
            process.send(process.receive())
"""
ASYNC = """
    async def run(process):
        process.ready()
        async for payload in process.messages():
            await process.send(payload)
"""


@pytest.fixture(params=["blocking", "async"])
def echo(request: pytest.FixtureRequest, real_world) -> str:
    return real_world.blocking_entry(BLOCKING) if request.param == "blocking" else real_world.entry(ASYNC)


async def test_each_answer_comes_once_and_in_order_however_often_the_wait_for_it_is_given_up(real_world, echo) -> None:
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(echo)
        messages = handle.messages()
        answers = []
        for number in range(300):
            await handle.send(number)
            with trio.move_on_after(0.00002 * (number % 7)):
                answers.append(await messages.receive())
        while len(answers) < 300:
            answers.append(await messages.receive())
        assert answers == list(range(300))


async def test_a_stop_in_the_middle_of_quick_answers_is_heard_at_once(real_world, echo) -> None:
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(echo)
        messages = handle.messages()
        for number in range(100):
            await handle.send(number)
            assert await messages.receive() == number
        began_at = trio.current_time()
        await handle.stop()
        assert handle.state is ProcessState.STOPPED
        real_world.assert_took(began_at, 0)


async def test_who_waits_for_an_answer_lets_all_other_tasks_run(real_world, echo) -> None:
    async with real_world.quiet_worker() as worker, trio.open_nursery() as nursery:
        handle = await worker.backend_processes.spawn(echo)
        messages = handle.messages()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(count)
        for number in range(50):
            await handle.send(number)
            await messages.receive()
        assert turns >= 50
        nursery.cancel_scope.cancel()
