"""What the shim tells the host of a program while it runs: its status, and that it needs more time.

A program may say such things as often as it likes. The host hears the latest, twenty times a second at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._protocol._frames import encode_body

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE: Final = 0.05
_STATUS_BYTES: Final = 256


class Remarks:
    """What is still to be told."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        """Begin with nothing.

        Args:
            send: sends a control frame.
        """
        self._send = send
        self._status: str | None = None
        self._until: float | None = None
        self._wake = trio.Event()

    def say_status(self, text: str) -> None:
        """Tell what the program says of its state, as one line; an empty one takes the last one back."""
        self._status = " ".join(text.split()).encode(errors="replace")[:_STATUS_BYTES].decode(errors="ignore")
        self._wake.set()

    def ask_for_time(self, seconds: float) -> None:
        """Tell that the program needs so many seconds, from now on, to start or to end."""
        self._until = trio.current_time() + seconds
        self._wake.set()

    async def run(self) -> None:
        """Tell it, until this is cancelled."""
        while True:
            await self._wake.wait()
            self.tell()
            await trio.sleep(_PAUSE)

    def tell(self) -> None:
        """Tell it now."""
        self._wake = trio.Event()
        if self._status is not None:
            self._send(encode_body({"type": "status", "text": self._status}))
            self._status = None
        if self._until is not None:
            seconds = max(0.0, self._until - trio.current_time())
            self._send(encode_body({"type": "extend", "seconds": round(seconds, 6)}))
            self._until = None
