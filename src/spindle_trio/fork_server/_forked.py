"""One fork: what is made for a process beforehand, and what the process does before it reads its first frame."""

from __future__ import annotations

import _socket
import gc
import os
import sys

from spindle_trio.child import _program
from spindle_trio.child._page import make_page
from spindle_trio.child._protection import die_with_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class Forked:
    """A process that has been forked, and the host's share of what connects the two."""

    __slots__ = ("_fds", "pid")

    def __init__(self, pid: int, fds: tuple[int, ...]) -> None:
        self.pid: int = pid
        """Its number. Nobody but the server can reap it."""
        self._fds = fds

    def packed_fds(self) -> bytes:
        """Return the descriptors as they travel: pidfd, control, messages, stdout, stderr, page."""
        return b"".join(fd.to_bytes(4, sys.byteorder) for fd in self._fds)

    def close(self) -> None:
        """Close the server's own copies, once they have been sent."""
        for fd in self._fds:
            os.close(fd)


def fork(*, is_spare: bool, link_fd: int) -> Forked:
    """Fork a process.

    Args:
        is_spare: whether nobody waits for it yet, so that it may warm itself up.
        link_fd: the server's socket, which the process must not keep.

    Raises:
        OSError: the system has refused, and nothing is left.
    """
    made: list[int] = []
    try:
        control, child_control = _socket_pair(made)
        messages, child_messages = _socket_pair(made)
        stdout, child_stdout = _pipe(made)
        stderr, child_stderr = _pipe(made)
        page = make_page()
        made.append(page)
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become((child_control, child_messages, page), (child_stdout, child_stderr), server, is_spare)
        pidfd = _open_pidfd(pid)
    except BaseException:
        for fd in made:
            os.close(fd)
        raise
    for fd in (child_control, child_messages, child_stdout, child_stderr):
        os.close(fd)
    return Forked(pid, (pidfd, control, messages, stdout, stderr, page))


def _open_pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except BaseException:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        raise


def _become(lanes: tuple[int, int, int], output: tuple[int, int], server: int, is_spare: bool) -> NoReturn:
    """Turn the copy of the server into a process of its own. Nothing may come out of here."""
    try:
        os.setsid()
        die_with_parent(server)
        for target, fd in enumerate(output, start=1):
            os.dup2(fd, target)
        _close_all_but(lanes)
        _seed_again()
        gc.enable()
        if is_spare and "trio" in sys.modules:
            # Loaded by the server already, for all its processes.
            from spindle_trio.child._trio_program import run_spare
            from spindle_trio.fork_server._rehearsal import rehearse

            run_spare(*lanes, rehearse)
        _program.run_process(*lanes)
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
        _program.report(f"a forked process could not begin: {type(error).__name__}: {error}")
    os._exit(1)


def _close_all_but(kept: tuple[int, ...]) -> None:
    """Close every descriptor but the standard ones and these: the server's socket, and its ends of the lanes."""
    last = 2
    for fd in sorted(kept):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, 1 << 30)


def _seed_again() -> None:
    """Make sure that no two processes draw the same random numbers. `random` itself does it at every fork."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _socket_pair(made: list[int]) -> tuple[int, int]:
    here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    pair = here.detach(), there.detach()
    made += pair
    return pair


def _pipe(made: list[int]) -> tuple[int, int]:
    pair = os.pipe()
    made += pair
    return pair
