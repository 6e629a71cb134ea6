"""The channel that `messages()` returns, in the host, at the far end of a stream and in an `async` child."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Generic, TypeVar

import trio

from spindle_trio._linux._spinning import Spinning
from spindle_trio._trio_rules import uninterrupted

T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")


@uninterrupted
class MessageReceiveChannel(trio.abc.ReceiveChannel[T_co], Generic[T_co]):
    """A subscription to messages: a Trio channel that can also return all that has arrived in one call.

    ``async for message in channel`` lets other tasks run after each message. With many messages, ``receive_many`` lets
    them run once a batch. The two may be mixed.
    """

    @abstractmethod
    async def receive(self) -> T_co:
        """Wait for the next message and return it. If cancelled, nothing is lost.

        Raises:
            trio.EndOfChannel: nothing more will come, and all has been received.
            trio.ClosedResourceError: this channel was closed, possibly while this waited.
            LaggedError: only at the far end of a stream: messages were dropped; the next call goes on.
        """

    @abstractmethod
    def receive_nowait(self) -> T_co:
        """Return the next message if there is one.

        Raises:
            trio.WouldBlock: there is none now.
            trio.EndOfChannel: as in `receive`.
            trio.ClosedResourceError: as in `receive`.
            LaggedError: as in `receive`.
        """

    @abstractmethod
    async def receive_many(self, most: int | None = None) -> list[T_co]:
        """Wait until there is a message, and return all that are there, oldest first: never an empty list.

        However many there are, other tasks run once. If cancelled, nothing is lost.

        Args:
            most: how many messages to return at most; `None` for as many as there are.

        Raises:
            ValueError: `most` is less than 1.
            trio.EndOfChannel: as in `receive`.
            trio.ClosedResourceError: as in `receive`.
            LaggedError: as in `receive`; the previous call returned what came before the gap.
        """

    @abstractmethod
    def close(self) -> None:
        """End this subscription. A waiting reader gets `trio.ClosedResourceError`. May be called twice."""


def check_most(most: int | None) -> None:
    """Refuse a `most` below 1.

    Raises:
        ValueError: it is less than 1.
    """
    if most is not None and most < 1:
        raise ValueError(f"receive_many() returns at least one message, so `most` cannot be {most}")


async def take_or_wait(
    take: Callable[[], R], wait: Callable[[], Awaitable[object]], spinning: Spinning | None = None
) -> R:
    """Call `take` until it does not raise `trio.WouldBlock`, and return its value. Always a checkpoint.

    If cancelled, nothing was taken.

    Args:
        take: looks, without waiting.
        wait: waits until another look may succeed.
        spinning: decides whether to look again for a moment before the first wait.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        taken = take()
    except trio.WouldBlock:
        pass  # do not wait in here: the exception and its frames would live as long as the wait
    else:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return taken
    spin = 0.0 if spinning is None else spinning.begin()
    began = perf_counter()
    while True:
        if spin and perf_counter() - began < spin:
            await trio.lowlevel.checkpoint()  # turns the loop, which takes in what has arrived
        else:
            await wait()
        try:
            taken = take()
        except trio.WouldBlock:
            continue
        if spinning is not None:
            spinning.end(perf_counter() - began)
        return taken
