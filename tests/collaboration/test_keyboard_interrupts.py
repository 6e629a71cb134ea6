"""Ctrl-C at each line of the library that a public call enters: the contract's rules 3, 4 and 5 hold afterwards.

A program plays through what a worker can do, in virtual time. It is run once for each line of the library that it comes
to, and gets a SIGINT there. Trio's own handler decides what becomes of that: `KeyboardInterrupt` in this very line, or
at the next checkpoint of the main task.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

import spindle_trio
from spindle_trio import LifecycleEvent, ProcessHandle, ProcessState, connect_worker, open_host
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher
from support.worker_protocol import memory_ends

T = TypeVar("T")

Place = tuple[str, str, int]
"""The outermost function of the library that is running, and the file and line that it has reached."""

HOME = str(Path(spindle_trio.__file__).parent)
ELSEWHERE = tuple(f"{HOME}/{room}/" for room in ("testing", "child"))
"""Plays the processes."""


class Play:
    """One run of the program, and what is seen of it."""

    def __init__(self, *, goes_on: bool, is_far: bool) -> None:
        self.goes_on = goes_on
        self.is_far = is_far
        self.launcher = MemoryLauncher({"echo": self.echo})
        self.events: list[LifecycleEvent] = []
        self.arrived: dict[str, list[object]] = {}
        self.came_back: list[object] = []
        self.sent: list[object] = []
        self.told: set[str] = set()
        self.tasks: set[trio.lowlevel.Task] = set()
        """Those of the processes, which get no Ctrl-C of their host's."""

    async def echo(self, process: ProcessContext) -> None:
        self.tasks.add(trio.lowlevel.current_task())
        arrived = self.arrived[process.process_id] = []

        async def answer() -> None:
            self.tasks.add(trio.lowlevel.current_task())
            async for payload in process.messages():
                arrived.append(payload)
                await process.send(payload)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            process.ready()
            process.beat_while_running()
            await process.wait_stop()
            self.told.add(process.process_id)
            await trio.sleep(0.1)  # virtual; what was sent before the stop is still to be read
            nursery.cancel_scope.cancel()

    async def attempt(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """Await a call, and go on after a Ctrl-C, if that is how this program is."""
        try:
            return await call()
        except KeyboardInterrupt:
            if not self.goes_on:
                raise
            return None

    async def send(self, handle: ProcessHandle, payload: object) -> None:
        await handle.send(payload)
        self.sent.append(payload)

    async def spawn(self, processes: spindle_trio.BackendProcesses) -> ProcessHandle:
        async def again() -> ProcessHandle:
            return await processes.spawn("echo", key="one", replace_existing=True)

        return await self.attempt(again) or await again()

    @asynccontextmanager
    async def open_worker(self, host: spindle_trio.Host) -> AsyncIterator[spindle_trio.Worker]:
        if not self.is_far:
            async with host.open_worker("w", user_id="ada") as worker:
                yield worker
            return
        near, far = memory_ends()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(host.serve_worker, near, "w", user_id="ada"))
            async with connect_worker(far) as worker:
                yield worker

    async def main(self) -> None:
        trio.lowlevel.spawn_system_task(_fail_if_it_hangs)
        async with open_host(self.launcher, grace_period=1) as host, self.open_worker(host) as worker:
            processes = worker.backend_processes
            processes.on_lifecycle(self.events.append)
            first = await self.spawn(processes)
            async with first.messages() as messages:
                for number in range(4):
                    await self.attempt(lambda number=number: self.send(first, number))  # type: ignore[misc]
                first.send_nowait("now")
                self.came_back.append(await messages.receive())
                self.came_back += await messages.receive_many()
            second = await self.spawn(processes)
            await self.attempt(lambda: self.send(second, "to the second"))
            await self.attempt(lambda: second.stop("enough"))
            async with processes.open("echo") as third:
                await self.attempt(lambda: processes.send(third.process_id, "to the third"))
                processes.on_message(lambda _: None)()
                processes.lifecycle_events().close()
                assert await processes.list()
                host.statistics()
                await third.refresh()
                third.statistics()
                await self.attempt(lambda: processes.stop(third.process_id))
            await third.wait_ended()

    def check(self) -> None:
        """Check the rules."""
        assert self.launcher.live_processes == 0
        assert not self.launcher.complaints
        lives: dict[str, list[LifecycleEvent]] = {}
        for event in self.events:
            lives.setdefault(event.process_id, []).append(event)
        for process_id, life in lives.items():
            states = [event.state for event in life]
            assert [event.previous_state for event in life[1:]] == states[:-1], states
            assert not any(state.is_terminal for state in states[:-1]), states
            assert states[-1].is_terminal or self.is_far, states  # who leaves the far end hears no more
            if ProcessState.STOPPING in states and ProcessState.RUNNING in states:
                assert process_id in self.told, "a process that is stopped is told, and has its grace period"
        numbers = [payload for arrived in self.arrived.values() for payload in arrived if isinstance(payload, int)]
        assert numbers == sorted(set(numbers))
        everything = [payload for arrived in self.arrived.values() for payload in arrived]
        if not self.is_far:  # what has left there may be lost with the connection
            assert [payload for payload in self.sent if payload not in everything] == []
        assert self.came_back == [payload for payload in everything if payload in self.came_back]


