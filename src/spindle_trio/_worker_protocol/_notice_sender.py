"""What a served worker sends to the other end: answers, events and messages, and what is done if it cannot be sent."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from spindle_trio._errors import PayloadError, SpawnError, SpindleError
from spindle_trio._model import (
    CallFailure,
    LifecycleEvent,
    PostMortem,
    ProcessCallItem,
    ProcessInfo,
    ProcessLifecycle,
    ProcessMessage,
    ProcessSendFailed,
    ProcessState,
    Response,
)
from spindle_trio._model._log_attributes import log_attributes
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker_protocol._mirror import info_after, info_of
from spindle_trio._worker_protocol._writer import TwoLaneWriter
from spindle_trio.wire import error_response, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio._interfaces import ProcessInterface, ServingInterface
    from spindle_trio._worker_protocol._stream_channel import WireChannel, WireMessage

_log = logging.getLogger("spindle_trio.worker_protocol")

ANSWERED_ERRORS: Final = (SpindleError, trio.ClosedResourceError, trio.BrokenResourceError)
"""What a request may fail with. Anything else is a bug on this side, and is raised."""

_LONGEST_TEXT: Final = 4_000
"""Characters that the text of an error may have where it may quote a request; what processes leave behind is longer."""

_SHORT_TEXT: Final = 200
"""Characters that are left of a longer one, and of one that the channel cannot carry."""


@attrs.frozen
class Stopping:
    """The answer to a stop: of all answers the only one without a result, not even null."""

    request_id: str


Notice: TypeAlias = ProcessLifecycle | ProcessMessage | ProcessSendFailed | ProcessCallItem | Response | Stopping


@uninterrupted
class NoticeSender:
    """Sends answers and events before messages, as the other end speaks: in attrs values or in JSON."""

    def __init__(self, channel: WireChannel, lose: Callable[[], None]) -> None:
        """Begin with nothing to send.

        Args:
            channel: nobody else may send on it.
            lose: called when the connection has to be closed, since the channel cannot carry what must not be missed.
        """
        self.writer: TwoLaneWriter[Notice] = TwoLaneWriter(
            channel, finish=self._finished, refuse=self._refused, max_last_bytes=0
        )
        self.speaks_json: bool = True
        """Whether the other end's latest request was in JSON."""
        self.cut_short: Callable[[str], object] | None = None
        """Called with the id of a stream of which the channel cannot carry an item."""
        self._lost_items: dict[str, PayloadError] = {}  # of streams that have still to be answered
        self._lose = lose
        self._starting: dict[str, ProcessInfo] = {}
        self._ready: dict[str, ProcessInfo] = {}  # as of `ready`, until the spawn has been answered
        self._unsent = Counter[str]()  # messages taken in and not sent, by process
        self._unsubscribe: list[Callable[[], None]] = []

    def follow(self, port: ServingInterface) -> None:
        """Send a worker's events from now on, and its messages once `pull_messages` runs."""
        self._port = port
        self._log = logging.LoggerAdapter(_log, log_attributes(port.identifier, None))
        self._unsubscribe = [port.lifecycle.add_handler(self._on_event), port.hub.add_handler(self._on_message)]
        self._messages = port.hub.subscribe()

    def unfollow(self) -> None:
        """Send no more events."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()

    def put(self, notice: Notice) -> None:
        """Send an answer or an event, before all messages that wait."""
        self.writer.put_urgent(notice)

    async def put_in_turn(self, notice: Response | ProcessCallItem) -> None:
        """Queue what may be large as soon as nothing like it waits, messages included; first come, first served.

        Raises:
            trio.BrokenResourceError: nothing can be sent any more.
        """
        await self.writer.put_bulk(notice, size=1)

    def info_as_of_ready(self, process: ProcessInterface) -> ProcessInfo:
        """Tell what a spawn is answered with: by now the process may have gone on, and even ended. Ask once."""
        return self._ready.pop(process.process_id, process.info)

    async def pull_messages(self) -> None:
        """Send messages until the worker has ended or nothing can be sent any more.

        They are taken out of the inboxes one at a time: what is not taken holds up its own process there.
        """
        try:
            while True:
                message = await self._messages.receive()
                await self.writer.put_bulk(message, size=1)
        except (trio.EndOfChannel, trio.BrokenResourceError):
            pass
        finally:
            self._messages.close()

    def _on_event(self, event: LifecycleEvent) -> None:
        if event.state is ProcessState.STARTING:
            self._starting[event.process_id] = info_of(event)
        elif (info := self._starting.pop(event.process_id, None)) is not None and event.state is ProcessState.RUNNING:
            self._ready[event.process_id] = info_after(info, event)
        self.put(ProcessLifecycle(event))

    def _on_message(self, message: ProcessMessage) -> None:
        self._unsent[message.process_id] += 1

    def _finished(self, notice: Notice) -> WireMessage:
        """Write a notice as the other end speaks: in attrs values or in JSON, by its latest request."""
        match notice:
            case Stopping():
                answer = Response(notice.request_id)
                if not self.speaks_json:
                    return answer
                written = to_json(answer)
                del written["result"]
                return written
            case ProcessMessage():
                self._sent(notice.process_id)
            case Response() if self._lost_items and notice.request_id in self._lost_items:
                notice = error_answer(notice.request_id, self._lost_items.pop(notice.request_id))
            case ProcessLifecycle() if notice.event.state.is_terminal:
                notice = attrs.evolve(notice, messages=self._unsent[notice.event.process_id])
        return to_json(notice) if self.speaks_json else notice

    def _sent(self, process_id: str) -> None:
        self._unsent[process_id] -= 1
        if not self._unsent[process_id]:
            del self._unsent[process_id]

    def _refused(self, notice: Notice, error: PayloadError) -> None:
        """Do what is left to do where the channel cannot carry a notice."""
        match notice:
            case Response(error=None):
                self.put(error_answer(notice.request_id, error))
            case Response(error=str(), result=result) if result is not None:
                # The terminal event has it too.
                self._log.warning("worker %s: a result was left out of an answer: %s", self._port.identifier, error)
                self.put(attrs.evolve(notice, result=None))
            case Response(post_mortem=PostMortem()):
                # The terminal event has it too.
                self._log.warning("worker %s: a post-mortem was left out: %s", self._port.identifier, error)
                self.put(attrs.evolve(notice, post_mortem=None))
            case Response(failure=CallFailure(data=data) as failure) if data is not None:
                self._log.warning("worker %s: the data of an error was left out: %s", self._port.identifier, error)
                self.put(attrs.evolve(notice, failure=attrs.evolve(failure, data=None)))
            case Response(error=str(text)) if len(text) > _SHORT_TEXT or notice.failure or notice.known:
                # It may repeat what it refuses, which came in one line and is longer once it is quoted.
                short = text if len(text) <= _SHORT_TEXT else f"{text[: _SHORT_TEXT - 1]}…"
                self.put(Response(notice.request_id, error=short, error_type=notice.error_type))
            case ProcessCallItem():
                self._lost_items[notice.request_id] = error
                if self.cut_short is not None:
                    self.cut_short(notice.request_id)
            case ProcessMessage():
                about = self._port.hub.describe(notice.process_id)
                _log.error("process %s: a message from it was dropped: %s", notice.process_id, error, extra=about)
            case ProcessLifecycle(event=LifecycleEvent(post_mortem=PostMortem() as post_mortem)):
                # What happened matters more than why.
                about = log_attributes(self._port.identifier, notice.event)
                _log.warning("process %s: its post-mortem was dropped: %s", notice.event.process_id, error, extra=about)
                shorter = attrs.evolve(notice.event, error=post_mortem.error, post_mortem=None)
                self.put(attrs.evolve(notice, event=shorter))
            case _:
                # Without an event the other end may have a process that never ends, without an answer a caller.
                self._log.error(
                    "worker %s: its connection is closed, since it cannot carry an answer: %s",
                    self._port.identifier,
                    error,
                )
                self._lose()


def error_answer(request_id: str, error: Exception) -> Response:
    """Answer with an error. A text that quotes what it refuses is cut, since very many answers may wait."""
    answer = error_response(request_id, error)
    if answer.error is None or isinstance(error, SpawnError):
        return answer
    return attrs.evolve(answer, error=shortened(answer.error))


def shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _SHORT_TEXT - 1]}…"
