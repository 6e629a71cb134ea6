"""The objects that users hold: a worker, and its processes. `_process_handle` has the handle on each.

The same classes serve a worker in the host's program and one at the far end of a stream, over a `WorkerInterface`. The
docstrings here state the rules that both share.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from threading import get_ident
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Unpack

import trio

from spindle_trio._model import (
    OMITTED,
    LifecycleEvent,
    ProcessFilter,
    ProcessInfo,
    ProcessMessage,
    ProcessState,
    SpawnArguments,
    StopOptions,
)
from spindle_trio._model._spawn_arguments import options_from, with_options_shown
from spindle_trio._process_handle import OpenProcess, ProcessHandle
from spindle_trio._protocol._payload import PayloadBounds, check_payload
from spindle_trio._trio_rules import other_thread, uninterrupted

if TYPE_CHECKING:
    from spindle_trio._interfaces import WorkerInterface
    from spindle_trio._messages._broadcast import LifecycleChannel
    from spindle_trio._messages._channel import MessageReceiveChannel
    from spindle_trio._model._command import Command

_ANY_DEPTH: Final = 500
"""Deeper than any host will allow, and no more than Python can go."""


@uninterrupted
class Worker:
    """An extension's backend runtime: the parent that spawns processes.

    Opened by `Host.open_worker` or `connect_worker`.
    """

    def __init__(self, port: WorkerInterface) -> None:
        self._port = port
        self._backend_processes = BackendProcesses(port)

    def __repr__(self) -> str:
        state = "closed" if self._port.is_closed else "open"
        return f"<Worker {state} {self.identifier} user={self.user_id!r}>"

    if not TYPE_CHECKING:  # type checkers go on to know each attribute

        def __getattr__(self, name: str) -> NoReturn:
            hint = f"; type: worker.backend_processes.{name}" if hasattr(BackendProcesses, name) else ""
            raise AttributeError(f"a Worker has no attribute {name!r}{hint}", name=name, obj=self)

    @property
    def backend_processes(self) -> BackendProcesses:
        """Everything that the worker can do (`SpindleAPI.backendProcesses`)."""
        return self._backend_processes

    @property
    def identifier(self) -> str:
        """The worker's name."""
        return self._port.identifier

    @property
    def is_local(self) -> bool:
        """Whether its host is in this program, and not at the far end of a stream.

        There a cancelled `spawn` goes on at once, and the host stops the process when it has answered.
        """
        return self._port.is_local

    @property
    def user_id(self) -> str | None:
        """The owner of every process; `None` for an operator-scoped worker, whose spawns name one."""
        return self._port.user_id


