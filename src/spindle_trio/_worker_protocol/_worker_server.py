"""The host's end of the worker protocol."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from spindle_trio._errors import PeerProtocolError, SpawnRefusedError
from spindle_trio._model import (
    SURROUNDINGS,
    JsonValue,
    Limits,
    ProcessCall,
    ProcessCallCancel,
    ProcessCallCredit,
    ProcessCallIdle,
    ProcessGet,
    ProcessList,
    ProcessReleaseKey,
    ProcessSend,
    ProcessSpawn,
    ProcessStop,
    ProcessUsage,
    Response,
)
from spindle_trio._model._log_attributes import log_attributes
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker_protocol._lines import UnreadableLineError
from spindle_trio._worker_protocol._notice_sender import (
    ANSWERED_ERRORS,
    NoticeSender,
    Stopping,
    error_answer,
    shortened,
)
from spindle_trio._worker_protocol._waiting_requests import WaitingSpawns
from spindle_trio.wire import parse_request, request_id_of, send_failure, to_json

if TYPE_CHECKING:
    from spindle_trio._interfaces import ServingInterface
    from spindle_trio._worker_protocol._served_calls import ServedCall, ServedCalls
    from spindle_trio._worker_protocol._stream_channel import WireChannel

_log = logging.getLogger("spindle_trio.worker_protocol")

FLUSH_SECONDS: Final = 0.5
"""How long the last events may take to leave once the worker is unloaded: the other end may listen still, or not."""

ANSWER_SECONDS: Final = 30.0
"""For how long a peer may take none of the answers that wait for it before its connection is closed."""

_SLICES: Final = 10
"""Into how many parts that time is cut: a pause of this program costs the peer one of them."""


_Question: TypeAlias = ProcessSpawn | ProcessList | ProcessGet | ProcessUsage
"""A request whose answer is waited for."""


async def serve_worker(
    opening: AbstractAsyncContextManager[ServingInterface],
    channel: WireChannel,
    *,
    limits: Limits,
    allow: frozenset[str] = frozenset(),
) -> None:
    """Open a worker and serve it to the other end of a channel, until either is closed.

    When this returns, the worker's processes have ended and the channel is closed. If it is cancelled, they are ended
    just so (stop, grace period, kill), and the other end hears of it if it still listens.

    Args:
        opening: the worker's scope; leaving it unloads the worker.
        channel: is taken over; nobody else may use it.
        limits: `lifecycle_events` bounds the answers and events that may wait for the other end, and the spawns that
            may wait for their answers. Beyond the first, requests wait until the other end has taken some; if it
            takes none for `ANSWER_SECONDS`, its connection is closed. Beyond the second, a spawn is refused.
        allow: which surroundings of its processes the other end may set.

    Raises:
        Exception: the worker could not be opened, or the channel failed in a way that no channel may.
    """
    failure: Exception | None = None
    # Around the worker's scope: it is the unload that answers pending spawns, and they must not be cancelled before.
    async with trio.open_nursery() as nursery:
        connection = _Connection(channel, nursery, limits.lifecycle_events, allow)
        try:
            async with opening as port:
                await connection.serve(port)
        except Exception as error:
            failure = error
        finally:
            await connection.aclose()
    if failure is not None:
        raise failure


@uninterrupted
class _Connection:
    """One worker that is being served."""

    def __init__(self, channel: WireChannel, nursery: trio.Nursery, max_waiting: int, allow: frozenset[str]) -> None:
        self._channel = channel
        self._allow = allow
        self._nursery = nursery
        self._max_waiting = max_waiting
        self._notices = NoticeSender(channel, self._lose)
        self._writer = self._notices.writer
        self._reading = trio.CancelScope()
        self._writing = trio.CancelScope(shield=True)
        self._pulling = trio.CancelScope(shield=True)
        self._is_lost = False
        self._requests = 0
        self._questions = 0  # those of the requests that wait for no process
        self._waiting_spawns = WaitingSpawns(max_waiting)
        self._served_calls: ServedCalls | None = None  # made for the first call
        self._all_answered = trio.lowlevel.ParkingLot()

    async def serve(self, port: ServingInterface) -> None:
        """Do what the other end asks for, until it has gone, does not listen, or the worker is closed."""
        self._port = port
        self._log = logging.LoggerAdapter(_log, log_attributes(port.identifier, None))
        self._notices.follow(port)
        self._nursery.start_soon(self._write)
        self._nursery.start_soon(self._pull_messages)
        with self._reading:
            await self._read_requests()

    async def aclose(self) -> None:
        """Close the channel, once the last answers and events have left if the other end still listens."""
        with trio.move_on_after(FLUSH_SECONDS, shield=True):
            while self._requests and not self._writer.is_closed:
                await self._all_answered.park()
            await self._writer.wait_flushed()
        self._notices.unfollow()
        self._pulling.cancel()
        self._writing.cancel()
        self._writer.close()
        await trio.aclose_forcefully(self._channel)

    # ---- requests

    async def _read_requests(self) -> None:
        while True:
            try:
                await self._wait_until_answers_are_taken()
                self._accept(await self._channel.receive())
            except PeerProtocolError as error:
                request_id = error.request_id if isinstance(error, UnreadableLineError) else None
                if request_id is None:
                    self._log.warning("worker %s: its peer sent an invalid line: %s", self._port.identifier, error)
                else:
                    self._notices.put(error_answer(request_id, PeerProtocolError(str(error))))
            except (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _wait_until_answers_are_taken(self) -> None:
        """Leave requests unread while too many answers wait: the peer is asking faster than it reads.

        This waits for the peer's own reading and for no process. A stop or send behind such requests is read as
        soon as the peer has taken an answer. One that takes none for long is not reading, and loses its connection.
        """
        slices = 0
        while self._writer.waiting_first + self._questions >= self._max_waiting and not self._is_lost:
            sent = self._writer.sent
            with trio.move_on_after(ANSWER_SECONDS / _SLICES):
                await self._writer.wait_progress()
            slices = slices + 1 if sent == self._writer.sent and self._writer.waiting_first else 0
            if slices == _SLICES:
                self._log.warning(
                    "worker %s: its peer has read no answer for %g s; its connection is closed",
                    self._port.identifier,
                    ANSWER_SECONDS,
                )
                self._lose()
                await trio.lowlevel.checkpoint()

    def _accept(self, value: object) -> None:
        """Begin what a request asks for; never waits, so that requests begin in order."""
        self._notices.speaks_json = isinstance(value, dict)
        try:
            request = parse_request(value) if isinstance(value, dict) else value
            match request:
                case ProcessSend():
                    self._post(request)
                case ProcessCall() | ProcessCallIdle():
                    self._begin_call(request)
                case ProcessCallCredit():
                    self._calls.give_credit(request.request_id, request.items)
                case ProcessCallCancel():
                    self._calls.cancel(request.request_id)
                case ProcessStop():
                    self._port.request_stop(request.process_id, request.options, is_unwanted=request.unwanted)
                    self._notices.put(Stopping(request.request_id))
                case ProcessReleaseKey():
                    self._port.give_up_key(request.process_id, request.user_id)
                    self._notices.put(Response(request.request_id))
                case ProcessSpawn() | ProcessList() | ProcessGet() | ProcessUsage():
                    self._refuse_surroundings(request)
                    self._begin(request)
                case _:
                    raise PeerProtocolError(f"a {type(request).__name__} is not a request")
        except ANSWERED_ERRORS as error:
            request_id = _id_to_answer(value)
            if request_id is None:
                self._log.warning("worker %s: a request that cannot be answered: %s", self._port.identifier, error)
            else:
                self._notices.put(error_answer(request_id, error))

    def _post(self, request: ProcessSend) -> None:
        try:
            self._port.post(request.process_id, request.payload, request.user_id)
        except ANSWERED_ERRORS as error:  # which has been logged
            failure = send_failure(request.process_id, error)
            self._notices.put(attrs.evolve(failure, error=shortened(failure.error)))

    def _refuse_surroundings(self, request: _Question) -> None:
        if isinstance(request, ProcessSpawn):
            for name in sorted(SURROUNDINGS - self._allow):
                if getattr(request.options, name) or getattr(request.options.entry, name, None):
                    raise SpawnRefusedError(
                        f"options.{name}: this host does not let a connected worker set it; "
                        f"to allow it, open the host with allow={{{name!r}}}"
                    )

    def _begin(self, request: _Question) -> None:
        size = None
        if isinstance(request, ProcessSpawn):
            size = self._waiting_spawns.admit_spawn(request.options)
        else:
            self._questions += 1
        self._requests += 1
        self._nursery.start_soon(self._answer, request, size)

    async def _answer(self, request: _Question, size: int | None) -> None:
        # Shielded, since what ends a pending spawn is the unload of the worker: with the grace period, and at once for
        # whoever waits here. A cancelled spawn would be killed without one.
        with trio.CancelScope(shield=True):
            answer = await self._answer_to(request)
        self._notices.put(answer)
        if size is None:
            self._questions -= 1
        else:
            self._waiting_spawns.release(size)
        self._note_answered()

    def _note_answered(self) -> None:
        self._requests -= 1
        if not self._requests:
            self._all_answered.unpark_all()

    @property
    def _calls(self) -> ServedCalls:
        if self._served_calls is None:
            from spindle_trio._worker_protocol._served_calls import ServedCalls

            self._served_calls = ServedCalls(self._notices)
        return self._served_calls

    def _begin_call(self, request: ProcessCall | ProcessCallIdle) -> None:
        call = self._calls.admit(request)
        self._requests += 1
        self._nursery.start_soon(self._serve_call, call)

    async def _serve_call(self, call: ServedCall) -> None:
        await self._calls.serve(self._port, call)
        self._note_answered()

    async def _answer_to(self, request: _Question) -> Response:
        try:
            return Response(request.request_id, result=await self._result_of(request))
        except ANSWERED_ERRORS as error:
            return error_answer(request.request_id, error)

    async def _result_of(self, request: _Question) -> JsonValue:
        match request:
            case ProcessSpawn():
                process = await self._port.spawn(request.options)
                return to_json(self._notices.info_as_of_ready(process))
            case ProcessList():
                return [to_json(info) for info in await self._port.list(request.filter)]
            case ProcessGet():
                info = await self._port.get(request.process_id)
                return None if info is None else to_json(info)
            case ProcessUsage():
                return to_json(await self._port.usage(request.process_id))

    # ---- sending

    async def _pull_messages(self) -> None:
        with self._pulling:
            await self._notices.pull_messages()
            # The worker has been closed from above, and not by its connection; or nothing can be sent any more.
            self._reading.cancel()

    def _lose(self) -> None:
        self._is_lost = True
        if self._served_calls is not None:
            self._served_calls.cancel_all()
        self._writer.close()
        self._writing.cancel()
        self._reading.cancel()

    async def _write(self) -> None:
        with self._writing:
            await self._writer.run()
        self._lose()


def _id_to_answer(value: object) -> str | None:
    """Find the id of a request that was refused; `None` if it is one that is never answered."""
    if isinstance(value, dict):
        return request_id_of(value)
    return None if isinstance(value, ProcessCallCancel | ProcessCallCredit) else getattr(value, "request_id", None)
