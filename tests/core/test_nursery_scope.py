"""A nursery around a block of the user's: the block's error bare, cancellation that waits, and Ctrl-C that does not."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import pytest
import trio
import trio.testing

from spindle_trio._nursery_scope import NurseryScope


class Block:
    """A block as the host's: its tasks end when they are asked to, after some seconds, or at once when killed."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.asked, self.killed, self.done = trio.Event(), trio.Event(), trio.Event()
        self.kills = 0
        self.while_ending: Callable[[], object] | None = None
        self.late: Callable[[], Awaitable[object]] | None = None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        self.scope = NurseryScope()
        await self.scope.open()
        self.scope.nursery.start_soon(self._run)
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.asked.set()
        await self.scope.close(error, ended=self.done.wait, kill=self.kill)

    def kill(self) -> None:
        self.kills += 1
        self.killed.set()

    async def _run(self) -> None:
        with trio.CancelScope(shield=True):
            await self.asked.wait()
            with trio.move_on_after(self.seconds):
                if self.while_ending is not None:
                    self.while_ending()
                await self.killed.wait()
        self.done.set()
        if self.late is not None:
            await self.late()


@trio.lowlevel.enable_ki_protection
def interrupt() -> None:
    """Press Ctrl-C. It does not land here, but in the main task."""
    signal.raise_signal(signal.SIGINT)


async def press_twice_with_time_between() -> None:
    for _ in range(2):
        await trio.testing.wait_all_tasks_blocked()
        interrupt()


def run(main: Callable[[], Awaitable[object]]) -> float:
    """Run in virtual time, and return the seconds that it took; `KeyboardInterrupt` reaches the caller."""
    took = -1.0

    async def timed() -> None:
        nonlocal took
        begin = trio.current_time()
        try:
            await main()
        finally:
            took = trio.current_time() - begin

    try:
        trio.run(timed, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as error:
        error.took = took  # type: ignore[attr-defined]  # for the test to see
        raise
    return took


def test_a_block_that_returns_waits_for_its_tasks() -> None:
    async def main() -> None:
        async with Block(5):
            pass

    assert run(main) == 5


@pytest.mark.parametrize("error", [ValueError("bare"), ExceptionGroup("own", [KeyError()]), SystemExit(3)])
def test_a_blocks_error_leaves_bare_and_after_the_tasks(error: BaseException) -> None:
    async def main() -> None:
        block = Block(5)
        try:
            async with block:
                raise error
        finally:
            assert block.done.is_set()

    with pytest.raises(type(error)) as caught:
        run(main)
    assert caught.value is error
    assert caught.value.took == 5  # type: ignore[attr-defined]  # set by `run`


def test_cancellation_waits_for_the_tasks_and_goes_on_then() -> None:
    async def main() -> None:
        with trio.move_on_after(1) as scope:
            async with Block(5) as block:
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert block.done.is_set()

    assert run(main) == 6


def test_a_cancellation_that_comes_while_it_is_left_does_not_shorten_it() -> None:
    async def main() -> None:
        with trio.move_on_after(1):
            async with Block(5) as block:
                pass
        assert block.done.is_set()
        assert block.kills == 0

    assert run(main) == 5


def test_a_bug_in_a_task_comes_out_as_a_group() -> None:
    async def main() -> None:
        async with Block(5) as block:

            async def fail() -> None:
                raise LookupError

            block.late = fail

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert caught.group_contains(LookupError)


def test_the_first_ctrl_c_while_it_is_left_is_raised_at_the_end() -> None:
    async def main() -> None:
        block = Block(5)
        block.while_ending = interrupt
        async with block:
            pass

    with pytest.raises(KeyboardInterrupt) as caught:
        run(main)
    assert caught.value.took == 5  # type: ignore[attr-defined]  # set by `run`


def test_the_second_ctrl_c_while_it_is_left_kills() -> None:
    block = Block(5)

    async def main() -> None:
        async with block:
            block.scope.nursery.start_soon(press_twice_with_time_between)

    with pytest.raises(KeyboardInterrupt) as caught:
        run(main)
    assert caught.value.took == 0  # type: ignore[attr-defined]  # set by `run`
    assert block.kills == 1


@pytest.mark.parametrize("in_a_group", [False, True])
def test_a_ctrl_c_that_left_the_block_counts_as_the_first(in_a_group: bool) -> None:
    """Then one more kills, and what comes out is the one that the block was left by."""
    block = Block(5)
    block.while_ending = interrupt
    error = (
        BaseExceptionGroup("", [BaseExceptionGroup("", [KeyboardInterrupt()])]) if in_a_group else KeyboardInterrupt()
    )

    async def main() -> None:
        async with block:
            raise error

    with pytest.raises(type(error)) as caught:
        run(main)
    assert caught.value is error
    assert caught.value.took == 0  # type: ignore[attr-defined]  # set by `run`
    assert block.kills == 1


def test_a_ctrl_c_after_an_error_is_not_lost_and_shows_the_error() -> None:
    block = Block(5)
    block.while_ending = interrupt

    async def main() -> None:
        async with block:
            raise ValueError

    with pytest.raises(KeyboardInterrupt) as caught:
        run(main)
    assert isinstance(caught.value.__context__, ValueError)
    assert block.kills == 0


@pytest.mark.parametrize("was_interrupted", [False, True])
def test_a_ctrl_c_that_arrives_while_the_nursery_closes_is_bare_too(was_interrupted: bool) -> None:
    """The nursery would put it into a group, and code that catches `KeyboardInterrupt` would miss it."""
    block = Block()
    own = KeyboardInterrupt()

    async def main() -> None:
        async def late() -> None:
            await trio.testing.wait_all_tasks_blocked()
            interrupt()
            with trio.CancelScope(shield=True):
                await trio.sleep(1)

        block.late = late
        async with block:
            if was_interrupted:
                raise own

    with pytest.raises(KeyboardInterrupt) as caught:
        run(main)
    assert (caught.value is own) is was_interrupted


def test_a_bug_is_not_hidden_by_a_ctrl_c() -> None:
    block = Block()

    async def main() -> None:
        async def late() -> None:
            await trio.testing.wait_all_tasks_blocked()
            interrupt()
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            raise LookupError

        block.late = late
        async with block:
            pass

    with pytest.raises(BaseExceptionGroup) as caught:
        run(main)
    assert caught.group_contains(LookupError)


def test_a_scope_has_no_nursery_before_it_is_opened() -> None:
    async def main() -> None:
        with pytest.raises(AssertionError, match="opened"):
            _ = NurseryScope().nursery

    run(main)


def test_a_task_that_crashes_does_not_shorten_the_others_end() -> None:
    block = Block(5)

    async def fail() -> None:
        raise LookupError

    async def main() -> None:
        async with block:
            block.scope.nursery.start_soon(fail)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert caught.group_contains(LookupError)
    assert block.done.is_set()
    assert caught.value.took == 5  # type: ignore[attr-defined]  # set by `run`
