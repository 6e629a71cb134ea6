"""The calls of a scripted child: a test takes them and answers them frame by frame, truly or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from spindle_trio._protocol._call_frames import (
    IncomingCall,
    encode_answer,
    encode_end,
    encode_failure,
    encode_item,
    read_call,
)
from spindle_trio.testing._memory_process import MemoryProcess

_ANY_LENGTH = 2**32


class ScriptedCalls:
    """What a `ScriptedChild` hears and says about calls. Nothing checks what it says."""

    def __init__(
        self, driven: Callable[[], MemoryProcess], read_until: Callable[[Callable[[], bool], str], Awaitable[None]]
    ) -> None:
        """Made by its child.

        Args:
            driven: returns the process, if it can be driven.
            read_until: reads the control lane until something has been said.
        """
        self._driven = driven
        self._read_until = read_until
        self.cancelled: list[int] = []
        """The ids of cancelled calls, as far as the control lane has been read."""
        self.credits: list[tuple[int, int]] = []
        """The id of a stream, and how many more items it may send; as far as the control lane has been read."""

    async def next(self) -> IncomingCall:
        """Wait for the next call; it has `call_id`, `method`, `payload`, `seconds` and `window`."""
        (body,) = await self._driven().child_calls.receive(1)
        return read_call(body)

    async def wait_cancelled(self, call_id: int) -> None:
        """Wait until a call has been cancelled."""
        await self._read_until(lambda: call_id in self.cancelled, f"cancelled call {call_id}")

    async def wait_credit(self, number: int = 1) -> tuple[int, int]:
        """Wait until credit has been given so many times, and return the last of these: an id, and items."""
        await self._read_until(lambda: len(self.credits) >= number, "given credit")
        return self.credits[number - 1]

    def answer(self, call_id: int, value: object = None) -> None:
        """Answer a call."""
        self.send_raw(encode_answer(call_id, value, _ANY_LENGTH))

    def item(self, call_id: int, value: object) -> None:
        """Send an item of a stream."""
        self.send_raw(encode_item(call_id, value, _ANY_LENGTH))

    def end(self, call_id: int) -> None:
        """End a stream."""
        self.send_raw(encode_end(call_id))

    def fail(self, call_id: int, error: str, text: str, traceback: str | None = None) -> None:
        """Fail a call or a stream by an exception."""
        about: dict[str, object] = {"error": error, "text": text}
        self.send_raw(encode_failure(call_id, about if traceback is None else about | {"traceback": traceback}))

    def refuse(self, call_id: int, *known: str) -> None:
        """Have no handler for a call, only those that are known."""
        self.send_raw(encode_failure(call_id, {"known": list(known)}))

    def say_cancelled(self, call_id: int) -> None:
        """End a call or a stream as cancelled."""
        self.send_raw(encode_failure(call_id, {"cancelled": True}))

    def send_raw(self, body: bytes) -> None:
        """Send any bytes as the body of a frame on the calls lane.

        Raises:
            trio.WouldBlock: the host has not read enough of the earlier ones.
        """
        if not self._driven().child_calls.offer(body):
            raise trio.WouldBlock

    async def send_all_raw(self, bodies: list[bytes]) -> None:
        """Send such frames, and wait whenever the host does not read."""
        await self._driven().child_calls.send_pending(bodies)

    def close_lane(self) -> None:
        """Close the calls lane and live on."""
        self._driven().child_calls.close()

    def hear(self, frame: dict[str, object]) -> None:
        """Note a control frame about a call; called by its child."""
        match frame:
            case {"type": "cancel", "call": int(call_id)}:
                self.cancelled.append(call_id)
            case {"type": "credit", "call": int(call_id), "items": int(items)}:
                self.credits.append((call_id, items))
            case _:
                pass
