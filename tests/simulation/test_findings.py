"""Findings of the simulation, each as small as it gets."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from spindle_trio import CallTimeoutError, ProcessState, StartupCancelledError, StartupTimeoutError, open_host
from spindle_trio._model import CallRequest
from spindle_trio._protocol._call_answers import Failure
from spindle_trio._supervision._call_stream import CallStream
from spindle_trio.testing import MemoryLauncher, ScriptedChild

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from spindle_trio.abc import LaunchedProcess, LaunchOrder

LAUNCH_SECONDS = 3.0


class StubbornLauncher(MemoryLauncher):
    """Its launches take their time, and cannot be called off: as a fork in a thread that has begun."""

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        return self._launch(order)

    @asynccontextmanager
    async def _launch(self, order: LaunchOrder) -> AsyncIterator[LaunchedProcess]:
        with trio.CancelScope(shield=True):
            await trio.sleep(LAUNCH_SECONDS)
        async with super().launch(order) as process:
            yield process


class NumberedLauncher(MemoryLauncher):
    """Its processes look like those of the operating system."""

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        return self._launch(order)

    @asynccontextmanager
    async def _launch(self, order: LaunchOrder) -> AsyncIterator[LaunchedProcess]:
        async with super().launch(order) as process:
            process.pid = 1_000_000
            yield process


class Passes(trio.abc.Instrument):
    """Counts how often the scheduler goes round, and in virtual time lets a host that is busy for ever come through."""

    def __init__(self, clock: MockClock) -> None:
        self.count = 0
        self._clock = clock

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1
        if self.count > 1_000:
            self._clock.jump(LAUNCH_SECONDS)


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_a_launch_that_is_not_called_off_at_once_keeps_nobody_busy(
    autojump_clock: MockClock, is_stopped: bool
) -> None:
    """Once it is late or unwanted, all that can be done has been done: its watch must not look again and again."""
    passes = Passes(autojump_clock)
    refusal = StartupCancelledError if is_stopped else StartupTimeoutError
    launcher = StubbornLauncher({"child": ScriptedChild()})
    async with (
        open_host(launcher, grace_period=0) as host,
        host.open_worker("t", user_id="ada") as worker,
        trio.open_nursery() as nursery,
    ):
        processes = worker.backend_processes
        trio.lowlevel.add_instrument(passes)
        if is_stopped:
            processes.on_lifecycle(lambda event: nursery.start_soon(processes.stop, event.process_id))
        with pytest.raises(refusal):
            await processes.spawn("child", startup_timeout=1)
        await trio.sleep(LAUNCH_SECONDS)
        trio.lowlevel.remove_instrument(passes)
    assert passes.count < 100


async def test_a_heartbeat_that_comes_as_a_frame_does_not_count_while_stopping(autojump_clock: MockClock) -> None:
    """As one in a page: the watchdog ends with `running`, and `last_heartbeat_at` stands still with it."""
    child = ScriptedChild()
    async with (
        open_host(MemoryLauncher({"child": child}), grace_period=4) as host,
        host.open_worker("t", user_id="ada") as worker,
        trio.open_nursery() as nursery,
    ):

        async def play() -> None:
            await child.started()
            child.ready()
            await child.stop_requested()
            await trio.sleep(1)
            child.send_raw_control(b'{"type": "heartbeat"}')
            child.heartbeat()

        nursery.start_soon(play)
        handle = await worker.backend_processes.spawn("child")
        await trio.sleep(1)
        await handle.stop()
        assert handle.info.state is ProcessState.STOPPED
        assert handle.info.last_heartbeat_at == handle.info.ready_at


async def test_a_process_that_is_left_by_cancellation_is_killed_after_the_grace_period(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The rounds that put watchdogs off must not end before the processes: their silence would pass for a stall."""
    child = ScriptedChild()

    async def play() -> None:
        await child.started()
        child.ready()
        await trio.sleep(60)
        if child.is_alive:
            child.exit()

    nursery.start_soon(play)
    begin = trio.current_time()
    with trio.move_on_after(3):
        async with (
            open_host(NumberedLauncher({"child": child}), grace_period=4) as host,
            host.open_worker("t", user_id="ada") as worker,
        ):
            await worker.backend_processes.spawn("child", heartbeat_timeout=4)
            await trio.sleep_forever()
    assert trio.current_time() - begin == 3 + 4
    assert child.was_killed


async def test_a_spawn_in_the_clean_up_of_a_cancelled_block_has_its_startup_deadline(autojump_clock: MockClock) -> None:
    class SlowLauncher(MemoryLauncher):
        @asynccontextmanager
        async def launch(self, order: LaunchOrder) -> AsyncIterator[LaunchedProcess]:
            await trio.sleep(60)
            async with super().launch(order) as process:
                yield process

    with trio.move_on_after(3):
        async with (
            open_host(SlowLauncher({"child": ScriptedChild()})) as host,
            host.open_worker("t", user_id="ada") as worker,
        ):
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    begin = trio.current_time()
                    with pytest.raises(StartupTimeoutError):
                        await worker.backend_processes.spawn("child", startup_timeout=5)
                    assert trio.current_time() - begin == 5


async def test_a_stream_whose_handler_and_reader_see_its_end_at_one_instant_has_timed_out() -> None:
    class Owner:
        def give_up(self, call: CallStream) -> None:
            call.finish(Failure(1, is_cancelled=True))

        def give_credit(self, stream: CallStream, items: int) -> None:
            raise AssertionError("there were no items")

        def error_of(self, call: CallStream, outcome: object) -> CallTimeoutError:
            assert outcome is None, "its time was over"
            return CallTimeoutError("late")

    stream = CallStream(Owner(), CallRequest("index", window=1), deadline=trio.current_time())
    with pytest.raises(CallTimeoutError):
        await stream.receive()
