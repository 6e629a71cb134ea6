"""The socket between a host and its fork server: datagrams of one JSON object each, with descriptors."""

from __future__ import annotations

import _socket
import errno
import os
import select
import sys

from spindle_trio._protocol._json_text import read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from spindle_trio._model import JsonValue

HOST_GONE = (EOFError, BrokenPipeError, ConnectionResetError)
"""What says that the other end is closed."""

_DATAGRAM_BYTES = 1024 * 1024

_IN_FLIGHT_PAUSE_MS = 5
"""Milliseconds before a datagram is sent again that had too many descriptors on the way before it."""


class Link:
    """This end of the socket. Whoever is forked has a copy, and may use it as well: a datagram is sent in one piece."""

    def __init__(self, sock: _socket.socket) -> None:
        os.set_inheritable(sock.fileno(), False)
        self._socket = sock

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def receive(self) -> dict[str, JsonValue]:
        """Wait for the next datagram.

        Raises:
            EOFError: the host is gone, or wishes the end.
        """
        data = self._socket.recv(_DATAGRAM_BYTES)
        if not data:
            raise EOFError
        message = read_json(data)
        assert isinstance(message, dict)
        return message

    def send(self, message: dict[str, JsonValue], fds: Sequence[int] = ()) -> None:
        """Send a datagram with descriptors; blocks while the host does not read.

        Raises:
            BrokenPipeError: the host is gone.
        """
        packed = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if fds else []
        data = [write_json(message).encode()]
        while True:
            try:
                self._socket.sendmsg(data, ancillary, _socket.MSG_NOSIGNAL)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                # As many descriptors are on their way as one user may have there, until the host has read some.
                select.poll().poll(_IN_FLIGHT_PAUSE_MS)
            else:
                return

    def cut(self) -> None:
        """Cut the connection, for all who have a copy of this end too."""
        try:
            self._socket.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass  # it is cut already

    def is_over(self, milliseconds: int | None, *pidfds: int) -> bool:
        """Wait until the host is gone, one of some processes has ended, or the time is over, if any.

        Returns:
            Whether the host, or any of those, is gone.
        """
        poll = select.poll()
        poll.register(self.fileno(), 0)  # its end is told all the same
        for pidfd in pidfds:
            poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(milliseconds))
