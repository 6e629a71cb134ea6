"""What shows that a program has started up. No deadline is in here: the host has it."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio.program._output import LineCutter

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.2
_ATTEMPT_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.25
_LINE_BYTES: Final = 64 * 1024
"""After this many bytes without a newline, what is there counts as a line."""

_STATUS_LINE_BYTES: Final = 4 * 1024
_HTTP_PORT: Final = 80


class LineSearch:
    """Looks for a line in what a program writes."""

    def __init__(self, pattern: str, found: Callable[[], None]) -> None:
        """Begin.

        Args:
            pattern: a regular expression, found anywhere in a line.
            found: called when it was.

        Raises:
            ValueError: it is none.
        """
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"the pattern of its readiness, {pattern!r}, is no regular expression: {error}") from None
        self._found = found

    def watcher(self) -> Callable[[bytes], None]:
        """Return what looks at one stream; it is called with all that is read."""
        cutter = LineCutter(_LINE_BYTES)

        def look(data: bytes) -> None:
            lines = cutter.feed(data)
            if cutter.is_too_long:
                lines.append(cutter.take_rest())
            if any(self._pattern.search(line.decode(errors="replace")) for line in lines):
                self._found()

        return look


class HttpTarget:
    """Where an HTTP server has to answer."""

    def __init__(self, url: str) -> None:
        """Take a URL apart.

        Raises:
            ValueError: it is no ``http://`` URL with a host.
        """
        from urllib.parse import urlsplit  # which nothing else here needs

        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"the URL of its readiness, {url!r}, is not of the form http://HOST:PORT/PATH")
        self.host: str = parts.hostname
        self.port: int = parts.port or _HTTP_PORT
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"
            "User-Agent: spindle_trio\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        ).encode("ascii", errors="replace")

    async def answers(self) -> bool:
        """Ask once, and return whether the answer is a success or leads elsewhere (status 200 to 399)."""
        async with await trio.open_tcp_stream(self.host, self.port) as stream:
            await stream.send_all(self._request)
            head = b""
            while b"\n" not in head and len(head) < _STATUS_LINE_BYTES:
                data = await stream.receive_some()
                if not data:
                    break
                head += data
        words = head.split(b"\n")[0].split()
        return (
            len(words) >= 2
            and words[0].startswith(b"HTTP/")
            and len(words[1]) == 3
            and words[1].isdigit()
            and 200 <= int(words[1]) < 400
        )


class TcpTarget:
    """Where a server has to accept a connection."""

    def __init__(self, host: str, port: int) -> None:
        """Note it."""
        self.host: str = host
        self.port: int = port

    async def answers(self) -> bool:
        """Connect once."""
        async with await trio.open_tcp_stream(self.host, self.port):
            return True


def is_taken(target: HttpTarget | TcpTarget) -> bool:
    """Whether somebody accepts connections before the program has been started, whose answers would show nothing."""
    try:
        socket.create_connection((target.host, target.port), _LOOK_SECONDS).close()
    except OSError:
        return False
    return True


async def wait_until_it_answers(target: HttpTarget | TcpTarget) -> None:
    """Ask again and again."""
    pause = _FIRST_PAUSE
    while True:
        try:
            with trio.move_on_after(_ATTEMPT_SECONDS):
                if await target.answers():
                    return
        except (OSError, trio.BrokenResourceError):
            pass
        await trio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
