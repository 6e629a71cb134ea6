"""Shared by the contract tests: entries, running one to its end, and waiting for events instead of time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from spindle_trio import LifecycleEvent, ProcessHandle, ProcessState, Worker

WAITS = """
async def run(process):
    process.ready()
    await trio.sleep_forever()
"""
"""Is ready at once, and ends when it is asked to."""

NEVER_READY = """
async def run(process):
    await trio.sleep_forever()
"""

IGNORES_STOP = """
async def run(process):
    process.on_stop(print)
    process.ready()
    await trio.sleep_forever()
"""
"""Hears of a stop, and leaves it to the host to end it."""

ENDS_WHEN_TOLD = """
async def run(process):
    process.on_stop(lambda notice: process.send_nowait({"stop": notice.reason}))
    channel = process.messages()
    process.ready()
    while await channel.receive() != "end":
        pass
    return process.complete(process.payload)
"""
"""Says that it was asked to stop, and ends once it gets the message "end", with its payload as the result."""

ECHO = """
async def run(process):
    process.ready()
    process.beat_while_running()
    async for payload in process.messages():
        await process.send(payload)
"""


async def wait_until(worker: Worker, condition: Callable[[], object]) -> None:
    """Wait until something holds that changes with a lifecycle event; looks at once and after each event."""
    events = worker.backend_processes.lifecycle_events()
    try:
        while not condition():
            await events.receive()
    finally:
        events.close()


async def run_to_end(world: Any, entry: str, *, host: dict[str, Any] | None = None, **options: Any) -> ProcessHandle:
    """Spawn an entry in a worker of its own, and return the handle once the process has ended by itself."""
    async with world.worker(**(host or {})) as worker:
        handle: ProcessHandle = await worker.backend_processes.spawn(entry, **options)
        await handle.wait_ended()
    return handle


async def wait_state(worker: Worker, process_id: str | None, *states: ProcessState) -> LifecycleEvent:
    """Wait until a process, or any, enters one of these states."""
    async with worker.backend_processes.lifecycle_events() as events:
        async for event in events:
            if process_id in (None, event.process_id) and event.state in states:
                return event
    raise AssertionError(f"the worker has closed, and nobody has entered {states}")


def stderr_of(handle: ProcessHandle) -> str:
    """Return what a process has written to stderr.

    Only the error of an unasked exit shows it in public, and most ends are none; in memory there is no log of it.
    """
    launched = handle._process.record.launched  # type: ignore[attr-defined]  # the port of a worker in this program
    tail: str = launched.stderr_tail()
    return tail


def exists(pid: int) -> bool:
    """Whether a process with this pid is alive. A zombie is not; the fixtures report it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Gate:
    """A named pipe at which a real entry waits, in a plain `open(path).read()`, until the test lets it through."""

    def __init__(self, root: Path, name: str = "gate") -> None:
        self.path = root / name
        os.mkfifo(self.path)
        self._fd = -1

    async def wait_reached(self) -> None:
        """Wait until the entry has opened the pipe."""
        self._fd = await trio.to_thread.run_sync(os.open, self.path, os.O_WRONLY, abandon_on_cancel=True)

    def open(self) -> None:
        """Let the entry through."""
        os.close(self._fd)
