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
"""These mean that the other end is closed."""

_DATAGRAM_BYTES = 1024 * 1024

_IN_FLIGHT_PAUSE_MS = 5
"""Milliseconds before sending a datagram again, if too many descriptors are in transit."""


class Link:
    """This end of the socket. Forked processes have copies and may use them: a datagram is sent in one piece."""

    def __init__(self, sock: _socket.socket) -> None:
        os.set_inheritable(sock.fileno(), False)
        self._socket = sock

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def receive(self) -> dict[str, JsonValue]:
        """Wait for the next datagram.

        Raises:
            EOFError: the host is gone, or has closed the socket to end the server.
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
        data = [write_json(message).encode(errors="surrogatepass")]  # a file's name may have bytes that are not UTF-8
        while True:
            try:
                self._socket.sendmsg(data, ancillary, _socket.MSG_NOSIGNAL)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                # As many descriptors are in transit as one user may have, until the host reads some.
                select.poll().poll(_IN_FLIGHT_PAUSE_MS)
            else:
                return

    def cut(self) -> None:
        """Cut the connection, for all copies of this end."""
        try:
            self._socket.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass  # it is cut already

    def is_over(self, milliseconds: int | None, *pidfds: int) -> bool:
        """Wait until the host is gone, a process has ended, or the time, if any, is over.

        Returns:
            Whether the host or a process is gone.
        """
        poll = select.poll()
        poll.register(self.fileno(), 0)  # poll reports its end all the same
        for pidfd in pidfds:
            poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(milliseconds))
