"""Inits of namespaces: the first process of each PID namespace, and the program that makes them.

A namespace begins and ends with its first process: at that end the kernel kills all others in it. So that process only
has to live; orphans become its children, and since it ignores SIGCHLD, the kernel reaps them. The server could make it,
but the server has loaded everything that is preloaded for processes. So the *root*, the lean program that the server
itself was forked from, makes inits in advance, and the server forks processes into their namespaces.

The root makes *bare* inits (`_bare_inits`), or forks them where that does not work.

The root is the first process of the namespace around all of them. It ends with the server, and everything in its
namespace ends with it.

Server and root exchange datagrams:

    server → root   make            make an init
                    end NUMBER      kill and reap an init
    root → server   NUMBER          the init is ready; with its pidfd
                    !ERRNO          no init could be made
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import sys

from spindle_trio._linux._descriptors import close_all_but
from spindle_trio._linux._parent_death import name_process
from spindle_trio._linux._syscalls import CLONE_NEWPID, call
from spindle_trio.fork_server._level import write_kernel_file
from spindle_trio.fork_server._own_proc import mount_own_proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from spindle_trio.fork_server._bare_inits import BareInits

    Settings = Callable[[int], Sequence[tuple[str, str]]]
else:
    import _signal as signals  # `signal` would load `enum`

AHEAD = 3
"""How many inits to make ahead."""

TOO_MANY = "the limit on namespaces is used up (max_pid_namespaces and the like in /proc/sys/user)"
"""The meaning of ENOSPC here."""

_DATAGRAM_BYTES = 64
_NAME = "spindle init"


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


def make_inits(sock: _socket.socket, server: int, *, has_own_proc: bool, settings: Settings) -> NoReturn:
    """Be the root: make inits until the server has ended.

    Args:
        sock: to the server.
        server: its number.
        has_own_proc: whether each namespace has a `/proc` that fits.
        settings: called with the number of an init; returns what it tries to write, and to which files of the kernel's.
    """
    name_process("spindle root")
    # An entry or a terminal may send some of these. Inits have all of it from here, and the root needs no status of an
    # init.
    for ignored in (signals.SIGCHLD, signals.SIGHUP, signals.SIGINT, signals.SIGQUIT, signals.SIGTERM):
        signals.signal(ignored, signals.SIG_IGN)
    try:
        root = _Root(sock, os.pidfd_open(server), has_own_proc, settings)
        while True:
            root.serve_once()
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # the server has ended
    finally:
        os._exit(0)


class _Root:
    """The state of the root: the inits that live."""

    def __init__(self, sock: _socket.socket, server: int, has_own_proc: bool, settings: Settings) -> None:
        self._socket = sock
        self._server = server
        self._has_own_proc = has_own_proc
        self._settings = settings
        self._bare: BareInits | None = None
        self._forks = False  # a fork has worked where a clone had not
        try:
            # Only here: `ctypes` shall not be in the memory of processes, and need not be there at all.
            from spindle_trio.fork_server._bare_inits import BareInits

            self._bare = BareInits(_NAME.encode(), has_own_proc=has_own_proc)
        except (ImportError, OSError):
            pass
        self._own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._last_number = 0
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
                self._forget(fd)

    def _obey(self, request: bytes) -> None:
        if request == b"make":
            self._make()
        elif request:
            pidfd = self._pidfds.get(int(request[3:]))
            if pidfd is not None:
                try:
                    signals.pidfd_send_signal(pidfd, signals.SIGKILL)
                except ProcessLookupError:
                    pass  # it has just ended
        else:
            raise EOFError

    def _make(self) -> None:
        self._last_number += 1
        number = self._last_number
        pidfd = -1
        try:
            pid = self._start(number)
            try:
                pidfd = os.pidfd_open(pid)
                packed = pidfd.to_bytes(4, sys.byteorder)
                self._socket.sendmsg([b"%d" % number], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
            except OSError:
                os.kill(pid, signals.SIGKILL)
                raise
        except OSError as error:
            if pidfd >= 0:
                os.close(pidfd)
            self._socket.send(b"!%d" % (error.errno or 0))  # which fails as well if the server has ended
            return
        self._pidfds[number] = pidfd
        self._numbers[pidfd] = number
        self._poll.register(pidfd, select.POLLIN)

    def _start(self, number: int) -> int:
        """Make an init, wait until it is ready, and return its pid."""
        settings = self._settings(number)
        if self._bare is not None and not self._forks:
            try:
                return self._bare.make(number, settings)
            except OSError:
                pass  # a fork may work, or its error says why none can be made
        pid = self._fork(settings)
        self._forks = True
        return pid

    def _fork(self, settings: Sequence[tuple[str, str]]) -> int:
        told, tell = os.pipe()
        try:
            call("unshare", CLONE_NEWPID)
            try:
                pid = os.fork()
                if pid == 0:
                    _be_init(tell, settings, has_own_proc=self._has_own_proc)
            finally:
                call("setns", self._own_namespace, CLONE_NEWPID)
                os.close(tell)
            said = os.read(told, _DATAGRAM_BYTES)
        finally:
            os.close(told)
        if said != b"0":
            raise OSError(int(said or b"%d" % errno.ESRCH), "an init could not be made")
        return pid

    def _forget(self, pidfd: int) -> None:
        number = self._numbers.pop(pidfd)
        del self._pidfds[number]
        self._poll.unregister(pidfd)
        os.close(pidfd)
        if self._bare is not None:
            self._bare.forget(number)


def _be_init(tell: int, settings: Sequence[tuple[str, str]], *, has_own_proc: bool) -> NoReturn:
    try:
        os.setsid()
        name_process(_NAME)
        if has_own_proc:
            try:
                mount_own_proc()
            except OSError as error:
                os.write(tell, b"%d" % (error.errno or errno.EIO))
                raise
        try:
            for path, text in settings:
                write_kernel_file(path, text)
        except OSError:
            pass  # /proc/sys cannot be written to here, as in a container
        os.write(tell, b"0")
        close_all_but((), first=0)
        while True:
            signals.pause()
    finally:
        os._exit(1)