@uninterrupted
class BackendProcesses:
    """A worker's processes (`SpindleAPI.backendProcesses`).

    A worker sees only its own processes. In a user-scoped worker every process belongs to the worker's user, and user
    ids given here are ignored. Every call on a closed worker raises `trio.ClosedResourceError`, and one from another
    thread than Trio's `RuntimeError`.
    """

    def __init__(self, port: WorkerInterface) -> None:
        self._port = port
        self._thread = get_ident()

    def __repr__(self) -> str:
        return f"<BackendProcesses {'closed ' if self._port.is_closed else ''}of worker {self._port.identifier}>"

    @with_options_shown
    async def spawn(self, entry: str | os.PathLike[str] | Command, **options: Unpack[SpawnArguments]) -> ProcessHandle:
        """Spawn a process, and return a handle on it once its entry has called `ready()`.

        If it is cancelled, at any point, no process, descriptor or registry entry is left: the process is killed
        at once, and the cancellation goes on when it has been reaped. (At the far end of a stream it goes on at once.)
        With `replace_existing` it first waits until the process that has the key is gone; that wait does not count
        against the startup timeout.

        Args:
            entry: path of the file to run, relative to the worker's root: a text, or a `pathlib.Path`. Or a `Command`:
                a program; then it may have neither `payload` nor `arguments`.
            kind: a label; trimmed; blank means the entry.
            key: makes the process unique per user and kind; trimmed; blank means none.
            payload: a JSON-safe value for the entry.
            metadata: a JSON-safe object, kept on every snapshot and shown to the entry.
            user_id: the owner of the process; required in an operator-scoped worker.
            startup_timeout: seconds within which the entry must call `ready()`.
            heartbeat_timeout: seconds that may pass between two heartbeats; `math.inf` for no watchdog.
            replace_existing: whether a live process with this key is stopped and replaced.
            grace_period: seconds between asking this process to stop and killing it; by default the host's. A worker or
                host that closes gives it no more than the host's.
            replace_grace: seconds that the process replaced by this one has to end; 0 kills it at once. By
                default the host's `replace_grace`, and without that the other's grace period. A process that is past
                its heartbeat deadline is killed at once in any case.
            keep_key: whether the host keeps the key, and this process's place under the limit, when the process ends
                by itself, by a watchdog, or before it is ready: until `successor_of` takes it over, or `release_key`
                gives it up. It is not kept after a stop, a kill, a replacement or a cancelled spawn. While it is kept,
                only a spawn with `replace_existing` can take it, and does so at once.
            successor_of: the id of the ended process whose key is kept: this one takes it over. User, kind and key must
                be the same, and `replace_existing` changes nothing. If this spawn is refused or cancelled, the key is
                still kept for that process.
            environment: variables for this process; they add to and override the environment of the host's processes.
                The interpreter of a forked process runs already, so PYTHONHASHSEED and the like have no effect.
            folder: the working directory, relative to the worker's root and really below it; by default the root.
            arguments: the entry's `sys.argv[1:]`, or `process.argv.slice(2)`.
            resource_limits: what it may use, with all that it starts, as in ``ResourceLimits(memory=2**29)``. What they
                leave open is as the host has it. An end by a limit says so: `PostMortem.limit`.
            sandbox: what the process may reach, with all that it starts; `None` for the host's default.

        Raises:
            ValueError: a timeout or grace period is out of range, a variable or argument is not valid, `keep_key` or
                `successor_of` is given without a key, or `payload` or `arguments` with a command.
            TypeError: an option has the wrong type.
            PayloadError: `payload` or `metadata` is not JSON-safe, or over a limit, or a name is over its limit.
            EntryError: the entry, or the program of a command, may not or cannot be run, or not in `folder`.
            UserRequiredError: the worker is operator-scoped, and `user_id` is missing or blank.
            DuplicateKeyError: the key is taken, and `replace_existing` is false.
            ResourceLimitError: a resource limit is above the host's, or cannot be held here.
            KeyLostError: the key is not kept, or no longer, for a successor of that process.
            ProcessAccessError: `successor_of` names another user's process.
            SpawnRefusedError: `successor_of` names a process with another kind or key.
            ProcessLimitError: the worker has as many live processes as the host allows.
            LaunchError: the process could not be started.
            StartupTimeoutError: it was not ready in time, and was killed.
            StartupFailedError: it ended before it was ready; the error's `result` is what the entry returned, if it
                never called `ready()`.
            StartupCancelledError: it was stopped, replaced or unloaded before it was ready.
            trio.ClosedResourceError: the worker is closed, or closed while this spawn waited for its key.
        """
        self._check_thread("spawn")
        return ProcessHandle(self._port, await self._port.spawn(options_from("spawn", entry, options)))

    @with_options_shown
    def open(
        self, entry: str | os.PathLike[str] | Command, **options: Unpack[SpawnArguments]
    ) -> AbstractAsyncContextManager[ProcessHandle]:
        """Spawn a process for as long as a block lasts: ``async with processes.open("dist/entry.py") as handle: …``.

        Entering does what `spawn` does, with the same arguments and errors. Leaving, by return, error or cancellation,
        stops the process and waits until it is gone: shielded, for at most the grace period and the kill. An error of
        the block is raised bare.
        """
        self._check_thread("open", "reader")
        return OpenProcess(self._port, options_from("open", entry, options))

    async def list(
        self,
        *,
        user_id: str | None = None,
        kind: str | None = None,
        key: str | None = None,
        state: ProcessState | None = None,
    ) -> list[ProcessInfo]:
        """List the live processes that match everything given, oldest first.

        Args:
            user_id: compared as given; ignored in a user-scoped worker.
            kind: compared as given.
            key: compared as given.
            state: one of the live states; a terminal one matches nothing.

        Raises:
            trio.ClosedResourceError: the worker is closed.
        """
        self._check_thread("list")
        return await self._port.list(ProcessFilter(user_id=user_id, kind=kind, key=key, state=state))

    async def get(self, process_id: str) -> ProcessInfo | None:
        """Return a live process's snapshot; `None` if it has ended or there never was one.

        Raises:
            trio.ClosedResourceError: the worker is closed.
        """
        self._check_thread("get")
        _check_id(process_id)
        return await self._port.get(process_id)

    async def stop(
        self,
        process_id: str,
        *,
        user_id: str | None = None,
        reason: str | None = None,
        grace: float | None = None,
        keep_key: bool = False,
    ) -> None:
        """Stop a process, and return when it is gone. Does nothing if it has ended or there never was one.

        If it has ended and its key is kept for a successor, the key is given up: a stop beats the next start.

        The process is asked first, and killed after its grace period. If this is cancelled, the waiting is
        withdrawn; the request is not. A second stop changes nothing, unless its `grace` ends before the grace period
        that runs: then that becomes shorter.

        Args:
            process_id: which process.
            user_id: the expected owner of the process; trimmed.
            reason: shown to the entry's stop handler.
            grace: seconds until it is killed; 0 kills it at once, without asking. By default the process's grace
                period: its spawn's, or the host's.
            keep_key: whether its key stays kept for a successor all the same, if its spawn had `keep_key`.

        Raises:
            ValueError: `grace` is not a finite number of seconds, 0 or more.
            ProcessAccessError: it is another user's; nothing was done.
            PayloadError: the reason is over its limit, or not a str that a frame can carry; nothing was done.
            trio.ClosedResourceError: the worker is closed.
        """
        self._check_thread("stop")
        _check_id(process_id)
        options = StopOptions(user_id=user_id, reason=reason, grace=grace, keep_key=keep_key)
        await self._port.stop(process_id, options)

    async def release_key(self, process_id: str, *, user_id: str | None = None) -> None:
        """Give up the key that is kept for a successor of an ended process. Does nothing if it is not kept.

        A successor that has begun keeps the key. If this is cancelled, the key may have been given up.

        Args:
            process_id: the process that had the key.
            user_id: the expected owner of the process; trimmed.

        Raises:
            ProcessAccessError: it is another user's; nothing was done.
            trio.ClosedResourceError: the worker is closed.
        """
        self._check_thread("release_key")
        _check_id(process_id)
        await self._port.release_key(process_id, user_id)

    async def send(self, process_id: str, payload: object, *, user_id: str | None = None) -> None:
        """Send a message to a process, as soon as there is room for it. If cancelled, it was not sent.

        Args:
            process_id: which process.
            payload: a JSON-safe value.
            user_id: the expected owner of the process; compared as given.

        Raises:
            PayloadError: the payload is not JSON-safe, or over a limit; nothing was sent.
            ProcessAccessError: it is another user's; nothing was sent.
            trio.BrokenResourceError: it has ended, or there never was one.
            trio.ClosedResourceError: the worker is closed.
        """
        self._check_thread("send")
        _check_id(process_id)
        await self._port.send(process_id, payload, user_id)

    def lifecycle_events(self) -> LifecycleChannel[LifecycleEvent]:
        """Open a channel of the lifecycle events of this worker's processes, from now on.

        It never holds up the host: a slow subscriber loses its oldest events, and gets `LaggedError` once.

        Raises:
            trio.ClosedResourceError: the worker is closed.
        """
        self._refuse("lifecycle_events")
        return self._port.lifecycle.subscribe()

    def messages(self) -> MessageReceiveChannel[ProcessMessage]:
        """Open a channel of all messages of this worker's processes, from the oldest that is still held.

        While it is open nothing is lost: a process whose messages it does not read has to wait. Read it one by one, by
        ``async for``, or in batches, by ``receive_many``.

        Raises:
            trio.ClosedResourceError: the worker is closed.
        """
        self._refuse("messages")
        return self._port.hub.subscribe()

    def on_lifecycle(self, handler: Callable[[LifecycleEvent], object]) -> Callable[[], None]:
        """Call a plain function at each transition, in the host's task, before any channel hears of it.

        A handler that raises is logged; nothing else is affected. A handler registered twice counts once.

        Returns:
            A function that unsubscribes it; may be called twice.

        Raises:
            TypeError: it is not a plain function.
            trio.ClosedResourceError: the worker is closed.
        """
        self._refuse("on_lifecycle")
        _check_plain(handler)
        return self._port.lifecycle.add_handler(handler)

    def on_message(self, handler: Callable[[ProcessMessage], object]) -> Callable[[], None]:
        """Call a plain function with each message, in the host's task, as it arrives; at once with those held.

        It counts as a subscription that is never behind. Otherwise as `on_lifecycle`.

        Returns:
            A function that unsubscribes it; may be called twice.

        Raises:
            TypeError: it is not a plain function.
            trio.ClosedResourceError: the worker is closed.
        """
        self._refuse("on_message")
        _check_plain(handler)
        return self._port.hub.add_handler(handler)

    def _check_thread(self, call: str, kind: Literal["plain", "async", "reader"] = "async") -> None:
        if get_ident() != self._thread:
            raise other_thread(call, kind)

    def _refuse(self, call: str) -> None:
        self._check_thread(call, "plain")
        if self._port.is_closed:
            raise trio.ClosedResourceError(f"worker {self._port.identifier!r} is closed")


def check_worker(call: str, worker: object) -> None:
    """Refuse what is no worker, such as a host.

    Args:
        call: the function that takes it.
        worker: the argument.

    Raises:
        TypeError: it is none.
    """
    if not hasattr(worker, "backend_processes"):
        raise TypeError(
            f"{call}() takes a worker, not {worker!r}; type: async with host.open_worker(…) as worker: … "
            f"{call}(worker, …)"
        )


def check_start_payload(payload: object) -> None:
    """Refuse a payload that no host would take; how large it may be, each host says at its spawns.

    Raises:
        PayloadError: it is not JSON-safe.
    """
    if payload is not OMITTED:
        check_payload(payload, PayloadBounds(_ANY_DEPTH, sys.maxsize))


def _check_id(process_id: object) -> None:
    if not isinstance(process_id, str):
        raise TypeError(f"process_id must be a str, not {process_id!r}; type: handle.process_id")


def _check_plain(handler: object) -> None:
    if inspect.iscoroutinefunction(handler):
        raise TypeError("a handler is a plain function, called without waiting; start a task from it if it has to wait")
