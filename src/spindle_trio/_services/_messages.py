"""The messages of a service: of one generation after another, through one channel."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Final

import trio

from spindle_trio._errors import LaggedError
from spindle_trio._messages._channel import MessageReceiveChannel, check_most
from spindle_trio._model import JsonValue
from spindle_trio._process_handle import ProcessHandle
from spindle_trio._services._values import ServiceMessage
from spindle_trio._trio_rules import uninterrupted

KEPT_GENERATIONS: Final = 16
"""How many ended generations a channel keeps that nobody reads."""


@uninterrupted
class ServiceMessageChannel(MessageReceiveChannel[ServiceMessage]):
    """The messages of all processes of a service, oldest generation first. Ends when the service is over.

    Nothing is lost: a process whose messages are not read has to wait, and a next generation waits behind the messages
    of the one before. Of ended generations at most 16 are kept; if the oldest is dropped, `LaggedError` counts its
    messages.
    """

    def __init__(self) -> None:
        self._parts: deque[tuple[int, MessageReceiveChannel[JsonValue]]] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._missed = 0
        self._is_over = False
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed " if self._is_closed else ""
        return f"<ServiceMessageChannel {state}generations={[number for number, _ in self._parts]}>"

    async def receive(self) -> ServiceMessage:
        """Wait for the next message and return it; see `MessageReceiveChannel.receive`."""
        return (await self.receive_many(1))[0]

    def receive_nowait(self) -> ServiceMessage:
        """Return the next message if there is one; see `MessageReceiveChannel.receive_nowait`."""
        while (part := self._first()) is not None:
            try:
                return ServiceMessage(part[0], part[1].receive_nowait())
            except trio.EndOfChannel:
                self._parts.popleft()
        raise trio.WouldBlock

    async def receive_many(self, most: int | None = None) -> list[ServiceMessage]:
        """Wait for messages of one generation; return all that are there; see `MessageReceiveChannel.receive_many`."""
        check_most(most)
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            part = self._first()
            if part is None:
                await self._readers.park()
                continue
            number, messages = part
            try:
                return [ServiceMessage(number, payload) for payload in await messages.receive_many(most)]
            except trio.EndOfChannel:
                if self._parts and self._parts[0] is part:
                    self._parts.popleft()
            except trio.ClosedResourceError:
                if self._is_closed:
                    raise

    def _first(self) -> tuple[int, MessageReceiveChannel[JsonValue]] | None:
        """Return the generation to read; `None` if there is none yet.

        Raises:
            LaggedError: messages were dropped.
            trio.EndOfChannel: the service is over, and all has been read.
            trio.ClosedResourceError: this channel was closed.
        """
        if self._is_closed:
            raise trio.ClosedResourceError
        if self._missed:
            missed, self._missed = self._missed, 0
            raise LaggedError(missed)
        if not self._parts and self._is_over:
            raise trio.EndOfChannel
        return self._parts[0] if self._parts else None

    def close(self) -> None:
        """End this subscription; see `MessageReceiveChannel.close`."""
        self._is_closed = True
        for _, messages in self._parts:
            messages.close()
        self._readers.unpark_all()

    async def aclose(self) -> None:
        """Close, and execute a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _add(self, generation: int, process: ProcessHandle) -> None:
        if self._is_closed:
            return
        if len(self._parts) > KEPT_GENERATIONS:
            _, messages = self._parts.popleft()
            self._missed += _count(messages)
            messages.close()
        self._parts.append((generation, process.messages()))
        self._readers.unpark_all()

    def _end(self) -> None:
        self._is_over = True
        self._readers.unpark_all()


def _count(messages: MessageReceiveChannel[JsonValue]) -> int:
    """Count the messages that wait in the channel of a process that has ended."""
    missed = 0
    while True:
        try:
            messages.receive_nowait()
        except LaggedError as error:
            missed += error.missed
        except (trio.EndOfChannel, trio.WouldBlock):
            return missed
        else:
            missed += 1


@uninterrupted
class ServiceMessages:
    """The channels of one service. Held weakly: one that is collected has no reader."""

    def __init__(self) -> None:
        self._channels: list[weakref.ref[ServiceMessageChannel]] = []
        self._current: tuple[int, ProcessHandle] | None = None
        self._is_over = False

    def take(self, generation: int, process: ProcessHandle) -> None:
        """Take a process that has become ready."""
        self._current = (generation, process)
        for channel in self._open():
            channel._add(generation, process)

    def subscribe(self) -> ServiceMessageChannel:
        """Open a channel that begins at the oldest message held of the current process, or of the last one."""
        channel = ServiceMessageChannel()
        self._channels.append(weakref.ref(channel, self._channels.remove))
        if self._current is not None:
            channel._add(*self._current)
        if self._is_over:
            channel._end()
        return channel

    def close(self) -> None:
        """Let each channel end once it has been read."""
        self._is_over = True
        for channel in self._open():
            channel._end()

    def _open(self) -> list[ServiceMessageChannel]:
        # Over a copy: a garbage collection meanwhile removes items from the list.
        return [channel for reference in tuple(self._channels) if (channel := reference()) is not None]
