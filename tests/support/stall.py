"""Hosts that stand still: in this program, whose loop a test holds up, and in one of its own, which a test stops.

A host program serves one worker over its standard streams, so that a test holds an ordinary `Worker` either way. What
it has started is found through `/proc`, from outside: whatever a launcher puts between it and an entry is stopped with
the rest.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from spindle_trio import (
    LifecycleEvent,
    ProcessHandle,
    ProcessMessage,
    ProcessState,
    StreamChannel,
    Worker,
    connect_worker,
    open_host,
)
from spindle_trio.launchers import ForkServerLauncher, PythonLauncher
from support.numbers import number_inside

GUARD_SECONDS = 60
"""How long one test may wait in all before it counts as hanging."""

PROGRAM = """
import sys
import trio
from spindle_trio import StreamChannel, open_host
from spindle_trio.launchers import ForkServerLauncher, PythonLauncher

async def main():
    launcher = ForkServerLauncher(spares=1) if sys.argv[2] == "forked" else PythonLauncher()
    stream = trio.StapledStream(trio.lowlevel.FdStream(1), trio.lowlevel.FdStream(0))
    async with open_host(launcher, grace_period=float(sys.argv[3]), max_processes=100) as host:
        await host.serve_worker(StreamChannel(stream), "tests", root=sys.argv[1], user_id="ada")

trio.run(main)
"""


class WatchedWorker:
    """A worker whose events and messages are noted."""

    def __init__(self, worker: Worker, root: Path) -> None:
        self.processes = worker.backend_processes
        self.events: list[LifecycleEvent] = []
        self.messages: list[ProcessMessage] = []
        self._root = root
        self._news = trio.lowlevel.ParkingLot()
        self.processes.on_lifecycle(self._note_event)
        self.processes.on_message(self._note_message)

    async def spawn(self, source: str, name: str = "entry.py", **options: Any) -> ProcessHandle:
        """Write an entry and spawn it."""
        (self._root / name).write_text(textwrap.dedent(source))
        return await self.processes.spawn(name, **options)

    def ends(self) -> list[tuple[str, str, str | None]]:
        """Entry, state and error of each process that has ended."""
        return [(event.entry, str(event.state), event.error) for event in self.events if event.state.is_terminal]

    def said(self, payload: object) -> int:
        """How often this has been sent, by whichever process."""
        return sum(message.payload == payload for message in self.messages)

    async def pid_of(self, handle: ProcessHandle) -> int:
        """Wait until a process has sent its number, and return the one that this program has for it."""

        def sent() -> list[int]:
            return [
                message.payload["pid"]
                for message in self.messages
                if message.process_id == handle.process_id and type(message.payload) is dict
            ]

        await self._wait_until(lambda: bool(sent()))
        (pid,) = [pid for pid in descendants_of(os.getpid()) if number_inside(pid) == sent()[0]]
        return pid

    async def wait_said(self, payload: object, times: int = 1) -> None:
        """Wait until this has been sent so often."""
        await self._wait_until(lambda: self.said(payload) >= times)

    async def wait_state(self, state: ProcessState) -> None:
        """Wait until some process is in this state."""
        await self._wait_until(lambda: any(event.state is state for event in self.events))

    async def wait_messages(self, *handles: ProcessHandle, more: int) -> None:
        """Wait until each process has sent so many from now on, or one of them all has ended."""

        def messages_of(handle: ProcessHandle) -> int:
            return sum(message.process_id == handle.process_id for message in self.messages)

        wanted = [(handle, messages_of(handle) + more) for handle in handles]
        ended = len(self.ends())
        await self._wait_until(
            lambda: len(self.ends()) > ended or all(messages_of(handle) >= number for handle, number in wanted)
        )

    async def _wait_until(self, has_come: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        while not has_come():
            await self._news.park()

    def _note_event(self, event: LifecycleEvent) -> None:
        self.events.append(event)
        self._news.unpark_all()

    def _note_message(self, message: ProcessMessage) -> None:
        self.messages.append(message)
        self._news.unpark_all()


def stall(seconds: float) -> None:
    """Hold up this whole program: nothing is read, no deadline looked at, no task run."""
    select.select([], [], [], seconds)


def make_launcher(name: str) -> ForkServerLauncher | PythonLauncher:
    """Make a launcher by its name in the parameters of tests."""
    return ForkServerLauncher(spares=1) if name == "forked" else PythonLauncher()


@asynccontextmanager
async def host_here(launcher: str, root: Path, *, grace_period: float = 5.0) -> AsyncIterator[WatchedWorker]:
    """Open a host and a worker in this program."""
    with trio.fail_after(GUARD_SECONDS):
        async with (
            open_host(make_launcher(launcher), grace_period=grace_period, max_processes=100) as host,
            host.open_worker("tests", root=root, user_id="ada") as worker,
        ):
            yield WatchedWorker(worker, root)


class HostProgram(WatchedWorker):
    """A host in a program of its own, and the worker that it serves."""

    def __init__(self, pid: int, worker: Worker, root: Path) -> None:
        super().__init__(worker, root)
        self.pid = pid

    def stop(self) -> None:
        """Stop the program, and nothing that it has started."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let the program go on."""
        os.kill(self.pid, signal.SIGCONT)

    def stop_children(self) -> None:
        """Stop all that descends from the program."""
        for pid in descendants_of(self.pid):
            signal_if_there(pid, signal.SIGSTOP)

    def let_children_go_on(self) -> None:
        """Let all that descends from the program go on."""
        for pid in descendants_of(self.pid):
            signal_if_there(pid, signal.SIGCONT)


@asynccontextmanager
async def host_program(launcher: str, root: Path, *, grace_period: float = 5.0) -> AsyncIterator[HostProgram]:
    """Run a host program for as long as the block lasts; it has to end well, and all its processes with it."""
    command = [sys.executable, "-c", PROGRAM, str(root), launcher, str(grace_period)]
    with trio.fail_after(GUARD_SECONDS):
        program = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1)
        assert program.stdio is not None
        try:
            async with connect_worker(StreamChannel(program.stdio)) as worker:
                yield HostProgram(program.pid, worker, root)
            assert await program.wait() == 0
        finally:
            if program.returncode is None:
                program.kill()  # its processes go with it, stopped or not
                with trio.CancelScope(shield=True):
                    await program.wait()


def descendants_of(pid: int) -> list[int]:
    """List what a process has started, and what that has started, as long as everybody between them is alive."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread, or the process, has just ended
            for child in map(int, task.read_text().split()):
                found += [child, *descendants_of(child)]
    return found


def signal_if_there(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
