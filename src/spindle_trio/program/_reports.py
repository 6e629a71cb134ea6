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
_ADVICE: Final = 0.75
"""When to advise, as a part of the heartbeat timeout."""


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
        self._report = controls._report
        self._ready = ready
        self._follow = follow
        self._grace_period = grace_period
        self._remarks = Remarks(controls.send_control if controls.facts.protocol > 1 else _drop)
        self._status = ""
        self._is_reloading = False
        self._stopping = trio.Event()
        self._is_up = trio.Event()
        self._has_beaten = False

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
            self._has_beaten = True
            self._process.heartbeat()
        elif watchdog == "trigger":
            self._process.fail("the program has asked to be ended, by WATCHDOG=trigger")
        self._hear_status(fields)
        if fields.get("READY") == "1":
            self._ready()
            self._is_up.set()

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
            nursery.start_soon(self._advise)
            await self._stopping.wait()
            await self._beat_for_it()

    async def _advise(self) -> None:
        """Tell the author of a program that never beats why it is about to be ended; many programs do not beat."""
        timeout = self._process.heartbeat_timeout
        await self._is_up.wait()
        if timeout == math.inf:
            return
        await trio.sleep(timeout * _ADVICE)
        is_stopping = self._stopping.is_set() or self._process._controls.stop is not None
        if not self._has_beaten and not is_stopping:
            self._report(
                f"spindle_trio: the program has sent no WATCHDOG=1 since it was ready, and is ended {timeout:g} s "
                "after that; if it never sends any, spawn it with heartbeat_timeout=math.inf"
            )

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