async def _fail_if_it_hangs() -> None:
    await trio.sleep(1000)  # virtual
    raise AssertionError("the host does not come to its end")


@contextmanager
def tracing(play: Play, see: Callable[[Place], None]) -> Iterator[None]:
    """Call a function at each line of the library that the host's side of a play comes to."""

    def trace_line(frame: FrameType, event: str, _: object) -> Any:
        if event == "line" and not (trio.lowlevel.in_trio_task() and trio.lowlevel.current_task() in play.tasks):
            outermost: FrameType | None = frame
            call = ""
            while outermost is not None:
                code = outermost.f_code
                if code.co_filename.startswith(ELSEWHERE):
                    return trace_line  # what a process does
                if code.co_filename.startswith(HOME):
                    call = code.co_qualname
                outermost = outermost.f_back
            see((call, frame.f_code.co_filename, frame.f_lineno))
        return trace_line

    def trace(frame: FrameType, event: str, _: object) -> Any:
        path = frame.f_code.co_filename
        return trace_line if path.startswith(HOME) and not path.startswith(ELSEWHERE) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def places_of_a_play(*, is_far: bool) -> dict[Place, bool]:
    """The lines of the library that the program reaches, and whether Ctrl-C is held back there."""
    places: dict[Place, bool] = {}
    play = Play(goes_on=False, is_far=is_far)
    with tracing(play, lambda place: places.setdefault(place, trio.lowlevel.currently_ki_protected())):
        trio.run(play.main, clock=trio.testing.MockClock(autojump_threshold=0))
    play.check()
    return places


def interrupt_at(place: Place, *, goes_on: bool, is_far: bool) -> Play:
    """Play the program, with a SIGINT when it comes to a place for the first time."""
    play = Play(goes_on=goes_on, is_far=is_far)
    is_due = True

    def see(seen: Place) -> None:
        nonlocal is_due
        if is_due and seen == place:
            is_due = False
            signal.raise_signal(signal.SIGINT)

    with tracing(play, see):
        try:
            trio.run(play.main, clock=trio.testing.MockClock(autojump_threshold=0))
        except KeyboardInterrupt:
            pass
        except BaseExceptionGroup as group:
            assert group.split(KeyboardInterrupt)[1] is None
    return play


def broken_at(places: Iterable[Place], *, goes_on: bool, is_far: bool) -> dict[str, str]:
    """Interrupt plays at these places, and say which of them broke a rule."""
    broken = {}
    for place in places:
        call, path, line = place
        try:
            interrupt_at(place, goes_on=goes_on, is_far=is_far).check()
        except BaseException as error:  # noqa: ASYNC103  # no Trio runs here any more
            broken[f"{path.removeprefix(HOME)}:{line}, in {call}"] = f"{type(error).__name__}: {error}"[:200]
    return broken


@pytest.mark.quick(2)
@pytest.mark.parametrize("every", [100, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("goes_on", [False, True], ids=["the program leaves", "the program goes on"])
@pytest.mark.parametrize("is_far", [False, True], ids=["near", "at the far end of a channel"])
def test_ctrl_c_at_any_line_of_the_library_breaks_no_rule(is_far: bool, goes_on: bool, every: int) -> None:
    """While it is held back, the outcome does not depend on the line: then a few lines are enough."""
    assert threading.current_thread() is threading.main_thread(), "Trio hears of Ctrl-C in the main thread alone"
    places = places_of_a_play(is_far=is_far)
    chosen = [place for number, place in enumerate(places) if not places[place] or number % every == 0]
    assert broken_at(chosen, goes_on=goes_on, is_far=is_far) == {}


@pytest.mark.parametrize("is_far", [False, True], ids=["near", "at the far end of a channel"])
def test_a_spawn_that_ctrl_c_interrupts_leaves_no_process(is_far: bool) -> None:
    """Even if the program goes on."""

    async def never_ready(process: ProcessContext) -> None:
        await trio.sleep_forever()

    async def late(process: ProcessContext) -> None:
        await trio.sleep(1)
        process.ready()
        await trio.sleep_forever()

    @trio.lowlevel.enable_ki_protection
    async def interrupt() -> None:
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        trio.lowlevel.spawn_system_task(_fail_if_it_hangs)
        play = Play(goes_on=True, is_far=is_far)
        play.launcher = MemoryLauncher({"never": never_ready, "late": late})
        async with (
            open_host(play.launcher, grace_period=1) as host,
            play.open_worker(host) as worker,
            trio.open_nursery() as nursery,
        ):
            for entry in ("never", "late"):
                nursery.start_soon(interrupt)
                with pytest.raises(KeyboardInterrupt):
                    await worker.backend_processes.spawn(entry, startup_timeout=5)
                await trio.sleep(10)  # virtual
                assert play.launcher.live_processes == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
