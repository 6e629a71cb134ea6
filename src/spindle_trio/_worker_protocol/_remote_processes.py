"""The processes of a host as the connecting end knows them: made and kept up to date by what the host says."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from spindle_trio._messages._broadcast import Broadcast
from spindle_trio._messages._hub import MessageHub
from spindle_trio._model._log_attributes import log_attributes
from spindle_trio._trio_rules import uninterrupted
from spindle_trio._worker_protocol._mirror import info_of
from spindle_trio._worker_protocol._pending import send_error_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio._model import LifecycleEvent, ProcessInfo, ProcessMessage, ProcessSendFailed
    from spindle_trio._worker_protocol._remote_process import RemoteProcess

_log = logging.getLogger("spindle_trio.worker_protocol")


@uninterrupted
class RemoteProcesses:
    """One worker's processes at the far end, with those who listen to them here."""

    def __init__(self, identifier: str, max_events: int, make: Callable[[ProcessInfo], RemoteProcess]) -> None:
        """Begin with none.

        Args:
            identifier: the worker's name.
            max_events: how many lifecycle events may wait for one subscriber.
            make: makes the process that is described.
        """
        self._identifier = identifier
        self._make = make
        self._by_id: dict[str, RemoteProcess] = {}
        self.lifecycle: Broadcast[LifecycleEvent] = Broadcast(
            "lifecycle events", max_events, partial(log_attributes, identifier)
        )
        """Their transitions."""
        self.hub: MessageHub = MessageHub(self._log_attributes)
        """Their messages."""

    def get(self, process_id: str) -> RemoteProcess | None:
        """Look up one that has not ended, or whose last messages have still to come."""
        return self._by_id.get(process_id)

    def lose(self) -> None:
        """End all of them: nothing more will be heard."""
        for process in self._by_id.values():
            process.lose()
        self._by_id.clear()
        self.hub.close()
        self.lifecycle.close()

    def take_event(self, event: LifecycleEvent, to_follow: int) -> None:
        """Take in a transition, after whose end so many messages are still to come."""
        process = self._by_id.get(event.process_id)
        if process is None and not event.state.is_terminal:
            process = self._mirror(info_of(event))
        if process is not None:
            process.take_event(event)
        self.lifecycle.publish(event, event.process_id)
        if process is not None and event.state.is_terminal:
            process.end(to_follow)
            self._forget_if_over(process)

    def take_message(self, message: ProcessMessage) -> None:
        """Take in a message of a process."""
        process = self._by_id.get(message.process_id)
        if process is None:
            text = "process %s: a message from it arrived after its end and was dropped"
            _log.warning(text, message.process_id, extra=self._log_attributes(message.process_id))
            return
        process.take_message(message.payload)
        self._forget_if_over(process)

    def take_send_failure(self, failure: ProcessSendFailed) -> None:
        """Take in that a message to a process was not delivered."""
        about = self._log_attributes(failure.process_id)
        _log.warning(
            "process %s: a message for it was not delivered: %s", failure.process_id, failure.error, extra=about
        )
        if (process := self._by_id.get(failure.process_id)) is not None:
            process.note_send_failure(send_error_from(failure))

    def claim(self, info: ProcessInfo) -> RemoteProcess:
        """Join an answered spawn to its process, which has been heard of before; or begin with the answer."""
        process = self._by_id.get(info.process_id) or self._mirror(info)
        process.is_claimed = True
        process.take_snapshot(info)
        self._forget_if_over(process)
        return process

    def _mirror(self, info: ProcessInfo) -> RemoteProcess:
        process = self._by_id[info.process_id] = self._make(info)
        return process

    def _forget_if_over(self, process: RemoteProcess) -> None:
        if process.is_forgettable:
            self._by_id.pop(process.process_id, None)

    def _log_attributes(self, process_id: str) -> dict[str, str | None]:
        process = self._by_id.get(process_id)
        return log_attributes(self._identifier, process_id if process is None else process.info)
