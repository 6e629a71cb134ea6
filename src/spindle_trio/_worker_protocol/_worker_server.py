"""The host's end of the worker protocol."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from spindle_trio._errors import PayloadError, PeerProtocolError, SpawnError, SpawnRefusedError, SpindleError
from spindle_trio._model import (
    SURROUNDINGS,
    JsonValue,
    LifecycleEvent,
    Limits,
    PostMortem,
    ProcessGet,
    ProcessInfo,
    ProcessLifecycle,
    ProcessList,
    ProcessMessage,
    ProcessSend,
    ProcessSendFailed,
    ProcessSpawn,
    ProcessState,
    ProcessStop,
    Response,
)
from spindle_trio._model._log_attributes import log_attributes
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker_protocol._lines import UnreadableLineError
from spindle_trio._worker_protocol._mirror import info_after, info_of
from spindle_trio._worker_protocol._waiting_spawns import WaitingSpawns
from spindle_trio._worker_protocol._writer import TwoLaneWriter
from spindle_trio.wire import error_response, parse_request, request_id_of, send_failure, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio._interfaces import ServingInterface
    from spindle_trio._worker_protocol._stream_channel import WireChannel, WireMessage

_log = logging.getLogger("spindle_trio.worker_protocol")

FLUSH_SECONDS: Final = 0.5
"""How long the last events may take to leave once the worker is unloaded: the other end may listen still, or not."""

_LONGEST_TEXT: Final = 4_000
"""Characters that the text of an error may have where it may quote a request; what processes leave behind is longer."""

_SHORT_TEXT: Final = 200
"""Characters that are left of a longer one, and of one that the channel cannot carry."""

ANSWER_SECONDS: Final = 30.0
"""For how long a peer may take none of the answers that wait for it before its connection is closed."""

_SLICES: Final = 10
"""Into how many parts that time is cut: a pause of this program costs the peer one of them."""

_ANSWERED_ERRORS: Final = (SpindleError, trio.ClosedResourceError, trio.BrokenResourceError)
"""What a request may fail with. Anything else is a bug on this side, and is raised."""


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


@attrs.frozen
class _Stopping:
    """The answer to a stop: of all answers the only one without a result, not even null."""

    request_id: str


_Notice: TypeAlias = ProcessLifecycle | ProcessMessage | ProcessSendFailed | Response | _Stopping


@uninterrupted
class _Connection:
    """One worker that is being served."""

    def __init__(self, channel: WireChannel, nursery: trio.Nursery, max_waiting: int, allow: frozenset[str]) -> None:
        self._channel = channel
        self._allow = allow
        self._nursery = nursery
        self._max_waiting = max_waiting
        self._writer = TwoLaneWriter[_Notice](channel, finish=self._finished, refuse=self._refused, max_last_bytes=0)
        self._reading = trio.CancelScope()
        self._writing = trio.CancelScope(shield=True)
        self._pulling = trio.CancelScope(shield=True)
        self._is_lost = False
        self._speaks_json = True
        self._requests = 0
        self._questions = 0  # those of the requests that wait for no process
        self._waiting_spawns = WaitingSpawns(max_waiting)
        self._all_answered = trio.lowlevel.ParkingLot()
        self._starting: dict[str, ProcessInfo] = {}
        self._ready: dict[str, ProcessInfo] = {}  # as of `ready`, until the spawn has been answered
        self._unsent = Counter[str]()  # messages taken in and not sent, by process
        self._unsubscribe: list[Callable[[], None]] = []

    async def serve(self, port: ServingInterface) -> None:
        """Do what the other end asks for, until it has gone, does not listen, or the worker is closed."""
        self._port = port
        self._log = logging.LoggerAdapter(_log, log_attributes(port.identifier, None))
        self._unsubscribe = [port.lifecycle.add_handler(self._on_event), port.hub.add_handler(self._on_message)]
        self._messages = port.hub.subscribe()
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
        for unsubscribe in self._unsubscribe:
            unsubscribe()
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
                    self._put(_error_answer(request_id, PeerProtocolError(str(error))))
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
        self._speaks_json = isinstance(value, dict)
        try:
            request = parse_request(value) if isinstance(value, dict) else value
            match request:
                case ProcessSend():
                    self._post(request)
                case ProcessStop():
                    self._port.request_stop(request.process_id, request.options)
                    self._put(_Stopping(request.request_id))
                case ProcessSpawn() | ProcessList() | ProcessGet():
                    self._refuse_surroundings(request)
                    self._begin(request)
                case _:
                    raise PeerProtocolError(f"a {type(request).__name__} is not a request")
        except _ANSWERED_ERRORS as error:
            request_id = request_id_of(value) if isinstance(value, dict) else getattr(value, "request_id", None)
            if request_id is None:
                self._log.warning("worker %s: a request that cannot be answered: %s", self._port.identifier, error)
            else:
                self._put(_error_answer(request_id, error))

    def _post(self, request: ProcessSend) -> None:
        try:
            self._port.post(request.process_id, request.payload, request.user_id)
        except _ANSWERED_ERRORS as error:  # which has been logged
            failure = send_failure(request.process_id, error)
            self._put(attrs.evolve(failure, error=_shortened(failure.error)))

    def _refuse_surroundings(self, request: ProcessSpawn | ProcessList | ProcessGet) -> None:
        if isinstance(request, ProcessSpawn):
            for name in sorted(SURROUNDINGS - self._allow):
                if getattr(request.options, name):
                    raise SpawnRefusedError(
                        f"options.{name}: this host does not let a connected worker set it; "
                        f"to allow it, open the host with allow={{{name!r}}}"
                    )

    def _begin(self, request: ProcessSpawn | ProcessList | ProcessGet) -> None:
        size = None
        if isinstance(request, ProcessSpawn):
            size = self._waiting_spawns.admit(request.options)
        else:
            self._questions += 1
        self._requests += 1
        self._nursery.start_soon(self._answer, request, size)

    async def _answer(self, request: ProcessSpawn | ProcessList | ProcessGet, size: int | None) -> None:
        # Shielded, since what ends a pending spawn is the unload of the worker: with the grace period, and at once for
        # whoever waits here. A cancelled spawn would be killed without one.
        with trio.CancelScope(shield=True):
            answer = await self._answer_to(request)
        self._put(answer)
        if size is None:
            self._questions -= 1
        else:
            self._waiting_spawns.release(size)
        self._requests -= 1
        if not self._requests:
            self._all_answered.unpark_all()

    async def _answer_to(self, request: ProcessSpawn | ProcessList | ProcessGet) -> Response:
        try:
            return Response(request.request_id, result=await self._result_of(request))
        except _ANSWERED_ERRORS as error:
            return _error_answer(request.request_id, error)

    async def _result_of(self, request: ProcessSpawn | ProcessList | ProcessGet) -> JsonValue:
        match request:
            case ProcessSpawn():
                process = await self._port.spawn(request.options)
                # As of `ready`: by now the process may have gone on, and even ended.
                return to_json(self._ready.pop(process.process_id, process.info))
            case ProcessList():
                return [to_json(info) for info in await self._port.list(request.filter)]
            case ProcessGet():
                info = await self._port.get(request.process_id)
                return None if info is None else to_json(info)

    # ---- what the worker hears

    def _on_event(self, event: LifecycleEvent) -> None:
        if event.state is ProcessState.STARTING:
            self._starting[event.process_id] = info_of(event)
        elif (info := self._starting.pop(event.process_id, None)) is not None and event.state is ProcessState.RUNNING:
            self._ready[event.process_id] = info_after(info, event)
        self._put(ProcessLifecycle(event))

    def _on_message(self, message: ProcessMessage) -> None:
        self._unsent[message.process_id] += 1

    async def _pull_messages(self) -> None:
        """Take messages out of the inboxes one at a time: what is not taken holds up its own process there."""
        with self._pulling:
            try:
                while True:
                    message = await self._messages.receive()
                    await self._writer.put_bulk(message, size=1)
            except trio.EndOfChannel:
                # The worker has been closed from above, and not by its connection.
                self._reading.cancel()
            except trio.BrokenResourceError:
                pass  # the writer is done, and has said so
        self._messages.close()

    # ---- sending

    def _put(self, notice: _Notice) -> None:
        self._writer.put_urgent(notice)

    def _lose(self) -> None:
        self._is_lost = True
        self._writer.close()
        self._writing.cancel()
        self._reading.cancel()

    async def _write(self) -> None:
        with self._writing:
            await self._writer.run()
        self._lose()

    def _finished(self, notice: _Notice) -> WireMessage:
        """Write a notice as the other end speaks: in attrs values or in JSON, by its latest request."""
        match notice:
            case _Stopping():
                answer = Response(notice.request_id)
                if not self._speaks_json:
                    return answer
                written = to_json(answer)
                del written["result"]
                return written
            case ProcessMessage():
                self._sent(notice.process_id)
            case ProcessLifecycle() if notice.event.state.is_terminal:
                notice = attrs.evolve(notice, messages=self._unsent[notice.event.process_id])
        return to_json(notice) if self._speaks_json else notice

    def _sent(self, process_id: str) -> None:
        self._unsent[process_id] -= 1
        if not self._unsent[process_id]:
            del self._unsent[process_id]

    def _refused(self, notice: _Notice, error: PayloadError) -> None:
        """Do what is left to do where the channel cannot carry a notice."""
        match notice:
            case Response(error=None):
                self._put(_error_answer(notice.request_id, error))
            case Response(error=str(), result=result) if result is not None:
                # The terminal event has it too.
                self._log.warning("worker %s: a result was left out of an answer: %s", self._port.identifier, error)
                self._put(attrs.evolve(notice, result=None))
            case Response(error=str(text)) if len(text) > _SHORT_TEXT:
                # It may repeat what it refuses, which came in one line and is longer once it is quoted.
                self._put(
                    Response(notice.request_id, error=f"{text[: _SHORT_TEXT - 1]}…", error_type=notice.error_type)
                )
            case ProcessMessage():
                about = self._port.hub.describe(notice.process_id)
                _log.error("process %s: a message from it was dropped: %s", notice.process_id, error, extra=about)
            case ProcessLifecycle(event=LifecycleEvent(post_mortem=PostMortem() as post_mortem)):
                # What happened matters more than why.
                about = log_attributes(self._port.identifier, notice.event)
                _log.warning("process %s: its post-mortem was dropped: %s", notice.event.process_id, error, extra=about)
                shorter = attrs.evolve(notice.event, error=post_mortem.error, post_mortem=None)
                self._put(attrs.evolve(notice, event=shorter))
            case _:
                # Without an event the other end may have a process that never ends, without an answer a caller.
                self._log.error(
                    "worker %s: its connection is closed, since it cannot carry an answer: %s",
                    self._port.identifier,
                    error,
                )
                self._lose()


def _error_answer(request_id: str, error: Exception) -> Response:
    """Answer with an error. A text that quotes what it refuses is cut, since very many answers may wait."""
    answer = error_response(request_id, error)
    if answer.error is None or isinstance(error, SpawnError):
        return answer
    return attrs.evolve(answer, error=_shortened(answer.error))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _SHORT_TEXT - 1]}…"
