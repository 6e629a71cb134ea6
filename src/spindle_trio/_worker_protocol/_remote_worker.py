"""The connecting end of the worker protocol: sends requests, mirrors the host's processes, and passes on its events."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

import attrs
import trio

from spindle_trio._errors import PayloadError, PeerProtocolError, SpawnError
from spindle_trio._model import (
    OMITTED,
    JsonValue,
    Limits,
    ProcessCallItem,
    ProcessFilter,
    ProcessGet,
    ProcessInfo,
    ProcessLifecycle,
    ProcessList,
    ProcessMessage,
    ProcessReleaseKey,
    ProcessSend,
    ProcessSendFailed,
    ProcessSpawn,
    ProcessStop,
    ProcessUsage,
    Response,
    SpawnOptions,
    StopOptions,
    WorkerToHost,
)
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker_protocol._checked_copy import checked_copy
from spindle_trio._worker_protocol._lines import UnreadableLineError
from spindle_trio._worker_protocol._pending import Pending, PendingSpawn
from spindle_trio._worker_protocol._remote_process import RemoteProcess
from spindle_trio._worker_protocol._remote_processes import RemoteProcesses
from spindle_trio._worker_protocol._writer import TwoLaneWriter
from spindle_trio.wire import from_json, parse_notice, request_id_of, send_failure

if TYPE_CHECKING:
    from spindle_trio._interfaces import ProcessInterface
    from spindle_trio._model._usage import Usage
    from spindle_trio._worker_protocol._remote_calls import CallLine
    from spindle_trio._worker_protocol._stream_channel import WireChannel, WireMessage

_log = logging.getLogger("spindle_trio.worker_protocol")


@uninterrupted
class RemoteWorker:
    """The host as this end sees it: a `WorkerInterface` over a channel."""

    identifier = "connected"
    is_local: bool = False
    user_id: str | None = None
    """The host alone knows whether the worker is bound to a user."""

    def __init__(self, channel: WireChannel, limits: Limits) -> None:
        self._channel = channel
        self._limits = limits
        self._writer = TwoLaneWriter[WorkerToHost](
            channel, finish=self._finished, refuse=self._refused, max_last_bytes=limits.outbox_bytes
        )
        self._ids = itertools.count(1)
        self._pending: dict[str, Pending] = {}
        self._calls: CallLine | None = None  # made for the first call
        self._processes = RemoteProcesses(self.identifier, limits.lifecycle_events, self._make_process)
        self.lifecycle = self._processes.lifecycle
        self.hub = self._processes.hub
        self._is_lost = False
        # Not cancelled from outside: the block's own clean-up may still have something to say to the host.
        self._life = trio.CancelScope(shield=True)
        self.finished = trio.Event()
        """Set once the channel is closed."""
        self.is_closed = False

    # ---- what the worker asks for

    async def spawn(self, options: SpawnOptions) -> ProcessInterface:
        """Ask for a process and wait until it is ready; see `BackendProcesses.spawn`."""
        self._check_open()
        if options.payload is not OMITTED:
            options = attrs.evolve(options, payload=checked_copy(options.payload, self._limits, "payload")[0])
        if options.metadata is not None:
            metadata, _ = checked_copy(options.metadata, self._limits, "metadata")
            if not isinstance(metadata, dict):
                raise PayloadError("metadata is not an object")
            options = attrs.evolve(options, metadata=metadata)
        pending = PendingSpawn(
            options.keep_key or options.successor_of is not None,
            command=None if isinstance(options.entry, str) else options.entry,
        )
        try:
            await self._ask(ProcessSpawn(self._new_id(), options), pending)
        except (trio.Cancelled, KeyboardInterrupt):
            self._stop_unwanted(pending)  # the answer may have come in the same moment
            raise
        assert pending.process is not None, "a spawn without an error has been joined to its process"
        return pending.process

    async def list(self, wanted: ProcessFilter) -> list[ProcessInfo]:
        """Ask for snapshots of live processes; see `BackendProcesses.list`."""
        found = await self._ask(ProcessList(self._new_id(), wanted), Pending())
        if not isinstance(found, list):
            raise PeerProtocolError("the answer to a list is none")
        return [self._taken(from_json(info, ProcessInfo)) for info in found]

    async def get(self, process_id: str) -> ProcessInfo | None:
        """Ask for one snapshot; see `BackendProcesses.get`."""
        found = await self._ask(ProcessGet(self._new_id(), process_id), Pending())
        return None if found is None else self._taken(from_json(found, ProcessInfo))

    async def usage(self, process_id: str) -> Usage:
        """Ask what one uses now; see `ProcessHandle.usage`."""
        from spindle_trio._model._usage import Usage  # most programs never ask

        return from_json(await self._ask(ProcessUsage(self._new_id(), process_id), Pending()), Usage)

    async def stop(self, process_id: str, options: StopOptions) -> None:
        """Ask for a stop and wait until the process is gone; see `BackendProcesses.stop`."""
        process = self._processes.get(process_id)
        if process is None or process.has_ended:
            await self._ask_stop(process_id, options)  # which gives up its key, if that is kept
        else:
            await process.stop(options)

    async def _ask_stop(self, process_id: str, options: StopOptions) -> None:
        await self._ask(ProcessStop(self._new_id(), process_id, options), Pending())

    async def release_key(self, process_id: str, user_id: str | None) -> None:
        """Give up a kept key; see `BackendProcesses.release_key`."""
        await self._ask(ProcessReleaseKey(self._new_id(), process_id, user_id), Pending())

    async def send(self, process_id: str, payload: object, user_id: str | None) -> None:
        """Send to one; see `BackendProcesses.send`.

        Whether another user's id counts depends on the worker's scope, which the host alone knows: there such a message
        is not delivered, and the next `send` to that process raises `ProcessAccessError`.
        """
        self._check_open()
        process = self._processes.get(process_id)
        if process is None:
            checked_copy(payload, self._limits, "payload")
            raise trio.BrokenResourceError(f"process {process_id} is unknown or has ended")
        await process.send(payload, user_id)

    def _new_id(self) -> str:
        return str(next(self._ids))

    async def _ask(
        self,
        request: ProcessSpawn | ProcessList | ProcessGet | ProcessStop | ProcessReleaseKey | ProcessUsage,
        pending: Pending,
    ) -> JsonValue:
        """Send a request and wait for its answer. If cancelled, the request stands."""
        self._check_open()
        self._pending[request.request_id] = pending
        self._writer.put_urgent(request)
        try:
            await pending.done.wait()
        except (trio.Cancelled, KeyboardInterrupt):
            pending.is_abandoned = True
            raise
        return pending.take()

    def _check_open(self) -> None:
        if self.is_closed:
            raise trio.ClosedResourceError("the worker was closed")
        if self._is_lost or self._writer.is_closed:
            raise trio.BrokenResourceError("the connection to the host is lost")

    def _make_process(self, info: ProcessInfo) -> RemoteProcess:
        return RemoteProcess(
            info,
            limits=self._limits,
            hub=self.hub,
            writer=self._writer,
            calls_of=lambda process: self._call_line().of(process),
            check_open=self._check_open,
            ask_stop=self._ask_stop,
        )

    def _call_line(self) -> CallLine:
        if self._calls is None:
            from spindle_trio._worker_protocol._remote_calls import CallLine

            self._calls = CallLine(
                self._pending, self._writer, limits=self._limits, new_id=self._new_id, check_open=self._check_open
            )
        return self._calls

    def _taken(self, info: ProcessInfo) -> ProcessInfo:
        if (process := self._processes.get(info.process_id)) is not None:
            process.take_snapshot(info)
        return info

    # ---- the connection

    async def run(self) -> None:
        """Read and write until the worker is left. Then the channel has been closed, at once and by force."""
        try:
            with self._life:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
        finally:
            self._lose()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._channel)
            self.finished.set()

    def leave(self) -> None:
        """Close the worker from its own side."""
        self.is_closed = True
        self._lose()
        self._life.cancel()

    async def _write(self) -> None:
        """Send what waits, until nothing can be sent any more. There may still be something to read."""
        await self._writer.run()
        self._fail_pending()

    async def _read(self) -> None:
        """Read until the connection is lost; always, so that nothing waits for this end."""
        while True:
            value: object = None
            try:
                value = await self._channel.receive()
                self._take(parse_notice(value) if isinstance(value, dict) else value)
            except PeerProtocolError as error:
                _log.warning("the host sent an invalid line: %s", error)
                self._fail_unreadable(value, error)
            except (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
                break
        self._lose()

    def _lose(self) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._writer.close()
        self._fail_pending()
        self._processes.lose()

    def _finished(self, value: WorkerToHost) -> WireMessage | None:
        return value if self._calls is None else self._calls.finish(value)

    def _fail_pending(self) -> None:
        for pending in self._pending.values():
            pending.settle(trio.BrokenResourceError("the connection was lost before the answer came"))
        self._pending.clear()

    def _fail_unreadable(self, value: object, error: PeerProtocolError) -> None:
        """End the wait for an answer that cannot be read: no other will come."""
        if isinstance(error, UnreadableLineError):
            request_id = error.request_id
        elif isinstance(value, dict) and value.get("type") == "response":
            request_id = request_id_of(value)
        else:
            return
        if request_id is not None and (pending := self._pending.pop(request_id, None)) is not None:
            pending.settle(error)

    def _refused(self, value: WorkerToHost, error: PayloadError) -> None:
        if isinstance(value, ProcessSend):
            self._processes.take_send_failure(send_failure(value.process_id, error))
        elif (pending := self._pending.pop(value.request_id, None)) is not None:
            pending.settle(error)

    # ---- what the host says

    def _take(self, notice: object) -> None:
        match notice:
            case ProcessLifecycle():
                self._processes.take_event(notice.event, notice.messages)
            case ProcessMessage():
                self._processes.take_message(notice)
            case ProcessSendFailed():
                self._processes.take_send_failure(notice)
            case ProcessCallItem():
                self._call_line().take_item(notice)
            case Response():
                self._take_answer(notice)
            case _:
                raise PeerProtocolError(f"a {type(notice).__name__} is not sent by a host")

    def _take_answer(self, response: Response) -> None:
        pending = self._pending.pop(response.request_id, None)
        if pending is None:
            _log.warning("an answer to request %r, which is not waiting for one", response.request_id)
            return
        error = None if response.error is None else pending.error_in(response)
        if isinstance(pending, PendingSpawn):
            error = self._claim(pending, response, error)
        pending.result = response.result
        pending.settle(error)
        if isinstance(pending, PendingSpawn) and pending.is_abandoned:
            self._stop_unwanted(pending)

    def _claim(self, pending: PendingSpawn, response: Response, error: Exception | None) -> Exception | None:
        """Join an answered spawn to its process; return what it failed with."""
        if isinstance(error, SpawnError):
            self._processes.claim(error.info)
        elif error is None:
            try:
                pending.process = self._processes.claim(from_json(response.result, ProcessInfo))
                pending.process.command = pending.command
            except PeerProtocolError as unreadable:
                return unreadable
        return error

    def _stop_unwanted(self, spawn: PendingSpawn) -> None:
        """Stop the process of a cancelled spawn, if it has been named, without waiting for the answer."""
        if spawn.unwanted_id is not None:
            stop = ProcessStop(self._new_id(), spawn.unwanted_id, unwanted=spawn.uses_kept_keys)
            self._pending[stop.request_id] = Pending()
            self._writer.put_urgent(stop)
