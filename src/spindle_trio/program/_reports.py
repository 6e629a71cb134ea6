"""What a program's notifications mean for its process."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio.program._remarks import Remarks

if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio.child import ProcessContext
    from spindle_trio.program._notify import Notification

_BEATS_PER_TIMEOUT: Final = 3


class Reports:
    """Takes in notifications."""

    def __init__(
        self, process: ProcessContext, ready: Callable[[], None], follow: Callable[[int], object], grace_period: float
    ) -> None:
        """Begin.

        Args:
            process: the context of the shim.
            ready: called at ``READY=1``.
            follow: called with the pid of another process that counts from now on.
            grace_period: for how many seconds a program that is stopping need not beat.
        """
        self.error_number: int | None = None
        """The last ``ERRNO``."""
        controls = process._controls
        self._process = process
        self._ready = ready
        self._follow = follow
        self._grace_period = grace_period
        self._remarks = Remarks(controls.send_control if controls.facts.protocol > 1 else _drop)
        self._status = ""
        self._is_reloading = False
        self._stopping = trio.Event()

    def hear(self, notification: Notification) -> None:
        """Take in one."""
        fields, numbers = notification
        self.error_number = numbers.get("ERRNO", self.error_number)
        if "MAINPID" in numbers:
            self._follow(numbers["MAINPID"])
        if "EXTEND_TIMEOUT_USEC" in numbers:
            self._remarks.ask_for_time(numbers["EXTEND_TIMEOUT_USEC"] / 1_000_000)
        if fields.get("STOPPING") == "1":
            self._stopping.set()
        watchdog = fields.get("WATCHDOG")
        if watchdog == "1":
            self._process.heartbeat()
        elif watchdog == "trigger":
            self._process.fail("the program has asked to be ended, by WATCHDOG=trigger")
        self._hear_status(fields)
        if fields.get("READY") == "1":
            self._ready()

    def _hear_status(self, fields: dict[str, str]) -> None:
        told = "reloading" if self._is_reloading else self._status
        self._status = fields.get("STATUS", self._status)
        if fields.get("RELOADING") == "1":
            self._is_reloading = True
        elif fields.get("READY") == "1":
            self._is_reloading = False
        status = fields.get("STATUS", "reloading") if self._is_reloading else self._status
        if status != told:
            self._remarks.say_status(status)

    async def run(self) -> None:
        """Tell the host what it should know, until this is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._remarks.run)
            await self._stopping.wait()
            await self._beat_for_it()

    async def _beat_for_it(self) -> None:
        timeout = self._process.heartbeat_timeout
        if timeout == math.inf:
            return
        with trio.move_on_after(self._grace_period):
            while True:
                self._process.heartbeat()
                await trio.sleep(timeout / _BEATS_PER_TIMEOUT)

    def close(self) -> None:
        """Tell what is still to be told."""
        self._remarks.tell()


def _drop(_: bytes) -> None:
    """A host that knows no such frame is told nothing."""
