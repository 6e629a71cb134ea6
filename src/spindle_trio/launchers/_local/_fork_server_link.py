"""The host's end of the socket to a fork server: datagrams of one JSON object each, with descriptors.

`spindle_trio.fork_server._link` has the other end. Nothing here waits for the server without a bound. If its socket is
full, requests wait in a queue: a stopped server must not stop its host.
"""

from __future__ import annotations

import errno
import json
import select
import socket
from array import array
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import trio

from spindle_trio._linux._readiness import LOOK_SECONDS, wait_readable, wait_writable
from spindle_trio.launchers._local._forked_process import DESCRIPTORS

__all__ = ["HostLink", "Message"]

_DATAGRAM_BYTES = 64 * 1024

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF)
"""Errors of a send that mean that one end is closed. After any other error the next attempt may work."""

Message = dict[str, object]


class HostLink:
    """This end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.heard_at: float = trio.current_time()
        """When the server last sent something, on Trio's clock."""
        self._socket = sock
        self._unsent: deque[bytes] = deque()
        self._has_unsent = trio.lowlevel.ParkingLot()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    async def wait_readable(self) -> None:
        """Wait until there is something to receive."""
        await wait_readable(self._socket)

    def has_more(self) -> bool:
        """Whether a datagram waits to be received: then this program is late, not the server."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def receive(self) -> tuple[Message, list[int]]:
        """Receive a datagram with its descriptors.

        Raises:
            BlockingIOError: there is none.
            EOFError: the server is gone.
        """
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                _DATAGRAM_BYTES, socket.CMSG_SPACE(DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            raise
        except OSError:
            raise EOFError from None
        if not data:
            raise EOFError
        self.heard_at = trio.current_time()
        message: Message = json.loads(data)
        return message, _descriptors(ancillary)

    def send(self, message: Message) -> None:
        """Send a datagram, or queue it if the server does not read. If the server is gone, drop it."""
        self._unsent.append(json.dumps(message).encode())
        self._send_unsent()
        if self._unsent:
            self._has_unsent.unpark_all()

    async def flush(self) -> None:
        """Send the queue whenever the server reads; never returns."""
        while True:
            while self._unsent:
                await wait_writable(self._socket)
                self._send_unsent()
                if self._unsent:
                    await trio.sleep(LOOK_SECONDS)  # there is room but no memory, or not enough room for a datagram
            await self._has_unsent.park()

    def close(self) -> None:
        """Close the socket: the server sees the end of the stream, and ends."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # a forked copy of this program may have the socket too
        self._socket.close()

    def _send_unsent(self) -> None:
        try:
            while self._unsent:
                self._socket.send(self._unsent[0], socket.MSG_NOSIGNAL)
                self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in _GONE:
                self._unsent.clear()  # whoever reads from it will see


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()
