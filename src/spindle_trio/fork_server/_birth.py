"""A process that is being forked: its lanes, pipes and page, and the reports about it to the host."""

from __future__ import annotations

import _socket
import os

from spindle_trio._linux._descriptors import close_all_but
from spindle_trio._linux._shared_page import make_page

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resource import struct_rusage

    from spindle_trio._model import JsonValue
    from spindle_trio.fork_server._link import Link


class Birth:
    """One process, from the request for it to its end, as the server and the process's init know it."""

    def __init__(self, number: int, link: Link, *, is_spare: bool, expected: str | None) -> None:
        """Make its lanes, pipes and page.

        Args:
            number: identifies it between host and server.
            link: to the host.
            is_spare: whether it is a spare, which no launch waits for.
            expected: the file that a spare is prepared to run; it can run any other as well.

        Raises:
            OSError: the system has refused, and nothing is left.
        """
        self.number: int = number
        self.is_spare: bool = is_spare
        self.expected: str | None = expected
        self.group: str | None = None
        """Its control group, if it has one of its own."""
        self._link = link
        self._made: list[int] = []
        try:
            self._control, control = self._socket_pair()
            self._messages, messages = self._socket_pair()
            self._calls, calls = self._socket_pair()
            self._stdout, stdout = self._pipe()
            self._stderr, stderr = self._pipe()
            self._page = make_page()
            self._made.append(self._page)
        except BaseException:
            self.close()
            raise
        self.lanes: tuple[int, int, int, int] = control, messages, self._page, calls
        """The process's own ends: control, messages, page, calls."""
        self.output: tuple[int, int] = stdout, stderr
        """The writing ends of its stdout and stderr."""

    def announce(self, pidfd: int, other: int) -> None:
        """Tell the host that the process exists.

        Args:
            pidfd: whose end to wait for: the process's, or its init's if the init is its parent.
            other: its init's if the init is not its parent, otherwise the process's.
        """
        message: dict[str, JsonValue] = {"type": "forked", "number": self.number, "spare": self.is_spare}
        if self.expected is not None:
            message["for"] = self.expected
        if self.group is not None:
            message["group"] = self.group
        fds = [pidfd, self._control, self._messages, self._calls, self._stdout, self._stderr, self._page, other]
        self._link.send(message, fds)

    def refuse(self, error: OSError) -> None:
        """Tell the host that the process could not be forked. An init calls this, and must still be reaped itself."""
        self._link.send(refusal(error, self.is_spare) | {"number": self.number})

    def conclude(self, status: int, used: struct_rusage) -> None:
        """Tell the host how the process ended, and what it had used. An init calls this."""
        self._link.send({"type": "ended", "number": self.number, "status": status, "used": figures_of(used)})

    def close(self) -> None:
        """Close all that was made here; the host has its own copies."""
        for fd in self._made:
            os.close(fd)
        self._made.clear()

    def close_all_but_link(self) -> None:
        """Close all descriptors but the one to the host."""
        close_all_but((self._link.fileno(),), first=0)

    def _socket_pair(self) -> tuple[int, int]:
        here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        pair = here.detach(), there.detach()
        self._made += pair
        return pair

    def _pipe(self) -> tuple[int, int]:
        pair = os.pipe()
        self._made += pair
        return pair


def figures_of(used: struct_rusage) -> list[JsonValue]:
    """Return what the host is told of what a process had used: seconds of processor time, and KiB of memory."""
    return [round(used.ru_utime + used.ru_stime, 6), used.ru_maxrss]


def refusal(error: OSError, is_spare: bool) -> dict[str, JsonValue]:
    """Make the datagram that reports a failed fork."""
    text = error.strerror or repr(error)
    return {"type": "not forked", "errno": error.errno or 0, "error": text, "spare": is_spare}
