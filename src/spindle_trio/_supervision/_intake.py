"""Reads the two lanes of one process, with back-pressure, and passes on what they carry.

While an inbox is full, messages wait in the pipe and hold up that one child. Once the process is stopping or
ending, reading goes on beyond the bound, up to `Limits.ending_bytes`: the terminal event waits for no reader.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

import trio

from spindle_trio._errors import PeerProtocolError
from spindle_trio._protocol._control_frames import ChildFrame, parse_child_frame, read_child_frame
from spindle_trio._protocol._json_codec import BodyReader, BytesFollowError
from spindle_trio._protocol._payload import PayloadBounds

if TYPE_CHECKING:
    from spindle_trio._messages._inbox import Inbox
    from spindle_trio._model import JsonValue, Limits
    from spindle_trio._protocol._binary import Gathering
    from spindle_trio.abc import FrameLane, LaunchedProcess

CONTROL_FRAMES_AT_A_TIME: Final = 64
"""How many control frames are taken in before other tasks have their turn; a child sends a handful in its life."""

CONTROL_FRAMES_AT_END: Final = 32_768
"""How many are taken in of a process that has ended: more than a socket holds. There are more only where somebody else
has the lane as well, and it cannot be shut; who believed that this comes to an end would never come back."""


class Listener(Protocol):
    """The receiver of what a process sends."""

    @property
    def is_starting(self) -> bool:
        """Whether the process has still to say `ready`."""

    @property
    def reads_on(self) -> bool:
        """Whether reading goes on although the inbox is full."""

    def hear(self, frame: ChildFrame) -> None:
        """Take in one control frame."""

    def control_ended(self) -> None:
        """Hear that the control lane has ended."""

    def breach(self, error: PeerProtocolError) -> None:
        """Hear that the process has broken the protocol."""

    def reading_paused(self, seconds: float) -> None:
        """Hear for how long a full inbox has kept this side from reading."""

    def wake(self) -> None:
        """Call `Intake.take_in_news` soon. Must not do it at once, inside the sender's call."""


