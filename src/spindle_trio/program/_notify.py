"""Hears what a program says of itself by sd_notify(3), on a datagram socket of its own.

    READY=1                 has started up; after RELOADING=1, has done so again
    WATCHDOG=1              a heartbeat
    WATCHDOG=trigger        fails the process
    STATUS=…                a line for people
    STOPPING=1              ends by itself: its heartbeats are not needed any more, for the grace period
    EXTEND_TIMEOUT_USEC=n   needs so long, from now on, to start or to end
    RELOADING=1             reads its configuration again; comes with MONOTONIC_USEC=n
    ERRNO=n                 why it is going to fail
    MAINPID=n               another process of its tree is the program from now on
    BARRIER=1               wants the descriptor that comes with it closed, once all before it has been heard

Other fields are ignored. Descriptors are closed, whatever they come with. What is broken, or comes from a process that
is not of the program's tree, is ignored and counted.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from spindle_trio._linux._readiness import wait_readable
from spindle_trio.program._senders import is_own

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_BYTES: Final = 64 * 1024
_MOST_DESCRIPTORS: Final = 253  # of the kernel, for one message
_CREDENTIALS: Final = "3i"  # pid, user, group

_IN_A_ROW: Final = 64
"""How many datagrams to hear before other tasks have their turn."""

MOST_WAITING: Final = 4096
"""How many may still wait when the program has ended: more than any system queues by default."""

_LONGEST_USEC: Final = 2**64 - 1


class BrokenNotificationError(Exception):
    """A datagram is no notification; says why."""


class Notification(NamedTuple):
    """One datagram."""

    fields: dict[str, str]
    """The last value of each field."""
    number: dict[str, int]
    """The fields that have to be numbers."""


_NUMBERS: Final = ("ERRNO", "EXTEND_TIMEOUT_USEC", "MAINPID", "MONOTONIC_USEC")


def read_notification(data: bytes) -> Notification:
    """Read one datagram: lines of ``NAME=value``.

    Raises:
        BrokenNotificationError: it is no UTF-8, has no such line, or a known field has an impossible value.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BrokenNotificationError("it is not UTF-8") from None
    if "\0" in text.rstrip("\0"):
        raise BrokenNotificationError("it has a zero byte")
    fields: dict[str, str] = {}
    for line in text.rstrip("\0").split("\n"):
        name, sign, value = line.partition("=")
        if sign and name:
            fields[name] = value
    if not fields:
        raise BrokenNotificationError("it has no line of the form NAME=value")
    numbers: dict[str, int] = {}
    for name in _NUMBERS:
        if name in fields:
            value = fields[name]
            if not (value.isascii() and value.isdecimal() and len(value) <= 20 and int(value) <= _LONGEST_USEC):
                raise BrokenNotificationError(f"{name} is {value[:40]!r}, not a number")
            numbers[name] = int(value)
    return Notification(fields, numbers)


class NotifySocket:
    """The socket."""

    def __init__(self, folder: str, hear: Callable[[Notification], None], report: Callable[[str], None]) -> None:
        """Make it.

        A superuser's program may go on as another user, who has to reach the socket: so its folder can be passed, and
        senders are told apart by their descent. Everybody else's folder is closed to all other users.

        Args:
            folder: where; the host has made it, and removes it, however this process ends.
            hear: called with each notification.
            report: shows a text to the author of the program.

        Raises:
            OSError: the system has refused; nothing is left.
        """
        self.ignored: int = 0
        """How many datagrams were broken or foreign."""
        self._hear = hear
        self._report = report
        self.path: str = f"{folder}/notify"
        """For the variable ``NOTIFY_SOCKET``."""
        is_superuser = os.geteuid() == 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind(self.path)
            os.chmod(self.path, 0o777 if is_superuser else 0o700)
        except BaseException:
            self.close()
            raise

    async def run(self) -> None:
        """Hear what comes, until it is cancelled."""
        while True:
            await wait_readable(self._socket)
            self.take_in()

    def take_in(self, most: int = _IN_A_ROW) -> None:
        """Hear what has been sent by now, up to so many."""
        for _ in range(most):
            try:
                self._receive()
            except BlockingIOError:
                return

    def _receive(self) -> None:
        data, ancillary, flags, _ = self._socket.recvmsg(
            _MOST_BYTES,
            socket.CMSG_SPACE(struct.calcsize(_CREDENTIALS)) + socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS),
            socket.MSG_CMSG_CLOEXEC,
        )
        pid = user = 0
        descriptors: list[int] = []
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid, user, _ = struct.unpack(_CREDENTIALS, content[: struct.calcsize(_CREDENTIALS)])
            elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors += struct.unpack(f"{len(content) // 4}i", content[: len(content) // 4 * 4])
        try:
            if not is_own(pid, user):
                self._ignore("it comes from a process that the program has not started")
            elif flags & socket.MSG_TRUNC:
                self._ignore(f"it is longer than {_MOST_BYTES} bytes")
            else:
                self._hear(read_notification(data))
        except BrokenNotificationError as error:
            self._ignore(str(error))
        finally:
            for fd in descriptors:  # last: with BARRIER=1, the sender waits for that
                os.close(fd)

    def _ignore(self, why: str) -> None:
        self.ignored += 1
        if self.ignored == 1:
            self._report(f"spindle_trio: a notification of the program was ignored: {why}")

    def close(self) -> None:
        """Close the socket, and say how many datagrams were ignored."""
        self._socket.close()
        try:
            os.unlink(self.path)
        except OSError:
            pass  # the program has removed it, or a sandbox forbids that
        if self.ignored > 1:
            self._report(f"spindle_trio: {self.ignored} notifications of the program were ignored in all")
            self.ignored = 0
