"""Checks of the life of a launcher's processes. Each is a function whose docstring is the promise."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import trio

from spindle_trio._errors import EntryError
from spindle_trio.abc import ExitStatus, LaunchedProcess
from spindle_trio.testing._belongings import expect_belongings, settled_belongings
from spindle_trio.testing._launch_bench import (
    CANCELLATIONS,
    Bench,
    Subject,
    cancel_after,
    expect_nowait,
    read_to_the_end,
)


async def resolve_refuses(bench: Bench) -> None:  # noqa: ASYNC124  # one of many, which are async
    """`resolve` accepts the entry, and refuses paths that are absolute, climb, or lead nowhere, by `EntryError`."""
    resolved = bench.launcher.resolve(bench.entry, bench.root)
    assert resolved.entry == bench.entry, f"{bench.entry!r} was resolved as {resolved.entry!r}"
    suffix = Path(bench.entry).suffix
    for wrong in (str(bench.root / bench.entry), f"../{bench.root.name}/{bench.entry}", "", f"not-there{suffix}"):
        try:
            bench.launcher.resolve(wrong, bench.root)
        except EntryError:
            continue
        raise AssertionError(f"it accepted {wrong!r}")


async def refuses_commands_that_are_not_there(bench: Bench) -> None:  # noqa: ASYNC124  # as above
    """`resolve_command` refuses a program that is not there, or any, by `EntryError`."""
    from spindle_trio._model._command import Command  # most tests have none

    for program in ("no-such-program-anywhere", "./not-there"):
        try:
            bench.launcher.resolve_command(Command([program]), bench.root, {"PATH": "/usr/bin:/bin"})
        except EntryError:
            continue
        raise AssertionError(f"it accepted the program {program!r}")


async def launches(bench: Bench) -> None:
    """A launched process is alive, reads its first frame, and says that it is ready."""
    async with bench.launched("echo") as subject:
        assert not subject.process.has_exited(), "has_exited() is true of a live process"
        await subject.expect_ready()
        assert not subject.process.has_exited(), "has_exited() is true of a live process"
        assert isinstance(subject.process.stderr_tail(), str), "stderr_tail() is not a str"
        assert subject.process.output_dropped() == 0, "output_dropped() is not 0 where nothing was written"
        used = subject.process.usage()
        assert used is None or used.memory is None or used.memory > 0, f"usage() is {used!r}"


async def shows_heartbeats(bench: Bench) -> None:
    """`last_heartbeat` is -inf before the first, moves with each, and is never in the future."""
    async with bench.block() as process:
        assert process.last_heartbeat() == -math.inf, f"{process.last_heartbeat()} before the first frame"
        launched_at = trio.current_time()
        bench.begin(process, "beat")
        subject = Subject(process)
        await subject.expect_ready()
        first = process.last_heartbeat()
        assert launched_at - 0.01 <= first <= trio.current_time(), f"after ready it was {first}, which is not then"
        await trio.sleep(0.05)
        # A time that travels as an age is converted at each look, and jitters by as much as that takes.
        assert abs(process.last_heartbeat() - first) < 0.01, "it moved without a heartbeat"
        await subject.send(1)
        await subject.messages(1)
        second = process.last_heartbeat()
        assert first + 0.03 <= second <= trio.current_time(), f"after a heartbeat it was {second}, and {first} before"


async def kills(bench: Bench) -> None:
    """`kill` ends a process at once, may be called again, also later, and `wait` tells of the same end each time."""
    async with bench.launched("hold") as subject:
        await subject.expect_ready()
        with trio.CancelScope() as scope:
            scope.cancel()
            await subject.process.wait()
        assert scope.cancelled_caught, "wait() was cancelled before it was called, and went on"
        subject.process.kill()
        subject.process.kill()
        status = await subject.process.wait()
        assert status == ExitStatus(signal=signal.SIGKILL), f"a killed process {status}"
        assert subject.process.has_exited(), "has_exited() is false after wait() has returned"
        subject.process.kill()
        again = await subject.process.wait()
        assert again == status, f"first it {status}, and then it {again}"


async def kills_what_never_yields(bench: Bench) -> None:
    """`kill` ends a process that never yields to anything."""
    async with bench.block() as process:
        if process.is_in_this_run:
            return  # in this very program, nothing could be done about it
        bench.begin(process, "block")
        await Subject(process).expect_ready()
        process.kill()
        status = await process.wait()
        assert status == ExitStatus(signal=signal.SIGKILL), f"a killed process {status}"


async def reports_exit_codes(bench: Bench) -> None:
    """`wait` tells with which code a process has exited by itself."""
    for code in (0, 3):
        async with bench.launched("exit", code=code) as subject:
            status = await subject.process.wait()
            assert status == ExitStatus(code=code), f"after sys.exit({code}) it {status}"


async def exits_when_control_ends(bench: Bench) -> None:
    """When the control lane of a process that ends is at its end, its exit is seen within `control_patience`."""
    async with bench.launched("flood", count=1, size=1) as subject:
        process = subject.process
        await read_to_the_end(process.control)
        if not process.has_exited():
            with trio.move_on_after(process.control_patience):
                await process.wait()
        assert process.has_exited(), "control_patience is over, and it has not exited"


async def keeps_processes_apart(bench: Bench) -> None:
    """Two processes live side by side, and the end of one does not touch the other."""
    async with bench.launched("echo") as one, bench.launched("echo") as other:
        await one.expect_ready()
        await other.expect_ready()
        one.process.kill()
        await one.process.wait()
        await other.send("still there")
        assert await other.messages(1) == ["still there"], "the other process did not answer"
        assert not other.process.has_exited(), "the other process was seen to exit"


async def ends_when_the_host_goes(bench: Bench) -> None:
    """A process whose host closes the control lane ends by itself."""
    async with bench.launched("echo") as subject:
        await subject.expect_ready()
        subject.process.control.close()
        expect_nowait(subject.process.control, trio.ClosedResourceError)
        await subject.process.wait()


async def leaves_nothing(bench: Bench) -> None:
    """Leaving the block, by return, error or cancellation, kills and reaps the process, and leaves errors bare."""
    before = await settled_belongings()
    async with bench.launched("hold") as subject:
        await subject.expect_ready()
    assert subject.process.has_exited(), "it was left by return, and the process has not exited"
    _expect_gone(subject.process)

    left: list[LaunchedProcess] = []
    try:
        async with bench.block() as process:
            left.append(process)
            bench.begin(process, "hold")
            raise _BlockError
    except _BlockError:
        pass
    except BaseExceptionGroup as group:
        raise AssertionError(f"an error of the block came out in a group: {group!r}") from group
    else:
        raise AssertionError("an error of the block did not come out of it")
    with trio.CancelScope() as scope:
        async with bench.block() as process:
            left.append(process)
            bench.begin(process, "hold")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught, "the block was cancelled, and the cancellation did not come out of it"
    for process, how in zip(left, ("an error", "a cancellation"), strict=True):
        assert process.has_exited(), f"it was left by {how}, and the process has not exited"
        _expect_gone(process)
    await expect_belongings(before)


async def launch_can_be_cancelled(bench: Bench) -> None:
    """Entering the block can be cancelled at any checkpoint, and then no process and no descriptor is left."""
    before = await settled_belongings()
    for seconds in (0.0, 0.002):
        for number in range(CANCELLATIONS):
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as scope:
                    nursery.start_soon(cancel_after, scope, number, seconds)  # noqa: ASYNC111  # may outlive it
                    async with bench.block() as process:
                        bench.begin(process, "hold")
                        await trio.sleep_forever()
    await expect_belongings(before)


class _BlockError(Exception):
    """Is raised in a block, to see what comes out of it."""


def _expect_gone(process: LaunchedProcess) -> None:
    """Make sure that there is no such process any more, not even a zombie."""
    if process.pid is None:
        return
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return
    raise AssertionError(f"process {process.pid} is still there after its block was left")