class Intake:
    """The reading side of one launched process."""

    __slots__ = (
        "_bounds",
        "_ending_bytes",
        "_gathered",
        "_gathered_bytes",
        "_gathered_control",
        "_has_control",
        "_has_ended",
        "_has_messages",
        "_inbox",
        "_is_broken",
        "_launched",
        "_limits",
        "_listener",
        "_paused_since",
        "_reader",
    )

    def __init__(
        self,
        launched: LaunchedProcess,
        inbox: Inbox,
        limits: Limits,
        bounds: PayloadBounds,
        reader: BodyReader,
        listener: Listener,
    ) -> None:
        """Begin; reads nothing yet.

        Args:
            launched: whose lanes are read.
            inbox: where messages go.
            limits: the host's.
            bounds: those of them that payloads must keep to.
            reader: reads messages under these bounds.
            listener: hears what the process says.
        """
        self._launched = launched
        self._inbox = inbox
        self._limits = limits
        self._bounds = bounds
        self._reader = reader
        self._listener = listener
        self._has_control = self._has_messages = False  # a lane has announced what was not taken in yet
        self._paused_since: float | None = None
        self._ending_bytes = 0
        self._has_ended = False
        self._gathered_control: Gathering | None = None  # a control frame whose bytes follow
        self._gathered: Gathering | None = None  # a message whose bytes follow
        self._gathered_bytes = 0  # of its frames so far
        self._is_broken = False  # after a broken message nothing that follows it can be trusted

    @property
    def is_paused(self) -> bool:
        """Whether a full inbox keeps this side from reading messages."""
        return self._paused_since is not None

    def start(self, start_soon: Callable[[Callable[[], Awaitable[object]]], None]) -> None:
        """Read both lanes from now on.

        Each has a task of its own; but where a lane tells of arrivals, there is none before there is something to read,
        and then `take_in_news` sees to it.

        Args:
            start_soon: starts a task, in a nursery that lives as long as the lanes.
        """
        if not self._launched.control.tell_arrival(self):
            start_soon(self.read_control)
        if not self._launched.messages.tell_arrival(self):
            start_soon(self.read_messages)

    def take_in_news(self, start_soon: Callable[[Callable[[], Awaitable[object]]], None]) -> None:
        """Take in the control frames of which the lane has told, and have messages read of which theirs has.

        What a process has left behind that has ended is for `take_in_all`.
        """
        if self._launched.has_exited():
            return
        if self._has_messages:
            self._has_messages = False
            start_soon(self.read_messages)
        while self._has_control:  # the lane may announce at once what is left in it, without waking the listener
            self._has_control = False
            try:
                self._take_control(self._launched.control.receive_nowait(CONTROL_FRAMES_AT_A_TIME))
            except trio.WouldBlock:
                pass  # a deadline came first, and its judge has taken it in
            except trio.EndOfChannel:
                self._listener.control_ended()
                return
            except PeerProtocolError as error:
                self._listener.breach(error)
                return
            self._launched.control.tell_arrival(self)

    def arrived(self, lane: FrameLane) -> None:
        """Note that there is something to take in, unless the process has ended: `take_in_all` sees to that."""
        if self._launched.has_exited():
            return
        if lane is self._launched.control:
            self._has_control = True
        else:
            self._has_messages = True
        self._listener.wake()

    @trio.lowlevel.enable_ki_protection
    async def read_control(self) -> None:
        """Take in control frames until the lane ends or is broken."""
        try:
            while True:
                self._take_control(await self._launched.control.receive(CONTROL_FRAMES_AT_A_TIME))
        except trio.EndOfChannel:
            self._listener.control_ended()
        except PeerProtocolError as error:
            self._listener.breach(error)

    @trio.lowlevel.enable_ki_protection
    async def read_messages(self) -> None:
        """Take in messages, as far as there is room, until the lane ends or is broken."""
        try:
            while True:
                while not (self._listener.reads_on or self._inbox.room):
                    self._paused_since = trio.current_time()
                    await self._inbox.wait_room()
                    self.account_for_pause()
                    self._paused_since = None
                most = self._limits.inbox_messages if self._listener.reads_on else self._inbox.room
                self._take_messages(await self._launched.messages.receive(most))
        except trio.EndOfChannel:
            pass
        except PeerProtocolError as error:
            self._is_broken = True
            if self._listener.is_starting:
                # The other lane may hold a `ready` that was said before this, and then `spawn` has succeeded.
                self.take_in_control(most=CONTROL_FRAMES_AT_A_TIME)
            self._listener.breach(error)

    def take_in_all(self) -> None:
        """Take in all that a process which has exited has sent: what it said first, then its messages."""
        self._has_ended = True  # and yet there may be no end of messages, where somebody else has the lane as well
        self.take_in_control(most=CONTROL_FRAMES_AT_END)
        try:
            while not self._is_broken:
                self._take_messages(self._launched.messages.receive_nowait(self._limits.inbox_messages))
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass
        except PeerProtocolError as error:
            self._listener.breach(error)

    def take_in_control(self, most: int) -> None:
        """Take in the control frames that have arrived, without waiting: about as many as `most` of them."""
        taken = 0
        try:
            while taken < most:
                bodies = self._launched.control.receive_nowait(CONTROL_FRAMES_AT_A_TIME)
                taken += len(bodies)
                self._take_control(bodies)
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass
        except PeerProtocolError as error:
            self._listener.breach(error)

    def account_for_pause(self) -> None:
        """Tell for how long a full inbox has kept this side from reading, up to now."""
        if self._paused_since is not None:
            now = trio.current_time()
            self._listener.reading_paused(now - self._paused_since)
            self._paused_since = now

    def _take_control(self, bodies: list[bytes]) -> None:
        for body in bodies:
            try:
                frame = self._read_control_frame(body)
            except PeerProtocolError as error:
                self._gathered_control = None
                self._listener.breach(error)
            else:
                if frame is not None:
                    self._listener.hear(frame)

    def _read_control_frame(self, body: bytes) -> ChildFrame | None:
        """Read a frame; `None` if bytes of it follow, the last of which returns it."""
        gathering = self._gathered_control
        try:
            if gathering is None:
                return parse_child_frame(body, self._bounds)
        except BytesFollowError as follow:
            read_child_frame(follow.gathering.value, self._bounds)  # it is refused now, if it is not fit
            self._gathered_control = follow.gathering
            return None
        if not gathering.add(body):
            return None
        self._gathered_control = None
        bounds = self._bounds  # its bytes, which are there by now, are no text
        return read_child_frame(gathering.value, PayloadBounds(bounds.depth, bounds.values))

    def _take_messages(self, bodies: list[bytes]) -> None:
        """Take in messages that have arrived together; those before one that breaks the protocol count."""
        sizes = list(map(len, bodies))
        breach: PeerProtocolError | None = None
        if self._listener.reads_on or self._has_ended:
            whole = self._count_at_end(sizes)
            if whole < len(sizes):
                most = self._limits.ending_bytes
                breach = PeerProtocolError(f"more than {most} bytes of messages sent while it was ending")
                bodies = bodies[:whole]
        payloads: list[JsonValue] = []
        try:
            if self._gathered is None:
                payloads.extend(map(self._reader.read, bodies))  # keeps what it has, whatever is raised
            else:
                self._take_with_bytes(bodies, sizes, payloads)
        except BytesFollowError as follow:
            breach = self._begin_to_gather(follow.gathering, bodies, sizes, payloads) or breach
        except PeerProtocolError as error:
            breach = error
        if payloads:
            self._inbox.put_many(payloads, sizes[: len(payloads)])
        try:
            if breach is not None:
                raise breach
        finally:
            del breach  # its traceback has this frame

    def _begin_to_gather(
        self, gathering: Gathering, bodies: list[bytes], sizes: list[int], payloads: list[JsonValue]
    ) -> PeerProtocolError | None:
        """Go on with frames the first of which, after those that were read, has bytes behind it."""
        self._gathered = gathering
        read = len(payloads)
        self._gathered_bytes = sizes.pop(read)
        try:
            self._take_with_bytes(bodies[read + 1 :], sizes, payloads)
        except PeerProtocolError as error:
            return error
        return None

    def _take_with_bytes(self, bodies: list[bytes], sizes: list[int], payloads: list[JsonValue]) -> None:
        """Read messages some of which have bytes behind them, and put the sizes of whole ones in place of the frames'.

        Raises:
            PeerProtocolError: as for any; the messages before it are there.
        """
        del sizes[len(payloads) :]
        for body in bodies:
            if self._gathered is None:
                try:
                    payloads.append(self._reader.read(body))
                    sizes.append(len(body))
                except BytesFollowError as follow:
                    self._gathered, self._gathered_bytes = follow.gathering, len(body)
                continue
            is_whole = self._gathered.add(body)
            self._gathered_bytes += len(body)
            if is_whole:
                payloads.append(self._gathered.value)
                sizes.append(self._gathered_bytes)
                self._gathered = None

    def _count_at_end(self, sizes: list[int]) -> int:
        """Count what arrives while the process is ending, and return how many of these messages are within bounds."""
        for number, size in enumerate(sizes):
            self._ending_bytes += size
            if self._ending_bytes > self._limits.ending_bytes:
                return number
        return len(sizes)
