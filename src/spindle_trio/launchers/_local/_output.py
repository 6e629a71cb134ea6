"""Stdout and stderr of a process: always drained, the last part kept, each line passed to the log.

If nobody reads its pipes, a process hangs in `print`. So a task reads them, whatever the process is doing
(`_output_drains`). Nothing waits for a pipe's end: a grandchild may hold it open for as long as it likes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from spindle_trio._model import Limits

__all__ = ["LineLog", "OutputPipe", "OutputTail"]

KEPT_BYTES: Final = 64 * 1024
"""How many bytes to keep of each stream: its last ones."""

LINE_BYTES: Final = 4 * 1024
"""After this many bytes an unfinished line is passed on."""

_LINES_PER_SECOND: Final = Limits().log_lines
_READ_BYTES: Final = 64 * 1024
_LAST_READS: Final = 16
"""How many reads empty a pipe of the largest size that an ordinary user can set (1 MiB)."""


if TYPE_CHECKING:
    Logger: TypeAlias = logging.LoggerAdapter[logging.Logger]
else:
    Logger = logging.LoggerAdapter


_LOGGERS: Final = {
    stream: logging.getLogger(f"spindle_trio.process.{stream}") for stream in ("stdout", "stderr", "fork_server")
}


class OutputTail:
    """The last bytes of a stream, and how many came before them."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self.dropped = 0
        """How many bytes were dropped."""
        self._max_bytes = max_bytes
        self._kept = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes that were read."""
        self._kept += data
        excess = len(self._kept) - self._max_bytes
        if excess > 0:
            del self._kept[:excess]
            self.dropped += excess

    def text(self) -> str:
        """Return the bytes kept, as text, with a replacement sign for what is not UTF-8."""
        return self._kept.decode(errors="replace")


class LineLog:
    """Passes the lines of one process to the log, a limited number each second."""

    def __init__(
        self, process_id: str, attributes: Mapping[str, object] | None = None, lines_per_second: int = _LINES_PER_SECOND
    ) -> None:
        """Begin with no lines.

        Args:
            process_id: begins each line.
            attributes: of the log records.
            lines_per_second: how many lines reach the log, at most.
        """
        self._lines_per_second = lines_per_second
        self.attributes: Mapping[str, object] = attributes or {}
        self._process_id = process_id
        self._window_start = -1.0
        self._window_lines = 0
        self._suppressed = 0

    def write(self, logger: Logger, lines: list[bytes]) -> None:
        """Log each line, or count it as suppressed."""
        now = trio.current_time()
        if not 0 <= now - self._window_start < 1:
            self.report_suppressed(logger)
            self._window_start = now
            self._window_lines = 0
        allowed = min(len(lines), self._lines_per_second - self._window_lines)
        self._window_lines += allowed
        self._suppressed += len(lines) - allowed
        for line in lines[:allowed]:
            logger.info("%s: %s", self._process_id, line.decode(errors="backslashreplace"))

    def report_suppressed(self, logger: Logger) -> None:
        """Log how many lines were suppressed since the last such record."""
        if self._suppressed:
            logger.info("%s: (%d more lines were not logged)", self._process_id, self._suppressed)
            self._suppressed = 0


class OutputPipe:
    """The reading end of the pipe of one stream of a process."""

    def __init__(self, fd: int, stream: str, log: LineLog) -> None:
        """Take over a descriptor and make it non-blocking.

        Args:
            fd: closed by `close()`.
            stream: ``stdout`` or ``stderr``, for the logger's name and the records' attributes.
            log: shared by both streams of a process.
        """
        os.set_blocking(fd, False)
        self.tail = OutputTail()
        self.at_end: bool = False
        """Whether nothing more will be read."""
        self.fd: int = fd
        """The descriptor; -1 once it is closed."""
        self._log = log
        attributes = {**log.attributes, "stream": stream}
        self._logger = Logger(_LOGGERS[stream], attributes)
        self._line = b""
        self._stop_draining: Callable[[OutputPipe], None] | None = None

    def drain_nowait(self) -> None:
        """Read what is in the pipe, without waiting, and not much more than a pipe holds."""
        for _ in range(_LAST_READS + 1):
            if not self.read_once():
                break

    def drained_by(self, stop_draining: Callable[[OutputPipe], None]) -> None:
        """Note who is to be told before this is closed."""
        self._stop_draining = stop_draining

    def close(self) -> None:
        """Close the pipe; what has been read is kept."""
        if self.fd >= 0:
            if self._stop_draining is not None:
                self._stop_draining(self)
            os.close(self.fd)
            self.fd = -1
            self.at_end = True
            if self._line and self._logger.isEnabledFor(logging.INFO):
                self._log.write(self._logger, [self._line])
            self._line = b""
            self._log.report_suppressed(self._logger)

    def read_once(self) -> bool:
        """Read once, up to 64 KiB, and return whether there may be more now."""
        if self.at_end:
            return False
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # the rest of the output is lost, and the host lives on
        if not data:
            self.at_end = True
            return False
        self.tail.feed(data)
        if self._logger.isEnabledFor(logging.INFO):
            *lines, self._line = (self._line + data).split(b"\n")
            if len(self._line) > LINE_BYTES:
                lines.append(self._line)
                self._line = b""
            if lines:
                self._log.write(self._logger, lines)
        return True
