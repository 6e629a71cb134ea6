"""Inits of namespaces: the first process of each PID namespace, and the program that makes them.

A namespace begins and ends with its first process: at that end the kernel kills all others in it. So that process only
has to live, and to reap orphans. The server could fork it, but the server has loaded everything that is preloaded for
processes, and copying that takes most of the time of a fork. So the *root*, the lean program that the server itself was
forked from, makes inits in advance, and the server forks processes into their namespaces.

The root is the first process of the namespace around all of them. It ends with the server, and everything in its
namespace ends with it.

Server and root exchange datagrams:

    server → root   make            make an init
                    end NUMBER      kill and reap an init
    init → server   NUMBER          the init is ready; with its pidfd
    root → server   !ERRNO          no init could be made; an init may send it, too
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import sys

from spindle_trio._linux._descriptors import close_all_but
from spindle_trio._linux._parent_death import name_process
from spindle_trio._linux._syscalls import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from collections.abc import Callable
    from typing import NoReturn
else:
    import _signal as signals  # `signal` would load `enum`

AHEAD = 3
"""How many inits to make ahead."""

CLONE_NEWPID = 0x20000000

TOO_MANY = "the limit on namespaces is used up (max_pid_namespaces and the like in /proc/sys/user)"
"""The meaning of ENOSPC here."""

_DATAGRAM_BYTES = 64


class Inits:
    """The inits of one server, from its side."""

    def __init__(self, sock: _socket.socket) -> None:
        """Begin with none.

        Args:
            sock: to the root.
        """
        self._socket = sock
        self._asked = 0

    def fileno(self) -> int:
        """Return the descriptor to the root."""
        return self._socket.fileno()

    def take(self) -> tuple[int, int]:
        """Take an init that is ready, or wait for one, and have others made meanwhile.

        Returns:
            Its number, and a pidfd of it that belongs to the caller.

        Raises:
            OSError: none can be made at the moment.
        """
        while self._asked <= AHEAD:
            self._socket.send(b"make")
            self._asked += 1
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(
                _DATAGRAM_BYTES, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC
            )
            self._asked -= 1
            if not data.startswith(b"!"):
                break
            if not self._asked:  # otherwise another one, requested earlier or later, is on its way
                number = int(data[1:])
                raise OSError(number, TOO_MANY if number == errno.ENOSPC else os.strerror(number))
        if not ancillary:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return int(data), int.from_bytes(ancillary[0][2][:4], sys.byteorder)

    def end(self, number: int) -> None:
        """Have the root end an init, with all that is left in its namespace, unless it has ended already."""
        self._socket.send(b"end %d" % number)


def make_inits(sock: _socket.socket, server: int, prepare: Callable[[int], None]) -> NoReturn:
    """Be the root: make inits until the server has ended.

    Args:
        sock: to the server.
        server: its number.
        prepare: called in each init with its number, before it says that it is ready.
    """
    name_process("spindle root")
    try:
        root = _Root(sock, os.pidfd_open(server), prepare)
        while True:
            root.serve_once()
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # the server has ended
    finally:
        os._exit(0)


class _Root:
    """The state of the root: the inits that live."""

    def __init__(self, sock: _socket.socket, server: int, prepare: Callable[[int], None]) -> None:
        self._socket = sock
        self._server = server
        self._prepare = prepare
        self._own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._last_number = 0
        self._pids: dict[int, int] = {}  # by number
        self._pidfds: dict[int, int] = {}  # by number
        self._numbers: dict[int, int] = {}  # by pidfd
        self._poll = select.poll()
        for fd in (sock.fileno(), server):
            self._poll.register(fd, select.POLLIN)

    def serve_once(self) -> None:
        """Wait for the next thing to do, and do it.

        Raises:
            EOFError: the server has ended; so do the exceptions of a socket that is closed at its other end.
        """
        for fd, _ in self._poll.poll():
            if fd == self._server:
                raise EOFError
            if fd == self._socket.fileno():
                self._obey(self._socket.recv(_DATAGRAM_BYTES))
            else:
                self._reap(self._numbers[fd])

    def _obey(self, request: bytes) -> None:
        if request == b"make":
            self._make()
        elif request:
            pidfd = self._pidfds.get(int(request[3:]))
            if pidfd is not None:
                signals.pidfd_send_signal(pidfd, signals.SIGKILL)
        else:
            raise EOFError

    def _make(self) -> None:
        self._last_number += 1
        try:
            pid = self._fork(self._last_number)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            self._socket.send(b"!%d" % (error.errno or 0))
            return
        self._pids[self._last_number] = pid
        self._pidfds[self._last_number] = pidfd
        self._numbers[pidfd] = self._last_number
        self._poll.register(pidfd, select.POLLIN)

    def _fork(self, number: int) -> int:
        call("unshare", CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                _be_init(self._socket, number, self._prepare)
        finally:
            call("setns", self._own_namespace, CLONE_NEWPID)
        return pid

    def _reap(self, number: int) -> None:
        if os.waitpid(self._pids[number], os.WNOHANG)[0]:
            pidfd = self._pidfds.pop(number)
            self._poll.unregister(pidfd)
            os.close(pidfd)
            del self._numbers[pidfd], self._pids[number]


def _be_init(sock: _socket.socket, number: int, prepare: Callable[[int], None]) -> NoReturn:
    try:
        os.setsid()
        name_process("spindle init")
        # Orphans become its children; with SIGCHLD ignored the kernel reaps them.
        signals.signal(signals.SIGCHLD, signals.SIG_IGN)
        for ignored in (signals.SIGHUP, signals.SIGINT, signals.SIGQUIT, signals.SIGTERM):
            signals.signal(ignored, signals.SIG_IGN)
        try:
            prepare(number)
            pidfd = os.pidfd_open(os.getpid())
        except OSError as error:
            sock.send(b"!%d" % (error.errno or 0))
            raise
        packed = pidfd.to_bytes(4, sys.byteorder)
        sock.sendmsg([b"%d" % number], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
        close_all_but((), first=0)
        while True:
            signals.pause()
    finally:
        os._exit(1)
