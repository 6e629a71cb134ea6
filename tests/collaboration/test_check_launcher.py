"""`check_launcher` in virtual time: it accepts the launcher in memory, and catches those that break a promise each."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from spindle_trio.abc import ExitStatus, FrameLane, LaunchedProcess, LaunchOrder, ResolvedEntry
from spindle_trio.testing import MemoryLauncher, check_entry, check_launcher

Flaw = Callable[[LaunchedProcess], LaunchedProcess]


class Sound(MemoryLauncher):
    """Keeps all promises; each broken launcher changes one thing."""

    def __init__(self) -> None:
        super().__init__({"check_entry.py": check_entry})


class Proxy(LaunchedProcess):
    """A process that passes everything on."""

    control_patience = 0.0

    def __init__(self, inner: LaunchedProcess) -> None:
        self.inner = inner
        self.pid = inner.pid
        self.control = inner.control
        self.messages = inner.messages

    def last_heartbeat(self) -> float:
        return self.inner.last_heartbeat()

    def request_stop(self) -> None:
        self.inner.request_stop()

    def kill(self) -> None:
        self.inner.kill()

    def has_exited(self) -> bool:
        return self.inner.has_exited()

    async def wait(self) -> ExitStatus:
        return await self.inner.wait()


class LaneProxy(FrameLane):
    """A lane that passes everything on."""

    def __init__(self, inner: FrameLane) -> None:
        self.inner = inner

    async def receive(self, max_frames: int) -> list[bytes]:
        return await self.inner.receive(max_frames)

    def receive_nowait(self, max_frames: int) -> list[bytes]:
        return self.inner.receive_nowait(max_frames)

    def send_nowait(self, body: bytes) -> bool:
        return self.inner.send_nowait(body)

    async def send_pending(self, bodies: Sequence[bytes] = ()) -> None:
        await self.inner.send_pending(bodies)

    def close(self) -> None:
        self.inner.close()


def with_process(proxy: type[Proxy]) -> type[Sound]:
    """Make a launcher whose processes are wrapped."""

    class Broken(Sound):
        @asynccontextmanager
        async def launch_wrapped(self, order: LaunchOrder) -> AsyncIterator[LaunchedProcess]:
            async with Sound.launch(self, order) as process:
                yield proxy(process)

        def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
            return self.launch_wrapped(order)

    return Broken


def with_messages(lane: type[LaneProxy]) -> type[Sound]:
    """Make a launcher whose processes have another messages lane."""

    class Wrapped(Proxy):
        def __init__(self, inner: LaunchedProcess) -> None:
            super().__init__(inner)
            self.messages = lane(inner.messages)

    return with_process(Wrapped)


class AcceptsEverything(Sound):
    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        return ResolvedEntry(entry)


class KillsOnce(Proxy):
    was_killed = False

    def kill(self) -> None:
        assert not self.was_killed, "killed twice"
        self.was_killed = True
        super().kill()


class NeverKills(Proxy):
    def kill(self) -> None: ...


class ForgetsItsStatus(Proxy):
    waited = 0

    async def wait(self) -> ExitStatus:
        status = await super().wait()
        self.waited += 1
        return status if self.waited == 1 else ExitStatus()


class LosesExitCodes(Proxy):
    async def wait(self) -> ExitStatus:
        status = await super().wait()
        return status if status.signal else ExitStatus(code=0)


class NeverSeesTheExit(Proxy):
    def has_exited(self) -> bool:
        return False


class BeatsForTheChild(Proxy):
    def last_heartbeat(self) -> float:
        return trio.current_time()


class HearsNoHeartbeat(Proxy):
    def last_heartbeat(self) -> float:
        return -math.inf


class DropsTheRest(Proxy):
    """Closes the lanes together with the exit, and what was in them is lost."""

    async def wait(self) -> ExitStatus:
        status = await super().wait()
        self.control.close()
        self.messages.close()
        return status


class ClosesControlEarly(Proxy):
    """Shows the end of the control lane a while before the exit."""

    was_seen = False

    def has_exited(self) -> bool:
        return self.was_seen

    async def wait(self) -> ExitStatus:
        status = await super().wait()
        if not self.was_seen:
            await trio.sleep(1)
        self.was_seen = True
        return status


class Reorders(LaneProxy):
    async def receive(self, max_frames: int) -> list[bytes]:
        return (await self.inner.receive(max_frames))[::-1]


class ReturnsMoreThanAskedFor(LaneProxy):
    async def receive(self, max_frames: int) -> list[bytes]:
        return await self.inner.receive(max_frames + 5)


class LosesOnCancellation(LaneProxy):
    """Has a frame on its way from the lane to the caller at a checkpoint."""

    async def receive(self, max_frames: int) -> list[bytes]:
        bodies = await self.inner.receive(max_frames)
        await trio.lowlevel.checkpoint()
        return bodies


class IgnoresCancellation(LaneProxy):
    async def receive(self, max_frames: int) -> list[bytes]:
        try:
            return self.inner.receive_nowait(max_frames)
        except trio.WouldBlock:
            return await self.inner.receive(max_frames)


class TakesEverything(LaneProxy):
    """Has a buffer without a bound."""

    def send_nowait(self, body: bytes) -> bool:
        try:
            self.inner.send_nowait(body)
        except trio.WouldBlock:
            pass
        return True


class LetsLongFramesIn(Sound):
    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        import attrs

        limits: Any = attrs.evolve(order.limits, frame_bytes=10**9)
        return super().launch(attrs.evolve(order, limits=limits))


class GroupsErrors(Sound):
    @asynccontextmanager
    async def launch_grouped(self, order: LaunchOrder) -> AsyncIterator[LaunchedProcess]:
        async with trio.open_nursery(), Sound.launch(self, order) as process:
            yield process

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        return self.launch_grouped(order)


class SwallowsErrors(Sound):
    """Has a block that looks as if all had gone well."""

    @asynccontextmanager
    async def launch_quietly(self, order: LaunchOrder) -> AsyncIterator[LaunchedProcess]:
        async with Sound.launch(self, order) as process:
            with suppress(Exception):
                yield process

    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        return self.launch_quietly(order)


class SharesOneProcess(Proxy):
    """A kill that reaches the neighbours too."""

    everybody: list[LaunchedProcess] = []  # noqa: RUF012  # shared on purpose

    def __init__(self, inner: LaunchedProcess) -> None:
        super().__init__(inner)
        self.everybody.append(inner)

    def kill(self) -> None:
        for process in self.everybody:
            process.kill()


async def test_the_launcher_in_memory_keeps_all_promises(autojump_clock: MockClock) -> None:
    await check_launcher(Sound)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "promise"),
    [
        (AcceptsEverything, "`resolve` accepts the entry, and refuses"),
        (with_process(KillsOnce), "`kill` ends a process at once, may be called again"),
        (with_process(NeverKills), "`kill` ends a process at once"),
        (with_process(ForgetsItsStatus), "the same end each time"),
        (with_process(LosesExitCodes), "with which code a process has exited"),
        (with_process(NeverSeesTheExit), "`kill` ends a process at once"),
        (with_process(BeatsForTheChild), "`last_heartbeat` is -inf before the first"),
        (with_process(HearsNoHeartbeat), "`last_heartbeat` is -inf before the first"),
        (with_process(DropsTheRest), "can be read after it"),
        (with_process(ClosesControlEarly), "`control_patience`"),
        (with_process(SharesOneProcess), "the end of one does not touch the other"),
        (with_messages(Reorders), "in order, both ways"),
        (with_messages(ReturnsMoreThanAskedFor), "a cancelled `receive` loses nothing"),
        (with_messages(IgnoresCancellation), "a cancelled `receive` loses nothing"),
        (with_messages(LosesOnCancellation), "a cancelled `receive` loses nothing"),
        (with_messages(TakesEverything), "A process that does not read"),
        (LetsLongFramesIn, "longer than `frame_bytes`"),
        (GroupsErrors, "leaves errors bare"),
        (SwallowsErrors, "leaves errors bare"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
async def test_a_launcher_that_breaks_a_promise_is_caught_and_told_which(
    autojump_clock: MockClock, launcher: type[Sound], promise: str
) -> None:
    with pytest.raises(AssertionError) as caught:
        await check_launcher(launcher)
    assert "breaks a promise of launchers: " in str(caught.value)
    assert promise in str(caught.value)
    SharesOneProcess.everybody.clear()


async def test_a_launcher_is_closed_also_when_it_fails(autojump_clock: MockClock) -> None:
    steps: list[str] = []

    class Noted(AcceptsEverything):
        async def start(self) -> None:
            steps.append("start")

        async def aclose(self) -> None:
            steps.append("aclose")

    with pytest.raises(AssertionError):
        await check_launcher(Noted)
    assert steps == ["start", "aclose"]
