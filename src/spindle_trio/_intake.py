"""What one process says: reads its two lanes, with back-pressure, and passes on what has been understood.

Messages wait in the pipe while their inbox is full, and so hold up that one child. Once the process is stopping or
ending, reading goes on beyond the bound, up to `Limits.ending_bytes`: the terminal event waits for no reader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._control import ChildFrame, parse_child_frame
from spindle_trio._errors import PeerProtocolError
from spindle_trio._frames import decode_body
from spindle_trio._payload import bounds_of

if TYPE_CHECKING:
    from spindle_trio._inbox import Inbox
    from spindle_trio._model import Limits
    from spindle_trio.abc import LaunchedProcess

CONTROL_FRAMES_AT_A_TIME: Final = 64
"""How many control frames are taken in before other tasks have their turn; a child sends a handful in its life."""


class Intake:
    """The reading side of one launched process."""

    def __init__(
        self,
        launched: LaunchedProcess,
        inbox: Inbox,
        limits: Limits,
        *,
        is_starting: Callable[[], bool],
        reads_on: Callable[[], bool],
        hear: Callable[[ChildFrame], None],
        control_ended: Callable[[], None],
        breach: Callable[[PeerProtocolError], None],
        excuse: Callable[[float], None],
    ) -> None:
        """Begin; reads nothing yet.

        Args:
            launched: whose lanes are read.
            inbox: where messages go.
            limits: the host's.
            is_starting: tells whether the process has still to say `ready`.
            reads_on: tells whether reading goes on although the inbox is full.
            hear: takes one control frame.
            control_ended: hears that the control lane has ended.
            breach: hears that the process has broken the protocol.
            excuse: takes the seconds for which this side did not read.
        """
        self._launched = launched
        self._inbox = inbox
        self._limits = limits
        self._bounds = bounds_of(limits)
        self._is_starting, self._reads_on = is_starting, reads_on
        self._hear, self._control_ended = hear, control_ended
        self._breach, self._excuse = breach, excuse
        self._paused_since: float | None = None
        self._ending_bytes = 0
        self._is_broken = False  # after a broken message nothing that follows it can be trusted

    @property
    def is_paused(self) -> bool:
        """Whether a full inbox keeps this side from reading messages."""
        return self._paused_since is not None

    @trio.lowlevel.enable_ki_protection
    async def read_control(self) -> None:
        """Take in control frames until the lane ends or is broken."""
        try:
            while True:
                self._take_control(await self._launched.control.receive(CONTROL_FRAMES_AT_A_TIME))
        except trio.EndOfChannel:
            self._control_ended()
        except PeerProtocolError as error:
            self._breach(error)

    @trio.lowlevel.enable_ki_protection
    async def read_messages(self) -> None:
        """Take in messages, as far as there is room, until the lane ends or is broken."""
        try:
            while True:
                while not (self._reads_on() or self._inbox.room):
                    self._paused_since = trio.current_time()
                    await self._inbox.wait_room()
                    self.account_for_pause()
                    self._paused_since = None
                most = self._limits.inbox_messages if self._reads_on() else self._inbox.room
                self._take_messages(await self._launched.messages.receive(most))
        except trio.EndOfChannel:
            pass
        except PeerProtocolError as error:
            self._is_broken = True
            if self._is_starting():
                # The other lane may hold a `ready` that was said before this, and then `spawn` has succeeded.
                self.take_in_control(most=CONTROL_FRAMES_AT_A_TIME)
            self._breach(error)

    def take_in_all(self) -> None:
        """Take in all that a process which has exited has sent: what it said first, then its messages."""
        self.take_in_control(most=None)
        try:
            while not self._is_broken:
                self._take_messages(self._launched.messages.receive_nowait(self._limits.inbox_messages))
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass
        except PeerProtocolError as error:
            self._breach(error)

    def take_in_control(self, most: int | None) -> None:
        """Take in the control frames that have arrived, without waiting: all of them, or about as many as `most`."""
        taken = 0
        try:
            while most is None or taken < most:
                bodies = self._launched.control.receive_nowait(CONTROL_FRAMES_AT_A_TIME)
                taken += len(bodies)
                self._take_control(bodies)
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass
        except PeerProtocolError as error:
            self._breach(error)

    def account_for_pause(self) -> None:
        """Excuse the time for which a full inbox has kept this side from reading, up to now."""
        if self._paused_since is not None:
            now = trio.current_time()
            self._excuse(now - self._paused_since)
            self._paused_since = now

    def _take_control(self, bodies: list[bytes]) -> None:
        for body in bodies:
            try:
                frame = parse_child_frame(body, self._bounds)
            except PeerProtocolError as error:
                self._breach(error)
            else:
                self._hear(frame)

    def _take_messages(self, bodies: list[bytes]) -> None:
        for body in bodies:
            if self._reads_on():
                self._ending_bytes += len(body)
                if self._ending_bytes > self._limits.ending_bytes:
                    most = self._limits.ending_bytes
                    raise PeerProtocolError(f"more than {most} bytes of messages sent while it was ending")
            self._inbox.put(decode_body(body, self._bounds), len(body))
