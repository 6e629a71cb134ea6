"""Beats from the event loop while a `send` waits, or after the entry has asked for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Beating:
    """Whether and why a runtime beats on behalf of its entry."""

    __slots__ = ("_beat", "_is_beating", "_is_for_good", "_is_ready", "_reasons", "_start_soon", "_timeout")

    def __init__(
        self,
        beat: Callable[[], None],
        timeout: float,
        start_soon: Callable[[Callable[[], Awaitable[object]]], None],
        *,
        is_ready: bool,
    ) -> None:
        """Begin without a reason.

        Args:
            beat: leaves a heartbeat for the host.
            timeout: seconds that may pass between two of them; `math.inf` for no watchdog.
            start_soon: starts the task that beats, once there is one to start.
            is_ready: whether the entry has said `ready`; there are no beats before that.
        """
        self._beat = beat
        self._timeout = timeout
        self._start_soon = start_soon
        self._is_ready = is_ready
        self._reasons = 0
        self._is_for_good = self._is_beating = False

    def ready(self) -> None:
        """Beat from now on if there is a reason: the entry has said `ready`."""
        self._is_ready = True
        self._beat_if_wanted()

    def begin(self) -> None:
        """Beat from now on, until `end` has been called as often."""
        self._reasons += 1
        self._beat_if_wanted()

    def end(self) -> None:
        """Take back one reason to beat."""
        self._reasons -= 1

    def begin_for_good(self) -> None:
        """Beat until the end. May be called twice."""
        if not self._is_for_good:
            self._is_for_good = True
            self.begin()

    def _beat_if_wanted(self) -> None:
        if not self._reasons or not self._is_ready or self._timeout == math.inf:
            return
        self._beat()
        if not self._is_beating:
            self._is_beating = True
            self._start_soon(self._keep_beating)

    async def _keep_beating(self) -> None:
        while self._reasons:
            self._beat()
            await trio.sleep(self._timeout / 3)
        self._is_beating = False
