"""One ear for all services of a worker: however many there are, an event goes to whom it concerns."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import trio

from spindle_trio._errors import LaggedError
from spindle_trio._model import LifecycleEvent
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._worker import BackendProcesses

_Note: TypeAlias = Callable[[LifecycleEvent], object]


@uninterrupted
class Listener:
    """Passes the lifecycle events of one worker on: by process, and by key while the process is not known yet."""

    def __init__(self, processes: BackendProcesses) -> None:
        """Begin to listen.

        Raises:
            trio.ClosedResourceError: the worker is closed.
        """
        self._users = 0
        self._by_process: dict[str, _Note] = {}
        self._by_key: dict[str | None, dict[_Note, None]] = {}
        self._unsubscribe = processes.on_lifecycle(self._note)
        self._events = processes.lifecycle_events()

    async def wait_lost(self) -> None:
        """Wait until the worker is closed, or its connection lost. Each event wakes one of those who wait here."""
        while True:
            try:
                await self._events.receive()
            except LaggedError:
                pass
            except trio.EndOfChannel:
                return

    def _note(self, event: LifecycleEvent) -> None:
        with suppress(trio.WouldBlock, LaggedError):
            self._events.receive_nowait()  # nobody waits: keep none of them
        note = self._by_process.get(event.process_id)
        if note is not None:
            note(event)
        else:
            for note in tuple(self._by_key.get(event.key, ())):
                note(event)

    def join(self) -> None:
        """Have one more user."""
        self._users += 1

    def leave(self) -> bool:
        """Have one user less. Returns whether that was the last one; then it listens no more."""
        self._users -= 1
        if not self._users:
            self._unsubscribe()
            self._events.close()
        return not self._users

    def expect(self, key: str | None, note: _Note) -> None:
        """Pass on the events of all processes with a key that nobody else has."""
        self._by_key.setdefault(key, {})[note] = None

    def settle(self, key: str | None, note: _Note, process_id: str | None) -> None:
        """Expect no longer; pass on the events of one process, if there is one."""
        notes = self._by_key[key]
        del notes[note]
        if not notes:
            del self._by_key[key]
        if process_id is not None:
            self._by_process[process_id] = note

    def forget(self, process_id: str) -> None:
        """Pass on the events of a process no longer."""
        self._by_process.pop(process_id, None)


_listeners: weakref.WeakKeyDictionary[BackendProcesses, Listener] = weakref.WeakKeyDictionary()


def listen(processes: BackendProcesses) -> Listener:
    """Join the listener of a worker.

    Raises:
        trio.ClosedResourceError: the worker is closed.
    """
    listener = _listeners.get(processes)
    if listener is None:
        listener = _listeners[processes] = Listener(processes)
    listener.join()
    return listener


def leave(processes: BackendProcesses) -> None:
    """Leave the listener of a worker."""
    listener = _listeners.get(processes)
    if listener is not None and listener.leave():
        del _listeners[processes]
